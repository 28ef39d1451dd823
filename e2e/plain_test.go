package e2e

import (
	"strings"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// counterScript counts in memory, shows the count in a file of the sandbox's own /tmp, and keeps some content beside it.
const counterScript = `head -c 1048576 /dev/urandom >/tmp/content; i=0; while :; do i=$((i+1)); echo $i >/tmp/count.new; mv /tmp/count.new /tmp/count; sleep 0.05; done`

// A counter is the smallest workload with content: busybox, a checksum that must stay, and a number that must grow.
type counter struct {
	*host
	id     string
	bundle guest.Bundle
}

// startCounter starts one on a host and waits until it counts.
func startCounter(t *testing.T, h *host, id string, b guest.Bundle) *counter {
	t.Helper()
	if b.Root == "" {
		b.Root = dataDir(t)
		if err := guest.WriteBusyboxRoot(b.Root); err != nil {
			t.Fatal(err)
		}
	}
	b.Args = []string{"/bin/sh", "-c", counterScript}
	h.run(id, h.bundle(id, b))
	c := &counter{host: h, id: id, bundle: b}
	eventually(t, id+" counts", func() bool { return h.try("exec", id, "/bin/cat", "/tmp/count").code == 0 })
	return c
}

// checksum is of what must not change.
func (c *counter) checksum() string {
	c.t.Helper()
	return strings.TrimSpace(c.exec(c.id, "/bin/md5sum", "/tmp/content"))
}

// count is what must grow.
func (c *counter) count() int {
	c.t.Helper()
	return atoi(c.t, c.exec(c.id, "/bin/cat", "/tmp/count"))
}

// countsOn fails unless the sandbox answers and its workload goes on.
func (c *counter) countsOn() {
	c.t.Helper()
	first := c.count()
	eventually(c.t, c.id+" counts on", func() bool { return c.count() > first })
}

// restored returns the counter as it must be on another host after a restore there.
func (c *counter) restored(h *host, id string) *counter {
	return &counter{host: h, id: id, bundle: c.bundle}
}
