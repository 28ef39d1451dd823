package hostkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

// Truster decides which keys are trusted. Store is one.
type Truster interface {
	// Lookup returns the peer with a key, or an error that is ErrUntrusted.
	Lookup(key PublicKey) (Peer, error)
}

// Pinned trusts exactly one peer: the one that a command means.
type Pinned Peer

// Lookup implements Truster.
func (p Pinned) Lookup(key PublicKey) (Peer, error) {
	if key != p.Key {
		return Peer{}, fmt.Errorf("%w: expected %s with key %s, peer has %s", ErrUntrusted, p.Name, p.Key.Fingerprint(), key.Fingerprint())
	}
	return Peer(p), nil
}

// ServerTLS returns the configuration for an agent's listener: TLS 1.3, and a client proves a key that trust knows.
func ServerTLS(identity Identity, trust Truster) (*tls.Config, error) {
	config, err := baseConfig(identity, trust)
	if err != nil {
		return nil, err
	}
	config.ClientAuth = tls.RequireAnyClientCert // the key is checked by VerifyConnection
	// A resumed session would skip the certificate, and with it a key that was removed meanwhile.
	config.SessionTicketsDisabled = true
	return config, nil
}

// ClientTLS returns the configuration for a dialler: TLS 1.3, and the server proves a key that trust knows.
//
// In TLS 1.3 a client's handshake is over before the server has judged the client's key: a refusal arrives with the
// first read. Give that read's error to Explain.
func ClientTLS(identity Identity, trust Truster) (*tls.Config, error) {
	config, err := baseConfig(identity, trust)
	if err != nil {
		return nil, err
	}
	// There is no authority and no name to verify: VerifyConnection checks the key itself.
	config.InsecureSkipVerify = true
	return config, nil
}

func baseConfig(identity Identity, trust Truster) (*tls.Config, error) {
	certificate, err := selfSigned(identity)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{certificate},
		VerifyConnection: func(state tls.ConnectionState) error {
			key, err := peerKey(state)
			if err != nil {
				return err
			}
			_, err = trust.Lookup(key)
			return err
		},
	}, nil
}

// selfSigned wraps the key in the certificate that TLS asks for. It names nobody.
func selfSigned(identity Identity) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // no expiry, by RFC 5280
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, identity.private.Public(), identity.private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: identity.private}, nil
}

// peerKey returns the key that the peer proved: TLS has checked its signature over the handshake.
func peerKey(state tls.ConnectionState) (PublicKey, error) {
	if len(state.PeerCertificates) != 1 {
		return PublicKey{}, fmt.Errorf("%w: it sent %d certificates", ErrUntrusted, len(state.PeerCertificates))
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w: its key is not Ed25519", ErrUntrusted)
	}
	return PublicKey(key), nil
}

// KeyOf returns the key that the peer of a connection proved. The handshake must be over.
func KeyOf(conn *tls.Conn) (PublicKey, error) {
	state := conn.ConnectionState()
	if !state.HandshakeComplete {
		return PublicKey{}, errors.New("handshake is not over")
	}
	return peerKey(state)
}

// Explain makes a peer's TLS alert into ErrRefusedByPeer, and leaves other errors as they are. own is this host's
// key: what the operator there has to trust.
func Explain(err error, own PublicKey) error {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "remote error" || !strings.HasPrefix(op.Err.Error(), "tls: ") {
		return err
	}
	return fmt.Errorf("%w %s (%v)", ErrRefusedByPeer, own.Fingerprint(), op.Err)
}
