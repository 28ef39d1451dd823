package image

import "github.com/klauspost/compress/zstd"

// newPack is a pack being written, by one lane at a time.
type newPack struct {
	number uint32 // among the writer's packs, those of parents included
	blob   *newBlob
	frames []frame
	pages  uint32 // staged or written

	writtenBack int64
}

// A lane takes in pages and writes them to packs of its own: zero pages and those that are stored already are dropped, the
// others are staged until there are enough to encode and write them in one go. One goroutine has a lane at a time.
type lane struct {
	w       *Writer
	tagger  tagger
	encoder *frameEncoder // nil without compression

	pack   *newPack // nil until there is something to store
	stage  []byte   // stagePages pages
	staged int      // pages in stage, the last ones of pack
	tags   []byte   // of the pages in stage
	out    []byte   // encoded frames
	where  [stagePages]location
}

func newLane(w *Writer, level zstd.EncoderLevel) (*lane, error) {
	l := &lane{w: w, stage: make([]byte, stagePages*PageBytes), tags: make([]byte, 0, stagePages*tagBytes)}
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
		if l.pack == nil {
			if err := l.begin(); err != nil {
				return err
			}
		}
		n := min(run.Count-done, uint64(stagePages-l.staged))
		fresh := l.stage[l.staged*PageBytes:][:n*PageBytes]
		if err := fill(done, fresh); err != nil {
			return err
		}
		l.absorb(file, run.First+done, fresh)
		done += n
	}
	return nil
}

// absorb looks at fresh pages, which stand behind those already staged, and moves together those that must be stored.
func (l *lane) absorb(file FileID, first uint64, fresh []byte) {
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
		tag := l.tagger.tag(l.w.mac, page)
		at, found := l.w.dedup.claim(tag, makeLocation(l.pack.number, l.pack.pages))
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
		l.pack.pages++
	}
	l.w.table(file).set(first, where)
	l.w.counts.add(n, zeros, equal)
}

func (l *lane) begin() error {
	blob, err := l.w.store.createBlob()
	if err != nil {
		return err
	}
	l.pack, err = l.w.register(blob)
	return err
}

// flush encodes and writes what is staged, and ends the pack once it is large enough.
func (l *lane) flush() error {
	if l.staged == 0 {
		return nil
	}
	if err := l.write(l.stage[:l.staged*PageBytes], l.tags); err != nil {
		return err
	}
	l.staged, l.tags = 0, l.tags[:0]
	pack := l.pack
	if pack.blob.size >= l.w.options.PackBytes || pack.pages > MaxPackPages-stagePages {
		l.pack = nil
		l.w.syncer.pack(pack)
		return nil
	}
	if pack.blob.size-pack.writtenBack >= writebackBytes {
		l.w.syncer.writeBack(pack)
		pack.writtenBack = pack.blob.size
	}
	return nil
}

// write encodes pages, which have these tags, as frames and writes them. Neighbouring raw frames go out in one piece from where they are.
func (l *lane) write(pages, tags []byte) error {
	var raw []byte // frames before this one that are still to be written; never at the same time as l.out
	l.out = l.out[:0]
	for len(pages) > 0 {
		frame := pages[:min(len(pages), frameBytes)]
		pages = pages[len(frame):]
		n := len(frame) / PageBytes
		tag := l.tagger.tag(l.w.mac, tags[:n*tagBytes])
		tags = tags[n*tagBytes:]
		encoded := l.encode(frame)
		if encoded == nil {
			if err := l.pack.write(l.out); err != nil {
				return err
			}
			l.out = l.out[:0]
			if raw == nil {
				raw = frame
			} else {
				raw = raw[:len(raw)+len(frame)]
			}
			l.pack.addFrame(n, len(frame), codecRaw, tag)
			continue
		}
		if err := l.pack.write(raw); err != nil {
			return err
		}
		raw = nil
		l.out = l.out[:len(l.out)+len(encoded)]
		l.pack.addFrame(n, len(encoded), codecZstd, tag)
	}
	if err := l.pack.write(raw); err != nil {
		return err
	}
	return l.pack.write(l.out)
}

// encode puts the encoded frame behind l.out without taking it in, and returns it: nil if it is better stored raw.
func (l *lane) encode(frame []byte) []byte {
	if l.encoder == nil {
		return nil
	}
	return l.encoder.encode(l.out, frame)
}

func (p *newPack) addFrame(pages, storedBytes int, codec uint8, tag Tag) {
	p.frames = append(p.frames, frame{stored: uint32(storedBytes), pages: uint8(pages), codec: codec, tag: tag})
}

func (p *newPack) write(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	_, err := p.blob.Write(data)
	return err
}
