package migrate

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// server answers a target's requests for missing pages of a sandbox that stands still
// here, each on the connection that it came on.
type server struct {
	memory    *os.File
	filePages uint64
	lanes     *lanes

	compared atomic.Uint64 // counts pieces of memory that were summed for the target
	failed   chan struct{} // closed when a connection has ended
	once     sync.Once
}

// serve begins to answer on all lanes.
func serve(memory *os.File, l *lanes) (*server, error) {
	info, err := memory.Stat()
	if err != nil {
		return nil, fmt.Errorf("size of sandbox memory: %w", err)
	}
	s := &server{memory: memory, filePages: min(uint64(info.Size())/pages.PageSize, pages.MaxPages), lanes: l, failed: make(chan struct{})}
	for on := range l.list {
		go func() {
			s.lane(on)
			s.once.Do(func() { close(s.failed) })
		}()
	}
	return s, nil
}

// lane answers on one connection until it ends.
func (s *server) lane(on int) error {
	r := wire.NewReader(s.lanes.list[on].conn)
	buffer := make([]byte, wire.MaxBatchPages*pages.PageSize)
	var listed []wire.Range
	for {
		f, err := r.Next()
		if err != nil {
			return err
		}
		switch f.Type {
		case wire.TypeRequest:
			var ranges []wire.Range
			if ranges, err = wire.ParseRequest(nil, f.Payload, s.filePages); err == nil {
				err = s.send(on, ranges, buffer)
			}
		case wire.TypeMissing:
			listed, err = wire.ParseRanges(listed, f.Payload, s.filePages)
		case wire.TypeEnd:
			err = s.compare(on, listed, f.Payload, buffer)
			listed = nil
		default:
			err = errors.New("target asks for no pages")
		}
		if err != nil {
			return fmt.Errorf("%v frame: %w", f.Type, err)
		}
	}
}

// send sends pages, the first ones first.
func (s *server) send(on int, ranges []wire.Range, buffer []byte) error {
	lane := s.lanes.list[on]
	err := s.read(ranges, buffer, func(first uint64, data []byte) error { return s.lanes.pagesOn(lane, first, data, nil) })
	if err != nil {
		return err
	}
	return lane.flush()
}

// compare answers a list of pages that have come with their sum.
func (s *server) compare(on int, listed []wire.Range, payload, buffer []byte) error {
	end, err := wire.ParseEnd(payload)
	if err != nil {
		return err
	}
	if end.Type != wire.TypeMissing || end.Bytes != uint64(len(listed))*rangeBytes {
		return fmt.Errorf("it ends %d bytes of %v frames, %d missing ranges came", end.Bytes, end.Type, len(listed))
	}
	var sum wire.PageSum
	err = s.read(listed, buffer, func(first uint64, data []byte) error {
		s.compared.Add(1)
		for i := range len(data) / pages.PageSize {
			h := pages.HashPage(data[i*pages.PageSize:][:pages.PageSize])
			sum.Add(memoryStream, first+uint64(i), wire.Digest(h.Bytes()))
		}
		return nil
	})
	if err != nil {
		return err
	}
	digest := sum.Digest()
	return s.lanes.frame(on, wire.TypeSum, memoryStream, digest[:], true)
}

// read gives pages of memory to a function, some at a time.
func (s *server) read(ranges []wire.Range, buffer []byte, give func(first uint64, data []byte) error) error {
	for _, r := range ranges {
		for first := r.Page; first < r.End(); {
			data := buffer[:min(uint64(len(buffer)), (r.End()-first)*pages.PageSize)]
			if _, err := s.memory.ReadAt(data, int64(first*pages.PageSize)); err != nil {
				return fmt.Errorf("read sandbox memory: %w", err)
			}
			if err := give(first, data); err != nil {
				return err
			}
			first += uint64(len(data)) / pages.PageSize
		}
	}
	return nil
}
