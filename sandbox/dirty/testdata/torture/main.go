// Torture changes memory in every way that a process can, for ever, and checks
// that it finds what it left there: it is the guest of tests. It uses raw system
// calls and nothing but a writable directory.
//
//	torture [NAME [DIRECTORY]]
//
// NAME is the one activity to do; without it, or empty, it is all of them but the
// writer. With a DIRECTORY it says there, in the file progress, how often each has
// found everything in its place. It ends, with a message, when one has not.
package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	page = 4096
	area = 2 << 20
)

// activity changes memory, and checks it.
type activity struct {
	name  string
	do    func(*rand.Rand)
	found atomic.Int64 // times that all was in its place
}

var directory = "/"

func main() {
	all := []*activity{
		{name: "churn", do: churn}, {name: "protect", do: protect}, {name: "fork", do: fork}, {name: "file", do: file},
		{name: "shared", do: sharedFile}, {name: "reuse", do: reuse}, {name: "decommit", do: decommit},
		{name: "read", do: readInto}, {name: "heap", do: heap},
	}
	if len(os.Args) > 1 && os.Args[1] != "" {
		all = only(append(all, &activity{name: "write", do: write}), os.Args[1])
	}
	if len(os.Args) > 2 {
		directory = os.Args[2]
		go tell(all)
	}
	for i, a := range all {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(i), 42))
			for {
				a.do(rng)
				a.found.Add(1)
				if a.name != "write" {
					time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
				}
			}
		}()
	}
	select {}
}

func only(all []*activity, name string) []*activity {
	for _, a := range all {
		if a.name == name {
			return []*activity{a} // or others would take the frames that it frees
		}
	}
	fail("there is no activity %q", name)
	return nil
}

// tell writes how often each activity has found all in its place.
func tell(all []*activity) {
	for {
		var b strings.Builder
		for _, a := range all {
			fmt.Fprintf(&b, "%s %d\n", a.name, a.found.Load())
		}
		check(os.WriteFile(path("progress.new"), []byte(b.String()), 0o644), "write progress")
		check(os.Rename(path("progress.new"), path("progress")), "rename progress")
		time.Sleep(100 * time.Millisecond)
	}
}

func path(name string) string { return strings.TrimSuffix(directory, "/") + "/" + name }

func fail(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "torture: "+format+"\n", args...)
	os.Exit(1)
}

func check(err error, what string) {
	if err != nil {
		fail("%s: %v", what, err)
	}
}

// expect ends the program where it does not find what it left.
func expect(got, want []byte, what string) {
	if bytes.Equal(got, want) {
		return
	}
	for i := range want {
		if got[i] != want[i] {
			fail("%s: byte %d of %d is %#x, was left as %#x", what, i, len(want), got[i], want[i])
		}
	}
}

var zeros [4 * area]byte

func expectZeros(got []byte, what string) { expect(got, zeros[:len(got)], what) }

// checked is memory whose content is known.
type checked struct{ memory, want []byte }

// fresh returns new memory, which is zeros.
func fresh(length int) checked {
	return checked{anonymous(length), make([]byte, length)}
}

func (c checked) slice(from, to int) checked { return checked{c.memory[from:to], c.want[from:to]} }

func (c checked) expect(what string) { expect(c.memory, c.want, what) }

// scribble writes to random places.
func (c checked) scribble(rng *rand.Rand, n int) {
	for range n {
		c.set(rng.IntN(len(c.memory)), byte(rng.Uint32()))
	}
}

func (c checked) set(at int, b byte) { c.memory[at], c.want[at] = b, b }

func anonymous(length int) []byte {
	m, err := syscall.Mmap(-1, 0, length, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	check(err, "mmap")
	return m
}

func unmap(m []byte) { check(syscall.Munmap(m), "munmap") }

// unmapPart unmaps a part of what was mapped as a whole.
func unmapPart(m []byte) {
	if _, _, errno := syscall.Syscall(syscall.SYS_MUNMAP, address(m), uintptr(len(m)), 0); errno != 0 {
		check(errno, "munmap a part")
	}
}

func pause(rng *rand.Rand, atLeast, more int) {
	time.Sleep(time.Duration(atLeast+rng.IntN(more)) * time.Millisecond)
}
