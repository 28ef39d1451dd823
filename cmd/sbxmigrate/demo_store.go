package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
)

// The demo's key-value store, and the contents that both its ends know.

// demoValueBytes is the length of every value that the demo stores.
const demoValueBytes = 4096

// demoCounter is the key that INCR counts in. The other keys are demoKey's.
const demoCounter = "counter"

func demoKey(i int) string { return fmt.Sprintf("key:%07d", i) }

// demoWords make the half of the values that compresses.
var demoWords = []string{
	"the ", "sandbox ", "moves ", "while ", "its ", "client ", "waits ", "for ", "answers ", "and ", "memory ", "follows ",
	"page ", "by ", "host ", "kernel ",
}

// demoValue is what a key holds after it has been written version times: text
// for even keys, noise for odd ones, never with a newline in it. The server
// fills itself with version 0, and the client knows every answer.
func demoValue(i int, version uint32) []byte {
	var seed [32]byte
	copy(seed[:], fmt.Sprintf("%d/%d", i, version))
	noise := rand.NewChaCha8(seed)
	value := make([]byte, demoValueBytes)
	if i%2 == 1 {
		noise.Read(value)
		return bytes.ReplaceAll(value, []byte{'\n'}, []byte{'\t'})
	}
	for n := 0; n < len(value); {
		n += copy(value[n:], demoWords[noise.Uint64()%uint64(len(demoWords))])
	}
	return value
}

// demoDigest identifies the content of a store whatever its order: the XOR of
// its entries' hashes. Replacing an entry adds the old one and the new one.
type demoDigest [sha256.Size]byte

func (d *demoDigest) add(key string, value []byte) {
	hash := sha256.New()
	hash.Write([]byte(key + " "))
	hash.Write(value)
	for i, b := range hash.Sum(nil) {
		d[i] ^= b
	}
}

func (d *demoDigest) String() string { return hex.EncodeToString(d[:]) }

// demoStore is what the demo's server keeps in memory. Its protocol has one line
// for a request and one for the answer:
//
//	SET key value   OK
//	GET key         VALUE value, or NONE
//	INCR key        the new number
//	DIGEST          number of keys and demoDigest of them all
//
// and ERROR reason where a request cannot be understood.
type demoStore struct {
	mu     sync.Mutex
	values map[string][]byte
}

func newDemoStore(keys int) *demoStore {
	s := &demoStore{values: make(map[string][]byte, keys+1)}
	for i := range keys {
		s.values[demoKey(i)] = demoValue(i, 0)
	}
	return s
}

// answer carries a request out. It keeps nothing of the request's memory.
func (s *demoStore) answer(request []byte) []byte {
	verb, rest, _ := bytes.Cut(request, []byte{' '})
	key, value, hasValue := bytes.Cut(rest, []byte{' '})
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case string(verb) == "DIGEST" && len(rest) == 0:
		return s.digest()
	case len(key) == 0:
		return []byte("ERROR no key")
	case string(verb) == "SET" && hasValue:
		s.values[string(key)] = bytes.Clone(value)
		return []byte("OK")
	case string(verb) == "GET" && !hasValue:
		if value, found := s.values[string(key)]; found {
			return append([]byte("VALUE "), value...)
		}
		return []byte("NONE")
	case string(verb) == "INCR" && !hasValue:
		return s.increment(string(key))
	default:
		return []byte("ERROR unknown request")
	}
}

func (s *demoStore) increment(key string) []byte {
	number := int64(0)
	if old, found := s.values[key]; found {
		var err error
		if number, err = strconv.ParseInt(string(old), 10, 64); err != nil {
			return []byte("ERROR not a number")
		}
	}
	s.values[key] = strconv.AppendInt(nil, number+1, 10)
	return s.values[key]
}

func (s *demoStore) digest() []byte {
	var d demoDigest
	for key, value := range s.values {
		d.add(key, value)
	}
	return fmt.Appendf(nil, "%d %v", len(s.values), &d)
}
