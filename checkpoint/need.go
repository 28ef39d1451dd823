package checkpoint

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// need is what a kernel says to its pager.
type need struct {
	runs   []image.Run
	mapped [2]uint64 // addresses; zero where it is not about that
}

// receiveNeed reads and checks one request of a kernel whose memory is arriving. The last is
// ErrAllLoaded.
func receiveNeed(socket io.Reader) (n need, err error) {
	id, body, err := receiveRecords(socket)
	switch {
	case err != nil:
		return n, err
	case id == inside.RequestDone && len(body) == 0:
		return n, ErrAllLoaded
	case id == inside.RequestMapped && len(body) == inside.RangeBytes:
		n.mapped = [2]uint64{binary.LittleEndian.Uint64(body), binary.LittleEndian.Uint64(body[8:])}
		return n, checkMapped(n.mapped)
	case id == inside.RequestNeed && len(body) > 0:
		n.runs, err = parseRanges(body, pages.MaxPages*pages.PageSize)
		return n, err
	}
	return n, fmt.Errorf("%w: it makes request %d with %d bytes, which is none", ErrSandbox, id, len(body))
}

// checkMapped checks addresses of the memory file.
func checkMapped(m [2]uint64) error {
	if m[0] == 0 || m[0]%pages.PageSize != 0 || m[1] <= m[0] || m[1]-m[0] > pages.MaxPages*pages.PageSize {
		return fmt.Errorf("%w: it maps its memory from %#x to %#x", ErrSandbox, m[0], m[1])
	}
	return nil
}
