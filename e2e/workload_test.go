package e2e

import (
	"crypto/rand"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// Redis keeps every key, and a client that was connected inside keeps its connection.
func TestRedis(t *testing.T) {
	sizeMiB := 64
	if *long {
		sizeMiB = 1024
	}
	trip := startTrip(t, "redis", guest.Bundle{
		Args: guest.Program("redis.py"),
		Env:  []string{fmt.Sprintf("SIZE_MIB=%d", sizeMiB)},
	}, "")
	connected := trip.from.ask("redis", "connected")
	if connected["listed"] != true {
		t.Fatalf("the client is not connected before: %v", connected)
	}

	trip.sameAnswer("digest")

	if diff := cmp.Diff(connected, trip.to.ask(trip.toID, "connected")); diff != "" {
		t.Errorf("the client's connection changed (-before +after):\n%s", diff)
	}
	trip.goesOn()

	// The digest can tell: one more key changes it.
	before := trip.to.ask(trip.toID, "digest")
	trip.to.ask(trip.toID, "write", "new", "value")
	if cmp.Equal(before, trip.to.ask(trip.toID, "digest")) {
		t.Error("the digest does not notice a new key: it proves nothing")
	}
}

// Python keeps memory, threads, a child with its pipe, an epoll, a timer, a file lock,
// deleted files in memory and on a bind mount, and a sqlite file.
func TestPython(t *testing.T) {
	trip := startTrip(t, "python", guest.Bundle{Args: guest.Program("python.py")}, dataDir(t))
	if locked := trip.from.ask("python", "digest")["locked"]; locked != 1.0 {
		t.Fatalf("flock exits with %v before, so that the lock proves nothing", locked)
	}

	trip.sameAnswer("digest")
	trip.goesOn()

	rows := trip.to.ask(trip.toID, "rows")
	if rows["integrity"] != "ok" || rows["wrong"] != 0.0 || rows["count"] != rows["last"] {
		t.Errorf("the database is damaged: %v", rows)
	}
	if chain := trip.to.ask(trip.toID, "chain"); chain["got"] != chain["want"] {
		t.Errorf("a thread lost a step of its work: %v", chain)
	}

	before := trip.to.ask(trip.toID, "digest")
	trip.to.ask(trip.toID, "change")
	if cmp.Equal(before, trip.to.ask(trip.toID, "digest")) {
		t.Error("the digest does not notice a changed byte: it proves nothing")
	}
}

// Node keeps its heap, worker thread, child process, timers and connections.
func TestNode(t *testing.T) {
	trip := startTrip(t, "node", guest.Bundle{Args: guest.Program("node.js")}, "")
	trip.sameAnswer("digest")
	trip.goesOn()
}

// Nginx keeps its workers, and the connection that a client keeps alive.
func TestNginx(t *testing.T) {
	data := dataDir(t)
	www := filepath.Join(data, "www")
	if err := os.Mkdir(www, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int{"empty": 0, "small": 1 << 10, "large": 3 << 20} {
		content := make([]byte, size)
		rand.Read(content)
		if err := os.WriteFile(filepath.Join(www, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	trip := startTrip(t, "nginx", guest.Bundle{Args: guest.Program("nginx.py")}, data)
	processes, port := trip.from.ask("nginx", "processes"), trip.from.ask("nginx", "port")

	trip.sameAnswer("digest")

	if diff := cmp.Diff(processes, trip.to.ask(trip.toID, "processes")); diff != "" {
		t.Errorf("processes changed (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(port, trip.to.ask(trip.toID, "port")); diff != "" {
		t.Errorf("the client's connection changed (-before +after):\n%s", diff)
	}
	trip.goesOn()
}

// Postgres keeps a transaction open, which commits after the restore and was not seen by others before.
func TestPostgres(t *testing.T) {
	account, err := user.Lookup("postgres")
	if err != nil {
		t.Fatal(err)
	}
	uid, gid := number(t, account.Uid), number(t, account.Gid)
	data := dataDir(t)
	initPostgres(t, data, uid, gid)

	trip := startTrip(t, "postgres", guest.Bundle{Args: guest.Program("postgres.py"), UID: uid, GID: gid}, data)
	before := trip.from.ask("postgres", "digest")
	if before["inside"] == before["outside"] {
		t.Fatalf("the transaction is not open before: %v", before)
	}

	trip.sameAnswer("digest")
	trip.goesOn()

	after := trip.to.ask(trip.toID, "commit")
	if after["inside"] != before["inside"] || after["outside"] != before["inside"] {
		t.Errorf("after the commit both sides see %v, want what the transaction saw before: %v", after, before)
	}
}

// initPostgres makes a database cluster on the host, in data/data.
func initPostgres(t *testing.T, data string, uid, gid uint32) {
	t.Helper()
	if err := os.Chown(data, int(uid), int(gid)); err != nil {
		t.Fatal(err)
	}
	initdb, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err != nil || len(initdb) == 0 {
		t.Fatalf("no initdb: is postgresql installed? %v", err)
	}
	cmd := exec.Command(initdb[len(initdb)-1], "-D", filepath.Join(data, "data"), "-A", "trust", "-U", "postgres", "-N", "--locale=C", "-E", "UTF8")
	cmd.Dir = data
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
}

// dataDir makes a directory that both hosts can reach, as shared storage would be.
func dataDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(filepath.Dir(binary), "data-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func number(t *testing.T, text string) uint32 {
	t.Helper()
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(n)
}
