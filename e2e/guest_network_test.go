package e2e

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

// networkAdmin is a bundle of a guest program that may configure its network.
func networkAdmin(ns *os.File, program string) guest.Bundle {
	b := networked(ns, program)
	b.Mounts = append(b.Mounts, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"}) // iptables locks a file there
	into := b.Edit
	b.Edit = func(s *specs.Spec) {
		into(s)
		c := s.Process.Capabilities
		for _, set := range []*[]string{&c.Bounding, &c.Effective, &c.Permitted, &c.Inheritable} {
			*set = append(slices.Clone(*set), "CAP_NET_ADMIN", "CAP_NET_RAW")
		}
	}
	return b
}

// wantFiltered fails unless UDP over IPv4 is dropped inside, and nothing else.
func wantFiltered(t *testing.T, client *os.File) {
	t.Helper()
	dropped, passed := askOn(t, client, serverAddress), askOn(t, client, serverAddress6)
	for range 10 {
		passed.answers(t)
	}
	if n := dropped.answered.Load(); n != 0 || dropped.asked.Load() < 10 {
		t.Errorf("%d of %d questions that the filter drops were answered", n, dropped.asked.Load())
	}
}

// Filter tables live through a migration and an image; the loss of connection tracking is reported; what cannot be saved is refused.
func TestFiltersSurvive(t *testing.T) {
	l := newLab(t)
	client := l.client()
	p := newPair(t)
	p.a.run("web", p.a.bundle("web", networkAdmin(l.server(true), "sockets.py")))
	p.a.ask("web", "work")
	iptables := func(h *host, rule string) string {
		return h.exec("web", append([]string{"/usr/sbin/iptables-legacy"}, strings.Fields(rule)...)...)
	}
	iptables(p.a.host, "-A INPUT -p udp -m udp --dport "+datagramPort+" -j DROP")
	iptables(p.a.host, "-A INPUT -p tcp -m tcp --dport 81 -j DROP")
	before := iptables(p.a.host, "-S")
	wantFiltered(t, client)

	iptables(p.a.host, "-A INPUT -p tcp -m tcp --dport 82 -j REJECT")
	bundle := p.b.bundle("web", networkAdmin(l.server(false), "sockets.py"))
	if r := p.a.migrate("web", p.b, "--bundle", bundle); r.code == 0 || !strings.Contains(r.stderr, "network-guest-filters") || !strings.Contains(r.stderr, "eject") {
		t.Errorf("a rule that cannot be saved: %v", r)
	}
	iptables(p.a.host, "-D INPUT 3")

	report := p.a.mustMigrate("web", p.b, "--bundle", bundle)
	if !slices.ContainsFunc(report.Warnings, func(w string) bool { return strings.Contains(w, "network-connection-tracking") }) {
		t.Errorf("the loss of connection tracking is not reported: %q", report.Warnings)
	}
	if after := iptables(p.b.host, "-S"); after != before {
		t.Errorf("rules after the migration:\n%s\nbefore:\n%s", after, before)
	}
	wantFiltered(t, client)

	image := p.b.path("images") + ":web"
	if r := p.b.try("checkpoint", "web", "--image", image); r.code != 0 || !strings.Contains(r.stderr, "network-connection-tracking") {
		t.Errorf("checkpoint: %v", r)
	}
	p.a.must("delete", "web")
	p.a.mustLaunch("web", "restore", "--detach", "--image", image, "--bundle", p.a.bundle("again", networkAdmin(l.server(false), "sockets.py")), "web")
	if after := iptables(p.a.host, "-S"); after != before {
		t.Errorf("rules after the restore:\n%s\nbefore:\n%s", after, before)
	}
	wantFiltered(t, client)
}

// What the guest configured itself lives through a migration, if the target is prepared for it. Otherwise, and for what cannot live,
// the migration is refused by name.
func TestGuestConfigurationSurvives(t *testing.T) {
	const added, route = "10.9.0.42", "10.77.0.0/16"
	l := newLab(t)
	client := l.client()
	p := newPair(t)
	p.a.run("web", p.a.bundle("web", networkAdmin(l.server(true), "sockets.py")))
	p.a.ask("web", "accept")
	v := &visitors{t: t, ns: client}
	visit := func() {
		t.Helper()
		if err := v.visit(added); err != nil {
			t.Errorf("the address that the guest added: %v", err)
		}
	}
	ip := func(h *host, args ...string) string { return h.exec("web", append([]string{"/sbin/ip"}, args...)...) }
	ip(p.a.host, "addr", "add", added+"/24", "dev", "eth0")
	ip(p.a.host, "route", "add", route, "via", clientAddress, "dev", "eth0")
	shown := func(h *host) []string {
		lines := strings.Split(ip(h, "-brief", "addr")+ip(h, "route"), "\n")
		slices.Sort(lines)
		return lines
	}
	before := shown(p.a.host)
	if text := strings.Join(before, "\n"); !strings.Contains(text, added) || !strings.Contains(text, route) {
		t.Fatalf("the guest configured nothing: %q", before)
	}
	visit()
	// Without an interface it leads nowhere inside, and cannot be given back: that is said.
	const nowhere = "10.78.0.0/16"
	ip(p.a.host, "route", "add", nowhere, "via", clientAddress)

	there := l.server(false)
	bundle := p.b.bundle("web", networkAdmin(there, "sockets.py"))
	if r := p.a.migrate("web", p.b, "--bundle", bundle); r.code == 0 || !strings.Contains(r.stderr, "network-address-missing") || !strings.Contains(r.stderr, added) {
		t.Errorf("a target without the guest's address: %v", r)
	}
	l.addAddress(there, added+"/24")
	report := p.a.mustMigrate("web", p.b, "--bundle", bundle)
	if !slices.ContainsFunc(report.Warnings, func(w string) bool {
		return strings.Contains(w, "network-guest-route") && strings.Contains(w, nowhere)
	}) {
		t.Errorf("the loss of a route is not reported: %q", report.Warnings)
	}
	if after := shown(p.b.host); !slices.Equal(after, before) {
		t.Errorf("after the migration:\n%s\nbefore:\n%s", strings.Join(after, "\n"), strings.Join(before, "\n"))
	}
	visit()

	ip(p.b.host, "link", "add", "br9", "type", "bridge")
	p.a.must("delete", "web")
	r := p.b.migrate("web", p.a, "--bundle", p.a.bundle("again", networkAdmin(l.server(false), "sockets.py")))
	if r.code == 0 || !strings.Contains(r.stderr, "network-guest-interface") || !strings.Contains(r.stderr, "br9") {
		t.Errorf("an interface that the guest made: %v", r)
	}
	visit()
}

// A sandbox with two interfaces, in a namespace that the command line names, moves with both, and with the DNS file of its bundle.
func TestMigrateTwoInterfaces(t *testing.T) {
	const second, clientSecond = "10.8.0.2", "10.8.0.3"
	l := newLab(t)
	client := l.client()
	l.addAddress(client, clientSecond+"/24")
	server := func(up bool) *os.File {
		ns := l.server(up)
		l.addLink(ns, "eth1", "02:00:00:00:00:12", second+"/24", up)
		return ns
	}
	p := newPair(t)
	dns := p.a.file("resolv.conf", "nameserver "+clientAddress+"\nsearch lab.test\n")
	bundle := func(ns *os.File) guest.Bundle {
		b := networked(ns, "stream.py")
		b.Mounts = append(b.Mounts, guest.Bind(dns, "/etc/resolv.conf", "ro"))
		return b
	}
	home := server(true)
	nowhere := bundle(home)
	nowhere.Edit = nil
	p.a.mustLaunch("web", "run", "--detach", "--network-namespace", netlab.Path(home), "--bundle", p.a.bundle("web", nowhere), "web")
	p.a.ask("web", "retransmitted")
	stop := make(chan struct{})
	defer close(stop)
	flows := []*flow{
		download(t, client, serverAddress, bytesPerSecondSmall), upload(t, client, serverAddress, bytesPerSecondSmall, stop),
		download(t, client, second, bytesPerSecondSmall), upload(t, client, second, bytesPerSecondSmall, stop),
	}
	flowsOn(t, flows, bytesPerSecondSmall/4)
	p.a.mustMigrate("web", p.b, "--bundle", p.b.bundle("web", bundle(server(false))))
	flowsOn(t, flows, bytesPerSecondSmall/4)
	if got := p.b.exec("web", "/bin/cat", "/etc/resolv.conf"); !strings.Contains(got, "search lab.test") {
		t.Errorf("resolv.conf inside: %q", got)
	}
}
