package checkpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
)

// pageSource gives pages of the saved memory file.
type pageSource interface {
	// ReadPages fills dst, whole pages long, with the pages from first on.
	// Pages that were not saved are zero.
	ReadPages(file image.FileID, first uint64, dst []byte) error
}

// pageServer answers the requests of a loading kernel: it places pages in the
// memory file and says so. See inside for the protocol.
type pageServer struct {
	source      pageSource
	memory      *os.File
	memoryBytes uint64
	socket      *os.File

	write       sync.Mutex // guards answers on socket
	bytesPlaced atomic.Int64
}

// pageRequest is one request, checked.
type pageRequest struct {
	id   uint32
	runs []image.Run
}

// serve answers until the kernel has all of its pages and hangs up. workers
// requests are answered at a time. The error is that of the first page that
// could not be had; the socket is closed then, and the sandbox ends.
func (s *pageServer) serve(workers int) error {
	defer s.socket.Close()
	requests := make(chan pageRequest, inside.MaxRequests)
	var group sync.WaitGroup
	var once sync.Once
	var failure error
	fail := func(err error) {
		once.Do(func() {
			failure = err
			s.socket.Close()
		})
	}
	for range workers {
		group.Go(func() {
			buffer := make([]byte, inside.MaxRequestBytes)
			for request := range requests {
				if err := s.answer(request, buffer); err != nil && !errors.Is(err, io.EOF) {
					fail(err)
				}
			}
		})
	}
	for {
		request, err := receiveRequest(s.socket, s.memoryBytes)
		if errors.Is(err, io.EOF) || errors.Is(err, os.ErrClosed) {
			break
		}
		if err != nil {
			fail(err)
			break
		}
		requests <- request
	}
	close(requests)
	group.Wait()
	return failure
}

// receiveRequest reads and checks one request.
func receiveRequest(socket io.Reader, memoryBytes uint64) (pageRequest, error) {
	id, body, err := receiveRecords(socket)
	if err != nil {
		return pageRequest{}, err
	}
	if id >= inside.MaxRequests || len(body) == 0 {
		return pageRequest{}, fmt.Errorf("%w: it makes request %d with %d bytes, limit is %d", ErrSandbox, id, len(body), inside.MaxRequests)
	}
	runs, err := parseRanges(body, memoryBytes)
	return pageRequest{id: id, runs: runs}, err
}

// receiveRecords reads the number of a request, and its ranges as they come. The error is io.EOF
// where a kernel ends.
func receiveRecords(socket io.Reader) (id uint32, body []byte, err error) {
	var header [inside.RequestHeaderBytes]byte
	if _, err := io.ReadFull(socket, header[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		return 0, nil, err
	}
	id, count := binary.LittleEndian.Uint32(header[:4]), binary.LittleEndian.Uint32(header[4:])
	if count > inside.MaxRequestRanges {
		return 0, nil, fmt.Errorf("%w: it asks for pages as request %d with %d ranges, limit is %d", ErrSandbox, id, count, inside.MaxRequestRanges)
	}
	body = make([]byte, count*inside.RangeBytes)
	if _, err := io.ReadFull(socket, body); err != nil {
		return 0, nil, io.EOF
	}
	return id, body, nil
}

// parseRanges checks the ranges of a request.
func parseRanges(body []byte, memoryBytes uint64) ([]image.Run, error) {
	var runs []image.Run
	var pages uint64
	for len(body) > 0 {
		run, err := parseRange(body[:inside.RangeBytes], memoryBytes)
		if err != nil {
			return nil, err
		}
		runs = append(runs, run)
		pages += run.Count
		body = body[inside.RangeBytes:]
	}
	if pages*image.PageBytes > inside.MaxRequestBytes {
		return nil, fmt.Errorf("%w: it asks for %d pages at once, limit is %d", ErrSandbox, pages, inside.MaxRequestBytes/image.PageBytes)
	}
	return runs, nil
}

// answer places the pages of one request. buffer has room for all of them.
func (s *pageServer) answer(request pageRequest, buffer []byte) error {
	for _, run := range request.runs {
		dst := buffer[:run.Count*image.PageBytes]
		if err := s.source.ReadPages(0, run.First, dst); err != nil {
			return err
		}
		if _, err := s.memory.WriteAt(dst, int64(run.First*image.PageBytes)); err != nil {
			return fmt.Errorf("place pages in sandbox memory: %w", err)
		}
		s.bytesPlaced.Add(int64(len(dst)))
	}
	var answer [inside.RequestHeaderBytes]byte
	binary.LittleEndian.PutUint32(answer[:4], request.id)
	s.write.Lock()
	defer s.write.Unlock()
	if _, err := s.socket.Write(answer[:]); err != nil {
		// The sandbox is gone; that is for whoever watches it to say.
		return io.EOF
	}
	return nil
}
