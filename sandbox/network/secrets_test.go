package network

import (
	"bytes"
	"testing"

	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

// TestSecretsMove checks that a peer in the middle of a handshake with the source is believed on the target, and believes it.
func TestSecretsMove(t *testing.T) {
	l := newLab(t)
	home, there := l.host(macA, true, "192.0.2.1/24"), l.host(macB, false, "192.0.2.1/24")
	here := l.takeOver(home)
	g := newGuest(t, here, 80)
	secrets := func(n *node) []byte {
		all := append(protocolSecrets(n.stack.Stack), listenerSecrets(g.listener.(*tcp.Endpoint))...)
		return bytes.Join(all, nil)
	}
	before := secrets(here)
	if len(before) != protocolSecretBytes+listenerSecretBytes {
		t.Fatalf("netstack has %d bytes of secrets, want %d", len(before), protocolSecretBytes+listenerSecretBytes)
	}
	for i := 16; i < len(before); i += 16 {
		if bytes.Equal(before[:16], before[i:i+16]) {
			t.Fatalf("the secrets are not random: %x", before)
		}
	}
	g.run()
	next := l.run(there, here.identity, Options{Silent: true})
	move(t, g, here, next)
	g.halt()
	if after := secrets(next); !bytes.Equal(after, before) {
		t.Errorf("the secrets are %x, before %x", after, before)
	}
}
