package wire

import (
	"fmt"
	"sync"
)

// Barrier holds the readers of an attempt's data connections at each TypeBarrier until all of them have come to it. Its
// methods may be called concurrently.
type Barrier struct {
	readers int

	mu sync.Mutex
	// moved is signalled when passed or err changes. Its lock is mu.
	moved sync.Cond
	// arrived counts the readers that wait at the next barrier. Guarded by mu, as is everything below.
	arrived int
	// pending is the number that they wait at.
	pending uint64
	// passed counts the barriers that are over.
	passed uint64
	err    error
}

// NewBarrier returns a Barrier for a number of readers.
func NewBarrier(readers int) *Barrier {
	b := &Barrier{readers: readers}
	b.moved.L = &b.mu
	return b
}

// Arrive is called by each reader with the number of a barrier that it read. It returns when all readers have called it
// with this number, and reports whether this call was the last: that one may answer Placed. An error, ErrSequence where
// two readers arrive at different barriers, is everybody's from then on.
func (b *Barrier) Arrive(number uint64) (last bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return false, b.err
	}
	if b.arrived > 0 && number != b.pending {
		b.breakLocked(failf(CodeSequence, "one connection is at barrier %d, another at %d", b.pending, number))
		return false, b.err
	}
	b.pending = number
	if b.arrived++; b.arrived == b.readers {
		b.arrived = 0
		b.passed++
		b.moved.Broadcast()
		return true, nil
	}
	for passed := b.passed; b.passed == passed && b.err == nil; {
		b.moved.Wait()
	}
	return false, b.err
}

// Break ends all waiting, now and later, with an error. A reader whose connection is lost calls it.
func (b *Barrier) Break(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.breakLocked(fmt.Errorf("data connection: %w", err))
}

func (b *Barrier) breakLocked(err error) {
	if b.err == nil {
		b.err = err
		b.moved.Broadcast()
	}
}
