package main

import (
	"hash/crc32"
	"math/rand/v2"
	"os"
	"syscall"
)

// churn maps, writes, unmaps a part and maps again.
func churn(rng *rand.Rand) {
	c := fresh(area)
	c.expect("new memory")
	c.scribble(rng, 200)
	cut := page * (1 + rng.IntN(area/page-2))
	unmapPart(c.memory[cut : cut+page])
	before, after := c.slice(0, cut), c.slice(cut+page, area)
	before.scribble(rng, 100)
	after.scribble(rng, 100)
	pause(rng, 0, 3)
	before.expect("memory before a part that was unmapped")
	after.expect("memory after a part that was unmapped")
	unmapPart(before.memory)
	unmapPart(after.memory)
}

var protected = fresh(area)

func protect(rng *rand.Rand) {
	protected.expect("memory that was protected and is not")
	at := page * rng.IntN(area/page/2)
	part := protected.slice(at, at+area/4)
	check(syscall.Mprotect(part.memory, syscall.PROT_READ), "mprotect")
	part.expect("memory that is protected")
	check(syscall.Mprotect(part.memory, syscall.PROT_READ|syscall.PROT_WRITE), "mprotect")
	part.scribble(rng, 50)
}

var copied = fresh(area)

// fork has a child write to pages that it shares with its parent until then.
func fork(rng *rand.Rand) {
	copied.scribble(rng, 100)
	pid := forkAndScribble(&copied.memory[0], &copied.want[0], rng.IntN(16)+1)
	if pid < 0 {
		check(syscall.Errno(-pid), "fork")
	}
	copied.scribble(rng, 100)
	var status syscall.WaitStatus
	_, err := syscall.Wait4(pid, &status, 0, nil)
	check(err, "wait")
	if !status.Exited() || status.ExitStatus() != 0 {
		fail("memory of a child: it ended with %#x", status)
	}
	copied.expect("memory that a child had a copy of")
}

var fileContent []byte // of the file

// file writes a file and truncates it.
func file(rng *rand.Rand) {
	f, err := os.OpenFile(path("file"), os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	found, err := os.ReadFile(f.Name())
	check(err, "read file")
	if len(found) != len(fileContent) {
		fail("a file: %d bytes, was left with %d", len(found), len(fileContent))
	}
	expect(found, fileContent, "a file")
	buf := make([]byte, 3*page+rng.IntN(page))
	content := make([]byte, 2*area)
	size := copy(content, fileContent)
	for range 30 {
		fill(rng, buf, 10)
		at := rng.IntN(area)
		_, err := f.WriteAt(buf, int64(at))
		check(err, "write")
		size = max(size, at+copy(content[at:], buf))
	}
	size = rng.IntN(area)
	check(f.Truncate(int64(size)), "truncate")
	fileContent = content[:size]
}

// fill writes to random places of a buffer.
func fill(rng *rand.Rand, b []byte, n int) {
	for range n {
		b[rng.IntN(len(b))] = byte(rng.Uint32())
	}
}

var sharedContent = make([]byte, area) // of the file

// sharedFile writes to a file by a shared mapping.
func sharedFile(rng *rand.Rand) {
	f, err := os.OpenFile(path("shared"), os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	check(f.Truncate(area), "truncate")
	m, err := syscall.Mmap(int(f.Fd()), 0, area, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	check(err, "mmap")
	c := checked{m, sharedContent}
	c.expect("a file that is mapped")
	c.scribble(rng, 100)
	at := page + rng.IntN(area-2*page) // clear of where it comes from
	_, err = f.WriteAt(c.memory[:page], int64(at))
	check(err, "write")
	copy(c.want[at:], c.want[:page])
	found, err := os.ReadFile(f.Name())
	check(err, "read file")
	expect(found, c.want, "a file that was mapped")
	unmap(m)
}

// reuse frees the frames of a file and reads those that it gets then, by itself
// and by having the kernel read them.
func reuse(rng *rand.Rand) {
	f, err := os.OpenFile(path("reuse"), os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	sink, err := os.OpenFile(path("sink"), os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer sink.Close()
	buf := make([]byte, area)
	fill(rng, buf, 1000)
	_, err = sink.WriteAt(buf[:16*page], 0)
	check(err, "write")
	_, err = f.WriteAt(buf, 0)
	check(err, "write")
	pause(rng, 30, 60)
	check(f.Truncate(0), "truncate")
	pause(rng, 0, 20)
	m := anonymous(4 * area) // so large that the kernel does not map it ahead
	if rng.IntN(2) == 0 {
		expectZeros(m[:area], "memory in frames that were freed")
	} else {
		found := make([]byte, 16*page)
		for i := 0; i < len(m); i += 16 * page {
			_, err = sink.WriteAt(m[i:i+16*page], 0)
			check(err, "write")
			_, err = sink.ReadAt(found, 0)
			check(err, "read")
			expectZeros(found, "what the kernel read from memory in frames that were freed")
		}
		pause(rng, 0, 60)
	}
	check(f.Truncate(area), "truncate")
	m2, err := syscall.Mmap(int(f.Fd()), 0, area, syscall.PROT_READ, syscall.MAP_SHARED)
	check(err, "mmap")
	expectZeros(m2, "a file in frames that were freed")
	pause(rng, 0, 60)
	expectZeros(m2, "a file in frames that were freed, later")
	expectZeros(m, "memory in frames that were freed, later")
	unmap(m2)
	unmap(m)
}

var decommitted = fresh(area)

// decommit drops pages, and reads and writes some of them again.
func decommit(rng *rand.Rand) {
	decommitted.scribble(rng, 200)
	pause(rng, 0, 40)
	decommitted.expect("memory of which parts are dropped at times")
	at := page * rng.IntN(area/page/2)
	part := decommitted.slice(at, at+area/4)
	check(syscall.Madvise(part.memory, syscall.MADV_DONTNEED), "madvise")
	clear(part.want)
	half := part.slice(0, len(part.memory)/2)
	half.expect("memory that was dropped")
}

var buffer = fresh(area)

// readInto has the kernel write into buffers.
func readInto(rng *rand.Rand) {
	f, err := os.OpenFile(path("source"), os.O_RDWR|os.O_CREATE, 0o600)
	check(err, "open")
	defer f.Close()
	buffer.expect("memory that the kernel writes to")
	at := rng.IntN(area / 2)
	fill(rng, buffer.memory[at:at+5*page], 20)
	content := append([]byte(nil), buffer.memory[at:at+5*page]...)
	copy(buffer.want[at:], content)
	_, err = f.WriteAt(buffer.memory[at:at+5*page], 0)
	check(err, "write")
	for range 10 {
		to := rng.IntN(area - 5*page)
		_, err = f.ReadAt(buffer.memory[to:][:5*page], 0)
		check(err, "read")
		copy(buffer.want[to:], content)
	}
}

// kept is garbage to be, and its checksum.
var kept [64]struct {
	b   []byte
	sum uint32
}

// heap makes garbage.
func heap(rng *rand.Rand) {
	for range 20 {
		k := &kept[rng.IntN(len(kept))]
		if crc32.ChecksumIEEE(k.b) != k.sum {
			fail("%d bytes of the heap: the checksum is another", len(k.b))
		}
		b := make([]byte, 1+rng.IntN(64<<10))
		fill(rng, b, 5)
		k.b, k.sum = b, crc32.ChecksumIEEE(b)
	}
}
