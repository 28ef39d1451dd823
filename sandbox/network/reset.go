package network

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// resetResolveTimeout bounds how long one peer's next hop may take to answer.
const resetResolveTimeout = 2 * time.Second

// SendResets tells the peers of the connections whose Fate has Reset that it is
// over, with segments from the old address and with the saved sequence numbers. The
// gates must be open. It returns how many were sent; the error names those that
// could not be.
//
// It must not be called for a clone whose original still runs: the original's
// connections would end.
func SendResets(ctx context.Context, s *stack.Stack, fates []Fate) (int, error) {
	sent := 0
	var errs []error
	for _, f := range fates {
		if !f.Reset {
			continue
		}
		if err := sendReset(ctx, s, f.Connection); err != nil {
			errs = append(errs, fmt.Errorf("reset %v: %w", f.Connection, err))
			continue
		}
		sent++
	}
	return sent, errors.Join(errs...)
}

func sendReset(ctx context.Context, s *stack.Stack, c Connection) error {
	proto := protocolOf(c.Remote.Addr())
	route, err := s.FindRoute(0, tcpip.Address{}, tcpipAddr(c.Remote.Addr()), proto, false)
	if err != nil {
		return errors.New(err.String())
	}
	defer route.Release()
	hop, goErr := nextHop(ctx, route)
	if goErr != nil {
		return goErr
	}
	// The peer believes a reset with exactly the sequence number that it expects.
	// That is one of the two, unless it lost only a part of what is on its way.
	for _, seq := range slices.Compact([]uint32{c.SendNext, c.SendUnacknowledged}) {
		packet := buffer.MakeWithData(resetSegment(c, seq))
		if err := s.WritePacketToRemote(route.NICID(), hop, proto, packet); err != nil {
			return errors.New(err.String())
		}
	}
	return nil
}

// nextHop resolves the hardware address that a route leads to.
func nextHop(ctx context.Context, route *stack.Route) (tcpip.LinkAddress, error) {
	ctx, cancel := context.WithTimeout(ctx, resetResolveTimeout)
	defer cancel()
	result := make(chan stack.ResolvedFieldsResult, 1)
	switch err := route.ResolvedFields(func(r stack.ResolvedFieldsResult) { result <- r }); err.(type) {
	case nil, *tcpip.ErrWouldBlock:
	default:
		return "", errors.New(err.String())
	}
	select {
	case r := <-result:
		if r.Err != nil {
			return "", errors.New(r.Err.String())
		}
		return r.RouteInfo.RemoteLinkAddress, nil
	case <-ctx.Done():
		return "", fmt.Errorf("next hop does not answer: %w", ctx.Err())
	}
}

// resetSegment is the IP packet of a reset to c's peer.
func resetSegment(c Connection, sequence uint32) []byte {
	return tcpPacket(c.Local, c.Remote, header.TCPFields{
		SeqNum: sequence, AckNum: c.ReceiveNext, Flags: header.TCPFlagRst | header.TCPFlagAck,
	}, nil)
}
