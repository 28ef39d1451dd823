package inside

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"os"
	"time"

	"gvisor.dev/gvisor/pkg/log"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty"
)

// The events of a stop go to the pager as they happen, as records of RangeBytes,
// two little-endian numbers each. The first says that the tasks are paused and
// the gates shut, and how many nanoseconds that took (and 0). Those after it are
// what is dirty since the last collection, as first byte and end, or the one record
// UnknownDirty, where nothing tracks. The last record is two zeros.

// UnknownDirty in both numbers says that every page may be dirty.
const UnknownDirty = math.MaxUint64

// stopEvents is the sending side.
type stopEvents struct {
	file    *os.File
	tracker *dirty.Tracker
}

func eventRecord(a, b uint64) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(make([]byte, 0, RangeBytes), a), b)
}

// stopped sends the first event. That the pager is gone shows elsewhere.
func (e *stopEvents) stopped(pause time.Duration) {
	e.file.Write(eventRecord(uint64(pause.Nanoseconds()), 0))
}

// collect makes the last collection and sends it.
func (e *stopEvents) collect() {
	defer e.close()
	set, _, err := e.tracker.CollectLast()
	if err != nil {
		log.Infof("dirty pages of the stop are not known: %v", err)
		e.file.Write(append(eventRecord(UnknownDirty, UnknownDirty), eventRecord(0, 0)...))
		return
	}
	out := bufio.NewWriterSize(writerOnly{e.file}, 64<<10)
	for start, end := range set.Ranges() {
		out.Write(eventRecord(start*dirtyPageBytes, end*dirtyPageBytes))
	}
	out.Write(eventRecord(0, 0))
	out.Flush()
}

func (e *stopEvents) close() {
	if e.file != nil {
		e.file.Close()
		e.file = nil
	}
}

// writerOnly hides what else a file can do: it would use system calls that a
// sandbox process may not make.
type writerOnly struct{ io.Writer }
