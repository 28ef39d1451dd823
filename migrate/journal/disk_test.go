package journal

import (
	"bytes"
	"errors"
	"io/fs"
)

var errDisk = errors.New("disk error")

// fate is what becomes of one write.
type fate int

const (
	fine      fate = iota
	nothing        // fails; nothing of it is there
	torn1          // fails; the first half can be read, nothing is durable
	readable       // fails; can be read, is not durable
	there          // fails; is durable
	tornThere      // fails; the first half is durable
	fates
)

// fakeDisk is a disk that has one file, in two layers: what can be read, and what survives the end of the host.
type fakeDisk struct {
	cache, platter []byte // nil: no file
	fates          []fate // of the writes to come; then fine
}

func (d *fakeDisk) fate() fate {
	if len(d.fates) == 0 {
		return fine
	}
	f := d.fates[0]
	d.fates = d.fates[1:]
	return f
}

func (d *fakeDisk) read(string) ([]byte, error) {
	if d.cache == nil {
		return nil, fs.ErrNotExist
	}
	return bytes.Clone(d.cache), nil
}

func (d *fakeDisk) append(_ string, offset int64, b []byte) error {
	if int64(len(d.cache)) != offset {
		return errors.New("not at the end")
	}
	half := append(bytes.Clone(d.cache), b[:len(b)/2]...)
	return d.settle(append(bytes.Clone(d.cache), b...), half)
}

func (d *fakeDisk) replace(_ string, content []byte) error {
	// A rename leaves the old or the new file, never half of one.
	return d.settle(bytes.Clone(content), d.cache)
}

func (d *fakeDisk) settle(whole, half []byte) error {
	switch d.fate() {
	case fine:
		d.cache, d.platter = whole, whole
		return nil
	case torn1:
		d.cache = half
	case readable:
		d.cache = whole
	case there:
		d.cache, d.platter = whole, whole
	case tornThere:
		d.cache, d.platter = half, half
	}
	return errDisk
}

// crash is the end of the host.
func (d *fakeDisk) crash() { d.cache = d.platter }
