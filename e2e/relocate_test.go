package e2e

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	otherMAC, otherAddress = "02:00:00:00:00:07", "10.9.0.7"
	bytesPerSecondSmall    = 2_000_000
)

// A fate is what plan and restore say of a connection.
type fate struct {
	Connection struct{ Protocol, State, Local, Remote string }
	Kept       bool
	Reason     string
	Reset      bool
}

// networkPlan is what plan and restore say of the network.
type networkPlan struct {
	Network     []struct{ Link, What, Sandbox, Host string }
	Connections []fate
	Findings    []finding
}

// streaming starts the stream program in a namespace, with a stream in each direction.
func streaming(t *testing.T, h *host, ns, client *os.File) (flows []*flow, stop chan struct{}) {
	t.Helper()
	h.run("web", h.bundle("web", networked(ns, "stream.py")))
	h.ask("web", "retransmitted") // waits until the program answers
	stop = make(chan struct{})
	flows = []*flow{
		download(t, client, serverAddress, bytesPerSecondSmall), upload(t, client, serverAddress, bytesPerSecondSmall, stop),
	}
	flowsOn(t, flows, bytesPerSecondSmall/4)
	return flows, stop
}

// restoreElsewhere restores an image of a streaming sandbox in a namespace with another address, and returns what the report says.
func restoreElsewhere(t *testing.T, h *host, image, bundle string) networkPlan {
	t.Helper()
	r := h.launch("copy", "restore", "--detach", "--policy", "relaxed", "--json", "--image", image, "--bundle", bundle, "copy")
	if r.code != 0 {
		t.Fatal(r)
	}
	var report networkPlan
	text := r.stderr[max(0, strings.Index(r.stderr, "\n{")):]
	if err := json.NewDecoder(strings.NewReader(text)).Decode(&report); err != nil {
		t.Fatalf("report: %v: %s", err, r.stderr)
	}
	for _, f := range report.Connections {
		if named := strings.Contains(r.stderr, "connection "+f.Connection.Protocol+" "+f.Connection.Local+" - "+f.Connection.Remote); named == f.Kept {
			t.Errorf("%+v is named as lost: %v", f, named)
		}
	}
	return report
}

// wantFates fails unless the streams end with their reasons, and everything else is kept.
func wantFates(t *testing.T, what string, fates []fate) {
	t.Helper()
	closed := 0
	for _, f := range fates {
		switch {
		case strings.HasPrefix(f.Connection.Local, serverAddress+":"):
			closed++
			if f.Kept || !f.Reset || !strings.Contains(f.Reason, serverAddress) || !strings.HasPrefix(f.Connection.Remote, clientAddress+":") {
				t.Errorf("%s: %+v", what, f)
			}
		case !f.Kept:
			t.Errorf("%s: %+v is not kept", what, f)
		}
	}
	listens := slices.ContainsFunc(fates, func(f fate) bool { return f.Connection.Local == "[::]:"+streamPort && f.Connection.State == "LISTEN" })
	if closed != 2 || !listens {
		t.Errorf("%s: %d connections end, want 2; the listener is there: %v: %+v", what, closed, listens, fates)
	}
}

// wantAnswer fails unless the stream program answers under an address.
func wantAnswer(t *testing.T, client *os.File, address string) {
	t.Helper()
	conn, err := dialFrom(client, net.JoinHostPort(address, streamPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const size = 100_000
	got := make([]byte, size)
	if _, err := io.WriteString(conn, "send 1000000\n"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, got); err != nil || !slices.Equal(got, streamPart(0, size)) {
		t.Errorf("%s does not send the stream: %v", address, err)
	}
}

// Restored under another address, listeners answer there; connections of the old address end with an error inside and a reset for the
// peer, and both plan and report name each.
func TestRestoreUnderAnotherAddress(t *testing.T) {
	l := newLab(t)
	client, from, to := l.client(), newHost(t), newHost(t)
	flows, _ := streaming(t, from, l.server(true), client)
	image := from.path("images") + ":web"
	from.must("checkpoint", "web", "--image", image)
	bundle := to.bundle("copy", networked(l.machine(otherMAC, otherAddress+"/24", true), "stream.py"))

	if refused := to.refuses("plan", image, bundle); !strings.Contains(refused, "network-address-missing") {
		t.Errorf("strict plan: %s", refused)
	}
	var plan networkPlan
	if err := json.Unmarshal([]byte(to.must("plan", "--json", "--policy", "relaxed", image, bundle)), &plan); err != nil {
		t.Fatal(err)
	}
	wantFates(t, "plan", plan.Connections)
	wantSides(t, plan, "mtu", "1500", "1500")
	wantSides(t, plan, "hardware address", serverMAC, otherMAC)
	wantSides(t, plan, "address", serverAddress+"/24", "")
	wantSides(t, plan, "address", "", otherAddress+"/24")
	wantSides(t, plan, "route", "fd09::/64", "")
	text := to.must("plan", "--policy", "relaxed", image, bundle)
	for _, line := range []string{"address", "closed", "kept", "[::]:" + streamPort} {
		if !strings.Contains(text, line) {
			t.Errorf("plan does not show %q: %s", line, text)
		}
	}

	report := restoreElsewhere(t, to, image, bundle)
	wantFates(t, "report", report.Connections)
	for _, f := range flows {
		if err := <-f.done; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%s: %v, want a reset", f.name, err)
		}
	}
	eventually(t, "both connections end with an error inside", func() bool {
		errors := to.ask("copy", "broken")["errors"].([]any)
		t.Logf("inside: %v", errors)
		return len(errors) == 2
	})
	wantAnswer(t, client, otherAddress)
	to.wantStatus("copy", specs.StateRunning)
}

// wantSides fails unless the plan has a property of eth0 with the saved value and that of this host.
func wantSides(t *testing.T, plan networkPlan, what, sandbox, host string) {
	t.Helper()
	for _, r := range plan.Network {
		if r.Link == "eth0" && r.What == what && r.Sandbox == sandbox && r.Host == host {
			return
		}
	}
	t.Errorf("plan has no %s with %q beside %q: %+v", what, sandbox, host, plan.Network)
}

// A copy of a sandbox that still runs lives under an address of its own: the original's connections go on, the copy's are reported as
// lost, and no peer is told.
func TestRestoreBesideTheOriginal(t *testing.T) {
	l := newLab(t)
	client, h := l.client(), newHost(t)
	home := l.server(true)
	flows, stop := streaming(t, h, home, client)
	image := h.path("images") + ":web"
	h.must("checkpoint", "web", "--image", image, "--leave-running")
	bundle := h.bundle("copy", networked(l.machine(otherMAC, otherAddress+"/24", true), "stream.py"))
	wantFates(t, "report", restoreElsewhere(t, h, image, bundle).Connections)
	wantAnswer(t, client, otherAddress)
	flowsOn(t, flows, bytesPerSecondSmall)
	close(stop)
	if err := <-flows[1].done; err != nil {
		t.Errorf("upload to the original: %v", err)
	}
	wantAnswer(t, client, serverAddress)
	// Not over the original's own interface.
	h.must("delete", "--force", "copy")
	refused := h.refuses("restore", "--detach", "--policy", "relaxed", "--image", image, "--bundle", h.bundle("fight", networked(home, "stream.py")), "copy")
	if !strings.Contains(refused, "belongs to another sandbox") {
		t.Errorf("over the original's interface: %s", refused)
	}
	wantAnswer(t, client, serverAddress)
}
