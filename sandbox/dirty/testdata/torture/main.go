// Torture changes memory in every way that a process can, for ever: it is the
// guest of a test. It uses raw system calls and nothing but a writable
// directory.
package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"syscall"
	"time"
)

const (
	page = 4096
	area = 2 << 20
)

func main() {
	all := []func(*rand.Rand){churn, protect, fork, file, sharedFile, reuse, decommit, readInto, heap}
	if len(os.Args) > 1 && os.Args[1] == "reuse" {
		all = []func(*rand.Rand){reuse} // or others would take the freed frames
	}
	for i, f := range all {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(i), 42))
			for {
				f(rng)
				time.Sleep(time.Duration(rng.IntN(3000)) * time.Microsecond)
			}
		}()
	}
	select {}
}

func check(err error, what string) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "torture: %s: %v\n", what, err)
		os.Exit(1)
	}
}

func anonymous(length int) []byte {
	m, err := syscall.Mmap(-1, 0, length, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	check(err, "mmap")
	return m
}

func unmap(m []byte) { check(syscall.Munmap(m), "munmap") }

// scribble writes to random places.
func scribble(rng *rand.Rand, m []byte, n int) {
	for range n {
		m[rng.IntN(len(m))] = byte(rng.Uint32())
	}
}

var sink byte

// look reads a byte of each page and writes nothing.
func look(m []byte) {
	for i := 0; i < len(m); i += page {
		sink ^= m[i]
	}
}

// churn maps, writes, unmaps a part and maps again.
func churn(rng *rand.Rand) {
	m := anonymous(area)
	scribble(rng, m, 200)
	cut := page * (1 + rng.IntN(area/page-2))
	_, _, errno := syscall.Syscall(syscall.SYS_MUNMAP, address(m[cut:]), page, 0)
	if errno != 0 {
		check(errno, "munmap a part")
	}
	scribble(rng, m[:cut], 100)
	scribble(rng, m[cut+page:], 100)
	_, _, errno = syscall.Syscall(syscall.SYS_MUNMAP, address(m), uintptr(cut), 0)
	if errno == 0 {
		_, _, errno = syscall.Syscall(syscall.SYS_MUNMAP, address(m[cut:])+page, uintptr(area-cut-page), 0)
	}
	if errno != 0 {
		check(errno, "munmap the rest")
	}
}

var protected = anonymous(area)

func protect(rng *rand.Rand) {
	at := page * rng.IntN(area/page/2)
	part := protected[at : at+area/4]
	check(syscall.Mprotect(part, syscall.PROT_READ), "mprotect")
	look(part)
	check(syscall.Mprotect(part, syscall.PROT_READ|syscall.PROT_WRITE), "mprotect")
	scribble(rng, part, 50)
}

var copied = anonymous(area)

// fork has a child write to pages that it shares with its parent until then.
func fork(rng *rand.Rand) {
	scribble(rng, copied, 100)
	pid := forkAndScribble(&copied[0], rng.IntN(16)+1)
	if pid < 0 {
		check(syscall.Errno(-pid), "fork")
	}
	scribble(rng, copied, 100)
	_, err := syscall.Wait4(pid, nil, 0, nil)
	check(err, "wait")
}

// file writes a file and truncates it.
func file(rng *rand.Rand) {
	f, err := os.OpenFile("/file", os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	buf := make([]byte, 3*page+rng.IntN(page))
	for range 30 {
		scribble(rng, buf, 10)
		_, err := f.WriteAt(buf, int64(rng.IntN(area)))
		check(err, "write")
	}
	check(f.Truncate(int64(rng.IntN(area))), "truncate")
}

// sharedFile writes to a file by a shared mapping.
func sharedFile(rng *rand.Rand) {
	f, err := os.OpenFile("/shared", os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	check(f.Truncate(area), "truncate")
	m, err := syscall.Mmap(int(f.Fd()), 0, area, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err, "mmap")
	scribble(rng, m, 100)
	_, err = f.WriteAt(m[:page], int64(rng.IntN(area-page)))
	check(err, "write")
	unmap(m)
}

// reuse frees the frames of a file and reads those that it gets then, by itself
// and by having the kernel read them.
func reuse(rng *rand.Rand) {
	f, err := os.OpenFile("/reuse", os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	sink, err := os.OpenFile("/sink", os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer sink.Close()
	buf := make([]byte, area)
	scribble(rng, buf, 1000)
	_, err = sink.WriteAt(buf[:16*page], 0)
	check(err, "write")
	_, err = f.WriteAt(buf, 0)
	check(err, "write")
	time.Sleep(time.Duration(30+rng.IntN(60)) * time.Millisecond)
	check(f.Truncate(0), "truncate")
	time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond)
	m := anonymous(4 * area) // so large that the kernel does not map it ahead
	if rng.IntN(2) == 0 {
		look(m[:area])
	} else {
		for i := 0; i < len(m); i += 16 * page {
			_, err = sink.WriteAt(m[i:i+16*page], 0)
			check(err, "write")
		}
		time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
	}
	check(f.Truncate(area), "truncate")
	m2, err := syscall.Mmap(int(f.Fd()), 0, area, syscall.PROT_READ, syscall.MAP_SHARED)
	check(err, "mmap")
	look(m2)
	time.Sleep(time.Duration(rng.IntN(60)) * time.Millisecond)
	unmap(m2)
	unmap(m)
}

var decommitted = anonymous(area)

// decommit drops pages, and reads and writes some of them again.
func decommit(rng *rand.Rand) {
	scribble(rng, decommitted, 200)
	time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
	at := page * rng.IntN(area/page/2)
	part := decommitted[at : at+area/4]
	check(syscall.Madvise(part, syscall.MADV_DONTNEED), "madvise")
	look(part[:len(part)/2])
}

var buffer = anonymous(area)

// readInto has the kernel write into buffers.
func readInto(rng *rand.Rand) {
	f, err := os.OpenFile("/source", os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	at := rng.IntN(area / 2)
	_, err = f.WriteAt(buffer[at:at+5*page], 0)
	check(err, "write")
	for range 10 {
		_, err = f.ReadAt(buffer[rng.IntN(area-5*page):][:5*page], 0)
		check(err, "read")
	}
}

var keep [64][]byte

// heap makes garbage.
func heap(rng *rand.Rand) {
	for range 20 {
		b := make([]byte, rng.IntN(64<<10))
		if len(b) > 0 {
			scribble(rng, b, 5)
		}
		keep[rng.IntN(len(keep))] = b
	}
}
