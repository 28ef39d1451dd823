package image

import (
	"crypto/sha256"

	"github.com/klauspost/compress/zstd"

	"github.com/sbxmigrate/sbxmigrate/image/sha256x16"
)

// newPack is a pack being written, by one lane at a time.
type newPack struct {
	number uint32 // among the writer's packs, those of parents included
	blob   *newBlob
	frames []frame
	pages  uint32            // staged or written
	digest [sha256.Size]byte // once it is complete
}

// A lane takes in pages and writes them to packs of its own: zero pages and those that are stored already are dropped, the
// others are staged until there are enough to encode and write them in one go. One goroutine has a lane at a time.
//
// Where the CPU hashes many streams in the time of few, a lane has that many packs: the frames of its stage go to one after the other.
// See WriterOptions.packs.
type lane struct {
	w       *Writer
	tagger  tagger
	encoder *frameEncoder // nil without compression
	hasher  *sha256x16.Hasher

	packs  []*newPack // stream i of hasher is that of pack i; nil until there is something to store
	stage  []byte     // stagePages pages
	staged int        // pages in stage, the last ones of their packs
	tags   []byte     // of the pages in stage
	out    []byte     // encoded frames
	where  [stagePages]location

	written int64 // bytes in packs since the kernel was asked to bring them to the disk
}

func newLane(w *Writer, level zstd.EncoderLevel) (*lane, error) {
	l := &lane{
		w:      w,
		hasher: sha256x16.New(w.options.packs),
		packs:  make([]*newPack, w.options.packs),
		stage:  make([]byte, stagePages*PageBytes),
		tags:   make([]byte, 0, stagePages*tagBytes),
	}
	if w.options.Compression == CompressionNone {
		return l, nil
	}
	var err error
	l.encoder, err = newFrameEncoder(level)
	l.out = make([]byte, 0, len(l.stage)+frameBytes) // EncodeAll never has to grow it
	return l, err
}

// add takes in a run of pages. fill puts some of them, counted from the run's first, into memory of the lane, where nobody can
// change them between the look at their content and the write.
func (l *lane) add(file FileID, run Run, fill func(page uint64, into []byte) error) error {
	for done := uint64(0); done < run.Count; {
		if l.staged == stagePages {
			if err := l.flush(); err != nil {
				return err
			}
		}
		n := min(run.Count-done, uint64(stagePages-l.staged))
		fresh := l.stage[l.staged*PageBytes:][:n*PageBytes]
		if err := fill(done, fresh); err != nil {
			return err
		}
		if err := l.absorb(file, run.First+done, fresh); err != nil {
			return err
		}
		done += n
	}
	return nil
}

// absorb looks at fresh pages, which stand behind those already staged, and moves together those that must be stored.
func (l *lane) absorb(file FileID, first uint64, fresh []byte) error {
	n := len(fresh) / PageBytes
	where := l.where[:n]
	zeros, equal := 0, 0
	for i := range n {
		page := fresh[i*PageBytes:][:PageBytes]
		if isZero(page) {
			where[i] = zeroHere
			zeros++
			continue
		}
		pack, err := l.next()
		if err != nil {
			return err
		}
		tag := l.tagger.tag(l.w.mac, page)
		at, found := l.w.dedup.claim(tag, makeLocation(pack.number, pack.pages))
		where[i] = at
		if found {
			equal++
			continue
		}
		if to := l.staged * PageBytes; &l.stage[to] != &page[0] {
			copy(l.stage[to:], page)
		}
		l.staged++
		l.tags = append(l.tags, tag[:]...)
		pack.pages++
	}
	l.w.table(file).set(first, where)
	l.w.counts.add(n, zeros, equal)
	return nil
}

// next returns the pack of the next page that is staged.
func (l *lane) next() (*newPack, error) {
	i := l.staged / FramePages % len(l.packs)
	if l.packs[i] == nil {
		blob, err := l.w.store.createBlob()
		if err != nil {
			return nil, err
		}
		if l.packs[i], err = l.w.register(blob); err != nil {
			return nil, err
		}
	}
	return l.packs[i], nil
}

// flush encodes, writes and hashes what is staged, and ends packs that are large enough.
func (l *lane) flush() error {
	pages, tags := l.stage[:l.staged*PageBytes], l.tags
	l.out = l.out[:0]
	for len(pages) > 0 {
		var written [sha256x16.Streams][]byte
		for i := 0; i < len(l.packs) && len(pages) > 0; i++ {
			n := min(FramePages, len(pages)/PageBytes)
			var err error
			if written[i], err = l.write(l.packs[i], pages[:n*PageBytes], tags[:n*tagBytes]); err != nil {
				return err
			}
			pages, tags = pages[n*PageBytes:], tags[n*tagBytes:]
		}
		l.hasher.Write(&written)
	}
	l.staged, l.tags = 0, l.tags[:0]
	for i, pack := range l.packs {
		if pack != nil && (pack.blob.size >= l.w.options.PackBytes || pack.pages > MaxPackPages-stagePages) {
			l.complete(i)
		}
	}
	if l.written >= writebackBytes && l.w.syncer.writeBack(l.packs) {
		l.written = 0
	}
	return nil
}

// write writes pages, which have these tags, as a frame, and returns how it is stored: in the stage, or in l.out.
func (l *lane) write(pack *newPack, pages, tags []byte) ([]byte, error) {
	f := frame{pages: uint8(len(pages) / PageBytes), codec: codecRaw, tag: l.tagger.tag(l.w.mac, tags)}
	stored := pages
	if encoded := l.encode(pages); encoded != nil {
		f.codec, stored = codecZstd, encoded
		l.out = l.out[:len(l.out)+len(encoded)]
	}
	f.stored = uint32(len(stored))
	l.written += int64(len(stored))
	pack.frames = append(pack.frames, f)
	return stored, pack.blob.append(stored)
}

// encode puts the encoded frame behind l.out without taking it in, and returns it: nil if it is better stored raw.
func (l *lane) encode(frame []byte) []byte {
	if l.encoder == nil {
		return nil
	}
	return l.encoder.encode(l.out, frame)
}

// complete ends a pack: the next page for it begins another.
func (l *lane) complete(i int) {
	l.packs[i].digest = l.hasher.Sum(i)
	l.hasher.Reset(i)
	l.w.syncer.pack(l.packs[i])
	l.packs[i] = nil
}

// end writes what is staged and ends all packs.
func (l *lane) end() error {
	if err := l.flush(); err != nil {
		return err
	}
	for i, pack := range l.packs {
		if pack != nil {
			l.complete(i)
		}
	}
	return nil
}
