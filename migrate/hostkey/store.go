package hostkey

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
)

// MaxPeers bounds the list of trusted peers: it is searched for every connection.
const MaxPeers = 4096

// maxNameBytes bounds a peer's name.
const maxNameBytes = 64

// Peer is a trusted host.
type Peer struct {
	Name string
	Key  PublicKey
}

// Store is the directory that holds the host's key and those of its peers. Its methods may be used by many
// processes at a time.
type Store struct {
	dir string
}

// Open returns the store in a directory, which need not exist before Init.
func Open(dir string) *Store { return &Store{dir: dir} }

func (s *Store) keyPath() string             { return filepath.Join(s.dir, "host.key") }
func (s *Store) trustedDir() string          { return filepath.Join(s.dir, "trusted") }
func (s *Store) peerPath(name string) string { return filepath.Join(s.trustedDir(), name) }

// Init makes the directory and this host's key. It returns ErrExists where there is one, and changes nothing then.
func (s *Store) Init() (Identity, error) {
	if err := os.MkdirAll(s.trustedDir(), 0o700); err != nil {
		return Identity{}, fmt.Errorf("make key directory: %w", err)
	}
	identity, err := NewIdentity()
	if err != nil {
		return Identity{}, err
	}
	b, err := identity.encode()
	if err != nil {
		return Identity{}, err
	}
	if err := publish(s.keyPath(), b); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return Identity{}, fmt.Errorf("%w in %s", ErrExists, s.dir)
		}
		return Identity{}, fmt.Errorf("write host key: %w", err)
	}
	return identity, nil
}

// Identity reads this host's key.
func (s *Store) Identity() (Identity, error) {
	file, err := os.Open(s.keyPath())
	if errors.Is(err, fs.ErrNotExist) {
		return Identity{}, fmt.Errorf("%w in %s", ErrNoKey, s.dir)
	}
	if err != nil {
		return Identity{}, fmt.Errorf("open host key: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Identity{}, fmt.Errorf("open host key: %w", err)
	}
	if mode := info.Mode(); !mode.IsRegular() || mode.Perm()&0o077 != 0 {
		return Identity{}, fmt.Errorf("%w: %s has mode %v, want -rw-------", ErrExposed, s.keyPath(), mode)
	}
	b, err := readBounded(file)
	if err != nil {
		return Identity{}, fmt.Errorf("read host key: %w", err)
	}
	return parseIdentity(b)
}

// Trust adds a peer. Trusting the same key under the same name again changes nothing.
func (s *Store) Trust(name string, key PublicKey) error {
	if err := checkName(name); err != nil {
		return err
	}
	if own, err := s.Identity(); err == nil && own.Public() == key {
		return ErrOwnKey
	}
	peers, err := s.Peers()
	if err != nil {
		return err
	}
	for _, p := range peers {
		switch {
		case p.Name == name && p.Key == key:
			return nil
		case p.Name == name:
			return fmt.Errorf("%w: %s is %s", ErrNameTaken, name, p.Key.Fingerprint())
		case p.Key == key:
			return fmt.Errorf("%w: %s", ErrKeyTaken, p.Name)
		}
	}
	if len(peers) >= MaxPeers {
		return fmt.Errorf("%w: at most %d", ErrTooMany, MaxPeers)
	}
	if err := os.MkdirAll(s.trustedDir(), 0o700); err != nil {
		return fmt.Errorf("make key directory: %w", err)
	}
	err = publish(s.peerPath(name), []byte(key.String()+"\n"))
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %s", ErrNameTaken, name)
	}
	if err != nil {
		return fmt.Errorf("write key of %s: %w", name, err)
	}
	return nil
}

// Remove ends the trust in a peer. Connections that it has stay; it opens no further one.
func (s *Store) Remove(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	err := os.Remove(s.peerPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s", ErrNoPeer, name)
	}
	if err != nil {
		return fmt.Errorf("remove key of %s: %w", name, err)
	}
	return syncDir(s.trustedDir())
}

// Peers lists the trusted peers by name. A file that is no key is an error that names it: who is trusted must be
// certain.
func (s *Store) Peers() ([]Peer, error) {
	entries, err := os.ReadDir(s.trustedDir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list trusted peers: %w", err)
	}
	var peers []Peer
	for _, entry := range entries {
		if isTemporary(entry.Name()) {
			continue
		}
		if len(peers) >= MaxPeers {
			return nil, fmt.Errorf("%w: at most %d", ErrTooMany, MaxPeers)
		}
		peer, err := s.readPeer(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("read key of %s: %w", entry.Name(), err)
		}
		peers = append(peers, peer)
	}
	sort.Slice(peers, func(i, j int) bool { return peers[i].Name < peers[j].Name })
	return peers, nil
}

// Peer returns a trusted peer by name.
func (s *Store) Peer(name string) (Peer, error) {
	if err := checkName(name); err != nil {
		return Peer{}, err
	}
	peer, err := s.readPeer(name)
	if errors.Is(err, fs.ErrNotExist) {
		return Peer{}, fmt.Errorf("%w: %s", ErrNoPeer, name)
	}
	if err != nil {
		return Peer{}, fmt.Errorf("read key of %s: %w", name, err)
	}
	return peer, nil
}

// Lookup returns the peer that has a key, or ErrUntrusted.
func (s *Store) Lookup(key PublicKey) (Peer, error) {
	peers, err := s.Peers()
	if err != nil {
		return Peer{}, err
	}
	for _, p := range peers {
		if p.Key == key {
			return p, nil
		}
	}
	return Peer{}, fmt.Errorf("%w: %s", ErrUntrusted, key.Fingerprint())
}

func (s *Store) readPeer(name string) (Peer, error) {
	file, err := os.Open(s.peerPath(name))
	if err != nil {
		return Peer{}, err
	}
	defer file.Close()
	b, err := readBounded(file)
	if err != nil {
		return Peer{}, err
	}
	key, err := ParsePublicKey(string(b))
	return Peer{Name: name, Key: key}, err
}

// checkName refuses what is no plain file name.
func checkName(name string) error {
	ok := name != "" && len(name) <= maxNameBytes && name[0] != '.' && name[0] != '-'
	for _, c := range []byte(name) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
		ok = ok && (letter || c == '.' || c == '_' || c == '-')
	}
	if !ok {
		return fmt.Errorf("%w peer name %q: want up to %d letters, digits, dots, dashes and underscores", ErrMalformed, name, maxNameBytes)
	}
	return nil
}

func readBounded(r io.Reader) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, maxKeyFileBytes+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxKeyFileBytes {
		return nil, fmt.Errorf("%w: more than %d bytes", ErrMalformed, maxKeyFileBytes)
	}
	return b, nil
}
