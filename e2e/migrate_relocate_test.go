package e2e

import (
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Moved to another address, listeners answer there; connections of the old address end with an error inside and a reset for the peer, and the
// command names each, with the reason.
func TestMigrateToAnotherAddress(t *testing.T) {
	l := newLab(t)
	client, p := l.client(), newPair(t)
	flows, _ := streaming(t, p.a.host, l.server(true), client)
	bundle := p.b.bundle("web", networked(l.machine(otherMAC, otherAddress+"/24", false), "stream.py"))
	if r := p.a.migrate("web", p.b, "--bundle", bundle); r.code == 0 || !strings.Contains(r.stderr, "network-address-missing") {
		t.Fatalf("under the strict policy: %v", r)
	}

	r := p.a.migrate("web", p.b, "--bundle", bundle, "--policy", "relaxed")
	if r.code != 0 {
		t.Fatal(r)
	}
	for _, f := range flows {
		select {
		case err := <-f.done:
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%s: %v, want a reset", f.name, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%s: nobody told the peer that the connection has ended", f.name)
		}
		local := f.conn.LocalAddr().String()
		if want := "connection tcp " + f.conn.RemoteAddr().String() + " - " + local + " ESTABLISHED: closed: local address " + serverAddress + " is not there"; !strings.Contains(r.stderr, want) {
			t.Errorf("nobody is told %q: %s", want, r.stderr)
		}
	}
	eventually(t, "both connections end with an error inside", func() bool { return len(p.b.ask("web", "broken")["errors"].([]any)) == 2 })
	wantAnswer(t, client, otherAddress)
	kept := false
	for _, f := range p.a.lastReport("web").Connections {
		kept = kept || f.Kept && strings.Contains(f.Connection, ":"+streamPort+" LISTEN")
	}
	if !kept {
		t.Errorf("the report does not say that the listener is kept: %+v", p.a.lastReport("web").Connections)
	}
}
