package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"

	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// Dial opens a connection to a peer's agent: TCP, TLS with both keys proved, and the preambles. ctx and DialTimeout bound all of that.
// Errors that callers tell apart: hostkey.ErrUntrusted (the address answers with another key), hostkey.ErrRefusedByPeer,
// wire.ErrRefused and wire.ErrVersion.
func Dial(ctx context.Context, address string, own hostkey.Identity, peer hostkey.Peer, p wire.Preamble) (*tls.Conn, error) {
	config, err := hostkey.ClientTLS(own, hostkey.Pinned(peer))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, DialTimeout, errDialTimeout)
	defer cancel()
	dialer := net.Dialer{KeepAliveConfig: keepAlive, Control: boundUnacknowledged}
	raw, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect to %s at %s: %w", peer.Name, address, err)
	}
	// Whatever blocks below ends with ctx.
	stop := context.AfterFunc(ctx, func() { raw.Close() })
	conn := tls.Client(raw, config)
	err = conn.HandshakeContext(ctx)
	if err == nil {
		err = wire.Greet(conn, p)
	}
	if !stop() && err == nil {
		err = net.ErrClosed
	}
	if err != nil {
		raw.Close()
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, fmt.Errorf("connect to %s at %s: %w", peer.Name, address, hostkey.Explain(err, own.Public()))
	}
	return conn, nil
}
