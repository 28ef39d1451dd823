package hostkey

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func newStore(t *testing.T) *Store {
	t.Helper()
	return Open(filepath.Join(t.TempDir(), "keys"))
}

func newKey(t testing.TB) PublicKey {
	t.Helper()
	identity, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return identity.Public()
}

func TestInitOnce(t *testing.T) {
	s := newStore(t)
	if _, err := s.Identity(); !errors.Is(err, ErrNoKey) {
		t.Fatalf("before Init: %v", err)
	}
	made, err := s.Init()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Init(); !errors.Is(err, ErrExists) {
		t.Fatalf("second Init: %v", err)
	}
	read, err := s.Identity()
	if err != nil || read.Public() != made.Public() {
		t.Fatalf("read back another key: %v", err)
	}
	info, err := os.Stat(s.keyPath())
	if err != nil || info.Mode() != 0o600 {
		t.Fatalf("mode %v, %v", info.Mode(), err)
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil || len(entries) != 2 {
		t.Fatalf("left over: %v, %v", entries, err)
	}
}

func TestIdentityRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		damage func(path string) error
		want   error
	}{
		"readable by the group": {func(p string) error { return os.Chmod(p, 0o640) }, ErrExposed},
		"empty":                 {func(p string) error { return os.Truncate(p, 0) }, ErrMalformed},
		"cut":                   {func(p string) error { return os.Truncate(p, 60) }, ErrMalformed},
		"something behind it": {func(p string) error {
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			return os.WriteFile(p, append(b, "more\n"...), 0o600)
		}, ErrMalformed},
		"huge": {func(p string) error { return os.WriteFile(p, make([]byte, 1<<20), 0o600) }, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			if _, err := s.Init(); err != nil {
				t.Fatal(err)
			}
			if err := test.damage(s.keyPath()); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Identity(); !errors.Is(err, test.want) {
				t.Fatal(err)
			}
		})
	}
}

func TestTrustListRemove(t *testing.T) {
	s := newStore(t)
	identity, err := s.Init()
	if err != nil {
		t.Fatal(err)
	}
	a, b := newKey(t), newKey(t)
	for name, key := range map[string]PublicKey{"host-b": b, "host-a": a} {
		if err := s.Trust(name, key); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Trust("host-a", a); err != nil {
		t.Fatalf("trusting again: %v", err)
	}
	for _, test := range []struct {
		name string
		key  PublicKey
		want error
	}{
		{"host-a", b, ErrNameTaken}, {"host-c", a, ErrKeyTaken}, {"me", identity.Public(), ErrOwnKey},
		{"", a, ErrMalformed}, {"..", a, ErrMalformed}, {"a/b", a, ErrMalformed}, {"-a", a, ErrMalformed},
		{strings.Repeat("a", 65), a, ErrMalformed}, {"a b", a, ErrMalformed},
	} {
		if err := s.Trust(test.name, test.key); !errors.Is(err, test.want) {
			t.Errorf("trust %q: %v, want %v", test.name, err, test.want)
		}
	}
	peers, err := s.Peers()
	if err != nil || len(peers) != 2 || peers[0] != (Peer{"host-a", a}) || peers[1] != (Peer{"host-b", b}) {
		t.Fatal(peers, err)
	}
	if p, err := s.Lookup(b); err != nil || p.Name != "host-b" {
		t.Fatal(p, err)
	}
	if p, err := s.Peer("host-b"); err != nil || p.Key != b {
		t.Fatal(p, err)
	}
	if err := s.Remove("host-b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("host-b"); !errors.Is(err, ErrNoPeer) {
		t.Fatal(err)
	}
	if _, err := s.Lookup(b); !errors.Is(err, ErrUntrusted) {
		t.Fatal(err)
	}
	if _, err := s.Peer("host-b"); !errors.Is(err, ErrNoPeer) {
		t.Fatal(err)
	}
}

func TestPeersNamesTheFileThatIsNoKey(t *testing.T) {
	s := newStore(t)
	if err := s.Trust("good", newKey(t)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.peerPath("bad"), []byte("ssh-ed25519 AAAA"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Peers(); !errors.Is(err, ErrMalformed) || !strings.Contains(err.Error(), "bad") {
		t.Fatal(err)
	}
}

func TestPublicKeyText(t *testing.T) {
	key := PublicKey{1, 2, 3}
	const want = "sbxmigrate-ed25519:AQIDAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	if key.String() != want {
		t.Fatal(key)
	}
	if got, err := ParsePublicKey(" " + want + "\n"); err != nil || got != key {
		t.Fatal(got, err)
	}
	if got := key.Fingerprint(); len(got) != len("SHA256:")+43 {
		t.Fatal(got)
	}
	for _, text := range []string{
		"", want[:len(want)-1], want + "A", want + "=", "ed25519:" + want, strings.Replace(want, "AAA", "A\nA", 1),
		want[:len(want)-1] + "B", // bits behind the end
	} {
		if _, err := ParsePublicKey(text); !errors.Is(err, ErrMalformed) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParsePublicKey(f *testing.F) {
	f.Add(PublicKey{1}.String())
	f.Fuzz(func(t *testing.T, text string) {
		key, err := ParsePublicKey(text)
		if err == nil && key.String() != strings.TrimSpace(text) {
			t.Fatalf("%q was taken as %v", text, key)
		}
	})
}

func FuzzParseIdentity(f *testing.F) {
	identity, err := NewIdentity()
	if err != nil {
		f.Fatal(err)
	}
	b, err := identity.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) { parseIdentity(b) })
}
