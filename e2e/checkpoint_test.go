package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A checkpoint that leaves the sandbox running can be taken and restored again and again, also two at once beside the original.
func TestLeaveRunning(t *testing.T) {
	from, to := newHost(t), newHost(t)
	c := startCounter(t, from, "original", guest.Bundle{})
	checksum := c.checksum()
	images := from.path("images")
	for _, compress := range []string{"zstd", "none"} {
		from.must("checkpoint", "original", "--image", images+":"+compress, "--leave-running", "--compress", compress)
		c.countsOn()
	}
	for _, compress := range []string{"zstd", "none"} {
		from.must("verify", images+":"+compress)
		if out := from.must("inspect", "--json", images+":"+compress); !json.Valid([]byte(out)) {
			t.Errorf("inspect --json: %s", out)
		}
		id := "copy-" + compress
		to.mustLaunch(id, "restore", "--detach", "--image", images+":"+compress, "--bundle", to.bundle(id, c.bundle), id)
		again := c.restored(to, id)
		if got := again.checksum(); got != checksum {
			t.Errorf("%s: checksum %s, before %s", id, got, checksum)
		}
		again.countsOn()
	}
	c.countsOn()
}

// A chain of checkpoints: what was restored is checkpointed again, five times, each on another host than before.
func TestChain(t *testing.T) {
	here := newHost(t)
	c := startCounter(t, here, "link-0", guest.Bundle{})
	checksum, count := c.checksum(), c.count()
	for i := 1; i <= 5; i++ {
		image := c.host.path("images")
		c.must("checkpoint", c.id, "--image", image)
		there, id := newHost(t), fmt.Sprintf("link-%d", i)
		there.mustLaunch(id, "restore", "--detach", "--image", image, "--bundle", there.bundle(id, c.bundle), id)
		c = c.restored(there, id)
		if got := c.checksum(); got != checksum {
			t.Fatalf("restore %d: checksum %s, before %s", i, got, checksum)
		}
		now := c.count()
		if now < count {
			t.Fatalf("restore %d: counted back from %d to %d", i, count, now)
		}
		count = now
		c.countsOn()
	}
}

// A full disk: a clear error, the sandbox goes on, nothing is left, and the next checkpoint works.
func TestCheckpointToFullDisk(t *testing.T) {
	data := dataDir(t)
	trip := startTrip(t, "full", guest.Bundle{Args: guest.Program("python.py"), Env: []string{"SIZE_MIB=64"}}, data)
	before := trip.from.ask("full", "digest")

	small := trip.from.directory("small")
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=16m"); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(small, syscall.MNT_DETACH)
	for _, compress := range []string{"zstd", "none"} {
		for _, flags := range [][]string{nil, {"--leave-running"}} {
			args := append([]string{"checkpoint", "full", "--image", small + ":image", "--compress", compress}, flags...)
			message := trip.from.refuses(args...)
			if !strings.Contains(message, "no space left") {
				t.Errorf("the message does not say that there is no space: %s", message)
			}
			trip.from.wantStatus("full", specs.StateRunning)
			noImage(t, trip.from, small)
		}
	}
	trip.from.ask("full", "work")

	trip.move()
	after := trip.to.ask(trip.toID, "digest")
	if fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("after failed checkpoints and a good one: %v, before: %v", after, before)
	}
	trip.goesOn()
}

// noImage fails if a store has an image, or bytes of one.
func noImage(t *testing.T, h *host, store string) {
	t.Helper()
	h.refuses("inspect", store+":image")
	var used int64
	filepath.WalkDir(store, func(name string, entry fs.DirEntry, err error) error {
		if info, infoErr := entry.Info(); err == nil && infoErr == nil && info.Mode().IsRegular() {
			used += info.Size()
		}
		return nil
	})
	const layoutBytes = 16 << 10 // an empty store's own files
	if used > layoutBytes {
		t.Errorf("a failed checkpoint leaves %d bytes in the store", used)
	}
}

// An unwritable or senseless target is refused, and the sandbox goes on.
func TestCheckpointRefusals(t *testing.T) {
	h := newHost(t)
	c := startCounter(t, h, "stays", guest.Bundle{})
	h.refuses("checkpoint", "stays", "--image", h.file("file", "not a directory"))
	h.refuses("checkpoint", "stays", "--image", "/proc/nowhere")
	h.refuses("checkpoint", "nobody", "--image", h.path("images"))
	h.refuses("checkpoint", "stays", "--image", h.path("images"), "--compress", "nonsense")
	c.countsOn()
	h.must("pause", "stays")
	h.must("checkpoint", "stays", "--image", h.path("images")+":paused", "--leave-running")
	h.must("resume", "stays")
	c.countsOn()
}

