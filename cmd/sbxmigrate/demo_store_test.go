package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
)

func TestDemoStoreAnswers(t *testing.T) {
	store := newDemoStore(2)
	var empty, one demoDigest
	empty.add(demoKey(0), demoValue(0, 0))
	empty.add(demoKey(1), demoValue(1, 0))
	one = empty
	one.add("a", []byte("b c"))
	for _, step := range []struct{ request, want string }{
		{"GET a", "NONE"},
		{"GET " + demoKey(1), "VALUE " + string(demoValue(1, 0))},
		{"DIGEST", "2 " + empty.String()},
		{"SET a b c", "OK"},
		{"GET a", "VALUE b c"},
		{"DIGEST", "3 " + one.String()},
		{"INCR a", "ERROR not a number"},
		{"INCR n", "1"},
		{"INCR n", "2"},
		{"GET n", "VALUE 2"},
		{"SET empty ", "OK"},
		{"GET empty", "VALUE "},
		{"SET a", "ERROR unknown request"},
		{"GET a b", "ERROR unknown request"},
		{"DIGEST a", "ERROR unknown request"},
		{"DROP a", "ERROR unknown request"},
		{"GET", "ERROR no key"},
		{"", "ERROR no key"},
	} {
		if got := string(store.answer([]byte(step.request))); got != step.want {
			t.Fatalf("%q: got %.80q, want %.80q", step.request, got, step.want)
		}
	}
}

func TestDemoValues(t *testing.T) {
	seen := make(map[string]bool)
	for i := range 64 {
		for version := range uint32(2) {
			value := demoValue(i, version)
			if len(value) != demoValueBytes || bytes.ContainsRune(value, '\n') {
				t.Fatalf("value %d, version %d: %d bytes, or more than a line", i, version, len(value))
			}
			if !bytes.Equal(value, demoValue(i, version)) {
				t.Fatalf("value %d, version %d is not the same twice", i, version)
			}
			if seen[string(value)] {
				t.Fatalf("value %d, version %d has been there before", i, version)
			}
			seen[string(value)] = true
		}
	}
}

// A demoFault changes an answer to a request, or returns nil to hang up. It may
// change the store.
type demoFault func(store *demoStore, request string, answer []byte) []byte

// faultyClient is a client of a store whose answers pass through fault.
func faultyClient(t *testing.T, fault demoFault) *demoClient {
	const keys = 8
	store := newDemoStore(keys)
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		requests := bufio.NewReaderSize(theirs, maxDemoLineBytes)
		for {
			line, err := requests.ReadBytes('\n')
			if err != nil {
				return
			}
			line = line[:len(line)-1]
			answer := fault(store, string(line), store.answer(line))
			if answer == nil {
				return
			}
			theirs.Write(append(answer, '\n'))
		}
	}()
	return newDemoClient(ours, keys)
}

// rounds has the client ask n times, then compare all keys.
func rounds(c *demoClient, n int) error {
	for range n {
		for _, request := range []func() error{c.increment, c.set, c.get} {
			if err := request(); err != nil {
				return err
			}
		}
	}
	return c.verify()
}

func TestDemoClientFindsEveryFault(t *testing.T) {
	const enough = 200 // that each key has been written and read
	only := func(verb string, fault func(store *demoStore, answer []byte) []byte) demoFault {
		asked := 0
		return func(store *demoStore, request string, answer []byte) []byte {
			if !strings.HasPrefix(request, verb) {
				return answer
			}
			if asked++; asked != 5 {
				return answer
			}
			return fault(store, answer)
		}
	}
	for name, test := range map[string]struct {
		fault demoFault
		want  error // nil where nothing is wrong
	}{
		"none": {func(_ *demoStore, _ string, answer []byte) []byte { return answer }, nil},
		"a counter that goes back": {only("INCR", func(s *demoStore, answer []byte) []byte {
			s.values[demoCounter] = []byte("1")
			return []byte("2")
		}), errDemoMismatch},
		"a counter that forgets its last step": {only("INCR", func(s *demoStore, answer []byte) []byte {
			s.values[demoCounter] = []byte("4")
			return answer
		}), errDemoMismatch},
		"a write that is not acknowledged": {only("SET", func(s *demoStore, answer []byte) []byte {
			return []byte("ERROR")
		}), errDemoMismatch},
		"all memory as it was in the beginning": {only("GET", func(s *demoStore, answer []byte) []byte {
			s.values = newDemoStore(8).values
			return answer
		}), errDemoMismatch},
		"a bit in an answer": {only("GET", func(s *demoStore, answer []byte) []byte {
			answer[100] ^= 1
			return answer
		}), errDemoMismatch},
		"the end of the connection": {only("GET", func(*demoStore, []byte) []byte { return nil }), io.EOF},
	} {
		t.Run(name, func(t *testing.T) {
			if err := rounds(faultyClient(t, test.fault), enough); !errors.Is(err, test.want) {
				t.Errorf("got error %v, want %v", err, test.want)
			}
		})
	}
}

// Faults that no answer shows are found by the digest.
func TestDemoDigestFindsEveryFault(t *testing.T) {
	for name, damage := range map[string]func(values map[string][]byte){
		"a changed bit":          func(v map[string][]byte) { v[demoKey(3)][7] ^= 1 },
		"a lost key":             func(v map[string][]byte) { delete(v, demoKey(3)) },
		"a key too many":         func(v map[string][]byte) { v["other"] = nil },
		"two values, exchanged":  func(v map[string][]byte) { v[demoKey(1)], v[demoKey(3)] = v[demoKey(3)], v[demoKey(1)] },
		"a page that went zero":  func(v map[string][]byte) { clear(v[demoKey(5)]) },
		"an old value":           func(v map[string][]byte) { v[demoKey(2)] = demoValue(2, 1) },
		"a counter that is late": func(v map[string][]byte) { v[demoCounter] = []byte("9") },
	} {
		t.Run(name, func(t *testing.T) {
			client := faultyClient(t, func(s *demoStore, request string, answer []byte) []byte {
				if request != "DIGEST" {
					return answer
				}
				damage(s.values)
				return s.answer([]byte(request))
			})
			for range 10 {
				if err := client.increment(); err != nil {
					t.Fatal(err)
				}
			}
			if err := client.verify(); !errors.Is(err, errDemoMismatch) {
				t.Errorf("got error %v, want %v", err, errDemoMismatch)
			}
		})
	}
}

func TestDemoServerEndsOnLongRequest(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	served := make(chan error, 1)
	go func() { served <- serveDemoStore(theirs, newDemoStore(1)) }()
	if _, err := ours.Write(bytes.Repeat([]byte{'x'}, maxDemoLineBytes)); err != nil {
		t.Fatal(err)
	}
	if err := <-served; !errors.Is(err, bufio.ErrBufferFull) {
		t.Errorf("got error %v, want %v", err, bufio.ErrBufferFull)
	}
}
