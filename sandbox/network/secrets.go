package network

import (
	"reflect"

	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// Netstack draws the secrets of TCP anew on load, and peers would notice:
//
//   - A listener whose backlog is full answers with SYN cookies. Until it accepts,
//     the connection exists only in the sequence number that the peer gives back,
//     and with another secret that is answered by a reset.
//   - The timestamps of a connection begin at a secret offset. With another one, a
//     peer that has seen the answer to its SYN takes all that follows for old
//     segments, and waits for ever.
//   - Initial sequence numbers grow from one connection to the next between the
//     same two ports, so that a new one is not taken for the old.
//
// So the secrets are saved beside their owners.

// tcpSecrets are those of one stack.
type tcpSecrets struct {
	// protocol has the secrets that all connections share.
	protocol []byte

	// listeners have listenerSecretBytes each, one after the other.
	listeners       []*tcp.Endpoint
	listenerSecrets []byte
}

const (
	protocolSecretBytes = 2 * 16
	listenerSecretBytes = 2 * 64
)

// readSecrets reads the secrets of a stack.
func readSecrets(s *stack.Stack) tcpSecrets {
	var t tcpSecrets
	for _, secret := range protocolSecrets(s) {
		t.protocol = append(t.protocol, secret...)
	}
	seen := map[*tcp.Endpoint]bool{}
	for _, ep := range s.RegisteredEndpoints() {
		e, ok := ep.(*tcp.Endpoint)
		if !ok || seen[e] {
			continue
		}
		seen[e] = true
		secrets := listenerSecrets(e)
		if secrets == nil {
			continue
		}
		t.listeners = append(t.listeners, e)
		for _, secret := range secrets {
			t.listenerSecrets = append(t.listenerSecrets, secret...)
		}
	}
	return t
}

// apply gives a loaded stack, and the listeners that were loaded with it, the
// secrets that they had.
func (t *tcpSecrets) apply(s *stack.Stack) {
	fill(protocolSecrets(s), t.protocol)
	if len(t.listenerSecrets) != len(t.listeners)*listenerSecretBytes {
		return // no save of ours
	}
	for i, e := range t.listeners {
		fill(listenerSecrets(e), t.listenerSecrets[i*listenerSecretBytes:])
	}
}

func fill(secrets [][]byte, from []byte) {
	for _, secret := range secrets {
		from = from[copy(secret, from):]
	}
}

// protocolSecrets returns the secrets that all connections of a stack share, to
// be read or written: for sequence numbers and for timestamps.
func protocolSecrets(s *stack.Stack) [][]byte {
	protocol := reflect.ValueOf(s.TransportProtocolInstance(tcp.ProtocolNumber))
	if protocol.Kind() != reflect.Pointer {
		return nil
	}
	var secrets [][]byte
	for _, name := range []string{"seqnumSecret", "tsOffsetSecret"} {
		secret := protocol.Elem().FieldByName(name)
		// Netstack does not export them. A gVisor without them has none, and tests fail.
		if secret.IsValid() && secret.Kind() == reflect.Array && secret.Type().Size() == protocolSecretBytes/2 {
			secrets = append(secrets, secret.Bytes())
		}
	}
	return secrets
}

// listenerSecrets returns what a listener makes SYN cookies with, to be read or
// written. It is nil for what does not listen.
func listenerSecrets(e *tcp.Endpoint) [][]byte {
	context := reflect.ValueOf(e).Elem().FieldByName("listenCtx")
	if e.EndpointState() != tcp.StateListen || !context.IsValid() || context.Kind() != reflect.Pointer || context.IsNil() {
		return nil
	}
	nonces := context.Elem().FieldByName("nonce")
	if !nonces.IsValid() || nonces.Kind() != reflect.Array || nonces.Type().Size() != listenerSecretBytes {
		return nil
	}
	var secrets [][]byte
	for i := range nonces.Len() {
		secrets = append(secrets, nonces.Index(i).Bytes())
	}
	return secrets
}