// No damaged image restores, wherever the damage is, and verify names it.
func TestDamagedImages(t *testing.T) {
	from, to := newHost(t), newHost(t)
	c := startCounter(t, from, "whole", guest.Bundle{})
	store := from.path("images")
	from.must("checkpoint", "whole", "--image", store+":image")
	bundle := to.bundle("copy", c.bundle)

	var files []string
	filepath.WalkDir(store, func(name string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files = append(files, name)
		}
		return err
	})
	if len(files) < 4 {
		t.Fatalf("an image of %d files is not the one that this test expects: %q", len(files), files)
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(content) == 0 {
			continue // a lock, say
		}
		name, _ := filepath.Rel(store, file)
		for damage, damaged := range damages(content) {
			if err := os.WriteFile(file, damaged, 0o600); err != nil {
				t.Fatal(err)
			}
			if damage == "missing" {
				os.Remove(file)
			}
			if message := refusesQuietly(to, "verify", store+":image"); message != "" {
				t.Errorf("%s, %s: verify: %s", name, damage, message)
			}
			if message := refusesQuietly(to, "restore", "--detach", "--image", store+":image", "--bundle", bundle, "copy"); message != "" {
				t.Errorf("%s, %s: restore: %s", name, damage, message)
			}
			if r := to.try("state", "copy"); r.code == 0 {
				t.Errorf("%s, %s: a damaged image left a sandbox: %v", name, damage, r)
				to.try("delete", "--force", "copy")
			}
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	nothingRuns(t)

	// The negative control: undamaged, it does restore.
	to.must("verify", store+":image")
	to.mustLaunch("copy", "restore", "--detach", "--image", store+":image", "--bundle", bundle, "copy")
	c.restored(to, "copy").countsOn()
}

// damages returns a file's content in several states of damage.
func damages(content []byte) map[string][]byte {
	flipped := func(at int) []byte {
		damaged := append([]byte(nil), content...)
		damaged[at] ^= 0x10
		return damaged
	}
	return map[string][]byte{
		"first byte flipped":  flipped(0),
		"middle byte flipped": flipped(len(content) / 2),
		"last byte flipped":   flipped(len(content) - 1),
		"cut by one byte":     content[:len(content)-1],
		"cut in half":         content[:len(content)/2],
		"empty":               nil,
		"missing":             nil,
	}
}

// refusesQuietly is refuses for a loop: it returns what is wrong with the refusal, empty if nothing is.
func refusesQuietly(h *host, args ...string) string {
	r := h.launch("damaged", args...)
	switch {
	case r.code == 0:
		return "succeeds"
	case strings.Contains(r.stderr, "goroutine "), strings.Contains(r.stderr, "panic:"):
		return "panics: " + r.stderr
	case strings.TrimSpace(r.stderr) == "":
		return "fails without a message"
	}
	return ""
}

// Secrets live in memory images: nobody but the owner reads them.
func TestImageIsPrivate(t *testing.T) {
	h := newHost(t)
	startCounter(t, h, "private", guest.Bundle{})
	store := h.path("images")
	h.must("checkpoint", "private", "--image", store)
	err := filepath.WalkDir(store, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() && info.Mode().Perm()&0o077 != 0 {
			return errors.New(name + " has mode " + info.Mode().String())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// A sandbox whose processes come and go all the time is looked at and checkpointed at any moment of theirs, and survives each time.
func TestCheckpointWhileProcessesEnd(t *testing.T) {
	h := newHost(t)
	root := dataDir(t)
	if err := guest.WriteBusyboxRoot(root); err != nil {
		t.Fatal(err)
	}
	churn := `for i in 1 2 3; do (while :; do /bin/true; done) & done; while :; do echo $((n=n+1)) >/tmp/count; /bin/true; done`
	h.run("churn", h.bundle("churn", guest.Bundle{Root: root, Args: []string{"/bin/sh", "-c", churn}}))
	for range 60 {
		h.must("checkpoint", "churn", "--dry-run")
		h.must("ps", "churn")
	}
	for range 5 {
		h.must("checkpoint", "churn", "--image", h.path("images"), "--leave-running")
	}
	h.wantStatus("churn", specs.StateRunning)
}
