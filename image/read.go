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
type pageReader struct{ tagger tagger }

// read reads stored pages that follow each other, frame by frame.
func (r *pageReader) read(img *Image, ordinal uint64, dst []byte) error {
	for number := img.index.frameOf(ordinal); len(dst) > 0; number++ {
		pages, err := r.frame(img, number)
		if err != nil {
			return err
		}
		n := copy(dst, pages[(ordinal-img.index.frames[number].ordinal)*PageBytes:])
		ordinal, dst = ordinal+uint64(n/PageBytes), dst[n:]
	}
	return nil
}

// frame returns the pages of a frame, which belong to the cache.
func (r *pageReader) frame(img *Image, number int) ([]byte, error) {
	if pages := img.cache.get(number); pages != nil {
		return pages, nil
	}
	f := img.index.frames[number]
	stored := make([]byte, f.stored)
	if err := img.readPack(f, f.offset, stored); err != nil {
		return nil, err
	}
	length := int(f.pages) * PageBytes
	pages := stored
	if f.codec != codecRaw {
		pages = make([]byte, length, length+decodeSlack)
	}
	pages, err := decodeFrame(img.decoder, f, stored, pages)
	if err != nil {
		return nil, img.frameError(number, err)
	}
	if err := img.checkFrame(&r.tagger, number, pages); err != nil {
		return nil, err
	}
	img.cache.put(number, pages)
	return pages, nil
}

// readPack reads from the pack of a frame.
func (img *Image) readPack(f frame, offset int64, dst []byte) error {
	if _, err := img.packs[f.pack].ReadAt(dst, offset); err != nil {
		return readError(packName(img.index.packs[f.pack]), err)
	}
	return nil
}

// checkFrame compares the pages of a frame with its tag.
func (img *Image) checkFrame(t *tagger, number int, pages []byte) error {
	f := img.index.frames[number]
	if t.frameTag(img.macs[f.pack], pages) != f.tag {
		return img.frameError(number, failf(CodeDamaged, "", "does not match its tag"))
	}
	return nil
}

func (img *Image) frameError(number int, err error) error {
	f := img.index.frames[number]
	pack := img.index.packs[f.pack]
	return failf(CodeDamaged, packName(pack), "frame %d: %v", number-pack.firstFrame, err)
}

// A frameCache keeps the frames that were used last, decoded and checked.
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
