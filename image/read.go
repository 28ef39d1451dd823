package image

import (
	"container/list"
	"sync"
)

// ReadPages reads consecutive pages of a memory file into dst, whole pages, and checks each. It is ErrNoPage if the image does
// not have all of them; what is in dst after an error is undefined.
func (img *Image) ReadPages(file FileID, first uint64, dst []byte) error {
	if err := img.usable(); err != nil {
		return err
	}
	if len(dst)%PageBytes != 0 {
		return failf(CodeConfig, "", "%d bytes are not whole pages", len(dst))
	}
	runs := img.index.file(file)
	var r pageReader
	for page := first; len(dst) > 0; {
		run, found := find(runs, page)
		if !found {
			return failf(CodeNoPage, img.name, "has no page %d of memory file %d", page, file)
		}
		skip := page - run.First
		n := min(run.Count-skip, uint64(len(dst)/PageBytes))
		part := dst[:n*PageBytes]
		if run.ordinal == zeroOrdinal {
			clear(part)
		} else if err := r.read(img, run.ordinal+skip, part); err != nil {
			return err
		}
		page, dst = page+n, dst[n*PageBytes:]
	}
	return nil
}

// A pageReader has what one ReadPages needs and may not share.
type pageReader struct{ tagger *tagger }

// read reads stored pages that follow each other, frame by frame.
func (r *pageReader) read(img *Image, ordinal uint64, dst []byte) error {
	if r.tagger == nil {
		r.tagger = newTagger(img.index.key)
	}
	for number := img.index.frameOf(ordinal); len(dst) > 0; number++ {
		f := img.index.frames[number]
		skip := int(ordinal - f.ordinal)
		n := min(int(f.pages)-skip, len(dst)/PageBytes)
		part := dst[:n*PageBytes]
		if err := r.readFrame(img, number, f, skip, part); err != nil {
			return err
		}
		ordinal, dst = ordinal+uint64(n), dst[len(part):]
	}
	return nil
}

// readFrame reads pages of one frame, skipping some. Raw ones are read alone; those of a compressed frame come with all others
// of it, and stay in the cache.
func (r *pageReader) readFrame(img *Image, number int, f frame, skip int, dst []byte) error {
	if f.codec == codecRaw {
		if err := img.readPack(f, f.offset+int64(skip*PageBytes), dst); err != nil {
			return err
		}
		return img.checkPages(r.tagger, number, skip, dst)
	}
	raw := img.cache.get(number)
	if raw == nil {
		stored := make([]byte, f.stored)
		if err := img.readPack(f, f.offset, stored); err != nil {
			return err
		}
		var err error
		raw, err = decodeFrame(img.decoder, f, stored, make([]byte, int(f.pages)*PageBytes, int(f.pages)*PageBytes+decodeSlack))
		if err != nil {
			return img.frameError(number, err)
		}
		if err := img.checkPages(r.tagger, number, 0, raw); err != nil {
			return err
		}
		img.cache.put(number, raw)
	}
	copy(dst, raw[skip*PageBytes:])
	return nil
}

// readPack reads from the pack of a frame.
func (img *Image) readPack(f frame, offset int64, dst []byte) error {
	if _, err := img.packs[f.pack].ReadAt(dst, offset); err != nil {
		return readError(packName(img.index.packs[f.pack]), err)
	}
	return nil
}

// checkPages compares pages of a frame with their tags.
func (img *Image) checkPages(t *tagger, number, skip int, pages []byte) error {
	ordinal := img.index.frames[number].ordinal + uint64(skip)
	for i := range len(pages) / PageBytes {
		if t.tag(pages[i*PageBytes:][:PageBytes]) != img.index.tags[ordinal+uint64(i)] {
			return img.frameError(number, failf(CodeDamaged, "", "page %d does not match its tag", skip+i))
		}
	}
	return nil
}

func (img *Image) frameError(number int, err error) error {
	f := img.index.frames[number]
	pack := img.index.packs[f.pack]
	return failf(CodeDamaged, packName(pack), "frame %d: %v", number-pack.firstFrame, err)
}

// A frameCache keeps the frames that were used last.
type frameCache struct {
	mu       sync.Mutex
	capacity int
	order    list.List // of *cachedFrame, the one used last first
	frames   map[int]*list.Element
}

type cachedFrame struct {
	number int
	raw    []byte // never written to once it is here
}

func (c *frameCache) get(number int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	element := c.frames[number]
	if element == nil {
		return nil
	}
	c.order.MoveToFront(element)
	return element.Value.(*cachedFrame).raw
}

func (c *frameCache) put(number int, raw []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frames == nil {
		c.frames = map[int]*list.Element{}
	}
	if c.frames[number] != nil {
		return // two readers decoded it at once
	}
	c.frames[number] = c.order.PushFront(&cachedFrame{number, raw})
	if c.order.Len() > c.capacity {
		oldest := c.order.Remove(c.order.Back()).(*cachedFrame)
		delete(c.frames, oldest.number)
	}
}
