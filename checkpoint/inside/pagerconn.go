package inside

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// pagerConn is a connection to the pager. What is told is sent by a goroutine of its
// own, so that nobody who holds a lock waits for the pager.
type pagerConn struct {
	socket *os.File

	mu    sync.Mutex
	more  sync.Cond // its lock is mu
	queue []byte    // guarded by mu, as is ended
	ended bool
}

// byteSpan are the bytes [start, end), of memory or of addresses.
type byteSpan struct{ start, end uint64 }

func newPagerConn(socket *os.File) *pagerConn {
	c := &pagerConn{socket: socket}
	c.more.L = &c.mu
	go c.send()
	return c
}

// tell sends a request.
func (c *pagerConn) tell(id uint32, spans []byteSpan) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = binary.LittleEndian.AppendUint32(c.queue, id)
	c.queue = binary.LittleEndian.AppendUint32(c.queue, uint32(len(spans)))
	for _, s := range spans {
		c.queue = binary.LittleEndian.AppendUint64(c.queue, s.start)
		c.queue = binary.LittleEndian.AppendUint64(c.queue, s.end)
	}
	c.more.Signal()
}

// need asks for pages, in as many requests as it takes.
func (c *pagerConn) need(spans []pageSpan) {
	const maxPages = MaxRequestBytes / pages.PageSize
	var request []byteSpan
	room := uint64(maxPages)
	for _, s := range spans {
		for s.start < s.end {
			n := min(room, s.end-s.start)
			request = append(request, byteSpan{s.start * pages.PageSize, (s.start + n) * pages.PageSize})
			s.start += n
			if room -= n; room == 0 || len(request) == MaxRequestRanges {
				c.tell(RequestNeed, request)
				request, room = nil, maxPages
			}
		}
	}
	if len(request) > 0 {
		c.tell(RequestNeed, request)
	}
}

// end closes the connection when everything was sent.
func (c *pagerConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.more.Signal()
}

// send sends what is told, until the connection ends.
func (c *pagerConn) send() {
	defer hangUp(c.socket)
	for {
		c.mu.Lock()
		for len(c.queue) == 0 && !c.ended {
			c.more.Wait()
		}
		queue := c.queue
		c.queue = nil
		c.mu.Unlock()
		if len(queue) == 0 {
			return
		}
		if _, err := c.socket.Write(queue); err != nil {
			return // receive notices
		}
	}
}

// receive takes in what a pager says until the connection ends.
func (a *arrivals) receive(c *pagerConn) {
	defer c.end()
	// What is missing comes in many small pieces, in the stop.
	buffered := bufio.NewReaderSize(c.socket, 64<<10)
	for {
		if err := a.answer(buffered); err != nil {
			a.lose(c, err)
			return
		}
	}
}

// lose notes the loss of a pager: a wait for the next, if that is known to be worth it.
func (a *arrivals) lose(c *pagerConn, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pager == c {
		a.pager = nil
	}
	switch {
	case a.missing == nil:
		a.fail(err)
	case !errors.Is(err, errComplete):
		log.Infof("pager: %v", err)
	}
}

// answer takes in one answer.
func (a *arrivals) answer(r io.Reader) error {
	var header [RequestHeaderBytes]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return errors.New("pager went away")
	}
	id, count := binary.LittleEndian.Uint32(header[:4]), binary.LittleEndian.Uint32(header[4:])
	if id == AnswerAll {
		count = 0
	}
	spans, err := readSpans(r, count)
	if err != nil {
		return err
	}
	switch id {
	case AnswerAll, AnswerMissing:
		return a.learn(spans)
	case AnswerPlaced:
		return a.placed(spans)
	}
	return fmt.Errorf("pager gives answer %d, which is none", id)
}

// readSpans reads the pages that an answer names.
func readSpans(r io.Reader, count uint32) ([]pageSpan, error) {
	if count > MaxMissingRanges {
		return nil, fmt.Errorf("pager names %d ranges, at most %d", count, MaxMissingRanges)
	}
	var spans []pageSpan
	var record [RangeBytes]byte
	for range count {
		if _, err := io.ReadFull(r, record[:]); err != nil {
			return nil, errors.New("pager went away")
		}
		s := pageSpan{binary.LittleEndian.Uint64(record[:]) / pages.PageSize, binary.LittleEndian.Uint64(record[8:]) / pages.PageSize}
		if s.start >= s.end || s.end > pages.MaxPages {
			return nil, fmt.Errorf("pager names pages %d to %d", s.start, s.end)
		}
		spans = append(spans, s)
	}
	return spans, nil
}

// learn takes in what is missing.
func (a *arrivals) learn(spans []pageSpan) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.missing != nil {
		return errors.New("pager says twice what is missing")
	}
	a.missing = &pages.Set{}
	for _, s := range spans {
		a.missing.AddRange(s.start, s.end)
	}
	a.lasting = len(spans) > 0
	a.prepareOnce()
	return nil
}
