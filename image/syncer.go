package image

import (
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// A syncer brings packs to the disk while others are being written, so that Commit finds little left to do.
type syncer struct {
	w         *Writer
	running   sync.WaitGroup
	writeback atomic.Bool // one is under way
}

// pack syncs a pack that is complete. An error becomes the writer's.
func (s *syncer) pack(p *newPack) {
	if s.w.options.NoSync {
		return
	}
	s.running.Go(func() {
		if err := p.blob.sync(); err != nil {
			_ = s.w.fail(err) // whoever calls next is told
		}
	})
}

// writeBack asks the kernel to begin with what has been written of packs, of which some may be nil, unless it is still busy with the last ones. It is a
// hint: there is always a sync afterwards.
func (s *syncer) writeBack(packs []*newPack) bool {
	if s.w.options.NoSync || !s.writeback.CompareAndSwap(false, true) {
		return false
	}
	packs = slices.Clone(packs)
	s.running.Go(func() {
		defer s.writeback.Store(false)
		for _, pack := range packs {
			if pack != nil {
				_ = unix.SyncFileRange(int(pack.blob.file.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE) // blocks while the disk's queue is full
			}
		}
	})
	return true
}

// wait returns when nothing is under way.
func (s *syncer) wait() { s.running.Wait() }
