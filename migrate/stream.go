package migrate

import (
	"fmt"
	"io"
	"sync"

	"github.com/zeebo/xxh3"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// maxStreamBytes bounds a stream of the kernel: it is kept in memory until the standby has read it.
const maxStreamBytes = 4 << 30

// summer counts and hashes a stream.
type summer struct {
	hash  xxh3.Hasher
	bytes uint64
}

func (s *summer) add(b []byte) {
	s.hash.Write(b)
	s.bytes += uint64(len(b))
}

func (s *summer) digest() string { return wire.Digest(s.hash.Sum128().Bytes()).String() }

// stream is a stream of the kernel on its way in: it keeps what the standby has
// not read yet, so that a standby that reads the streams in another order than
// they come holds up nothing.
type stream struct {
	typ wire.Type

	mu    sync.Mutex
	moved sync.Cond // its lock is mu
	// pending is not written yet. Guarded by mu, as is everything below.
	pending [][]byte
	sum     summer
	ended   bool
}

func newStream(t wire.Type) *stream {
	s := &stream{typ: t}
	s.moved.L = &s.mu
	return s
}

// add takes a piece, which is copied.
func (s *stream) add(b []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.sum.bytes+uint64(len(b)) > maxStreamBytes {
		return fmt.Errorf("%v frame after %d bytes: the stream has ended, or is longer than %d", s.typ, s.sum.bytes, int64(maxStreamBytes))
	}
	s.sum.add(b)
	s.pending = append(s.pending, append([]byte(nil), b...))
	s.moved.Broadcast()
	return nil
}

// end takes the end, which must come after so many bytes.
func (s *stream) end(bytes uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || bytes != s.sum.bytes {
		return fmt.Errorf("%v frames end after %d bytes, %d came", s.typ, bytes, s.sum.bytes)
	}
	s.ended = true
	s.moved.Broadcast()
	return nil
}

// abandon ends the stream before its end: whoever reads sees it cut short.
func (s *stream) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.pending = true, nil
	s.moved.Broadcast()
}

// pump writes what comes to w, and closes it at the end. It returns at the first
// error of w: whoever reads there has had enough, and says why.
func (s *stream) pump(w io.WriteCloser) {
	defer w.Close()
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.ended {
			s.moved.Wait()
		}
		pending := s.pending
		s.pending = nil
		s.mu.Unlock()
		if len(pending) == 0 {
			return
		}
		for _, b := range pending {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
}

// totals returns length and digest of what came.
func (s *stream) totals() (bytes uint64, digest string, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum.bytes, s.sum.digest(), s.ended
}
