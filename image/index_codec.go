package image

import (
	"encoding/binary"
)

// The layout of a page index; all integers are little-endian. docs/image-format.md draws it.
const (
	indexMagic       = "SBXPGIDX"
	indexHeaderBytes = 48
	indexPackBytes   = 64
	indexFrameBytes  = 4
	indexFileBytes   = 8
	indexRunBytes    = 24

	// A frame's word: stored bytes in bits 0–16, pages minus one in bits 24–27, codec in bits 28–31, others zero.
	frameStoredMask = 1<<17 - 1
	framePagesShift = 24
	frameCodecShift = 28
)

// indexCounts is what stands in the header.
type indexCounts struct {
	packs, files        uint32
	frames, pages, runs uint64
}

func (c indexCounts) check() error {
	switch {
	case c.packs > MaxPacks, c.files > MaxFiles, c.runs > MaxRuns, c.pages > MaxStoredPages, c.frames > c.pages:
		return failf(CodeTooLarge, "page index", "%d packs, %d files, %d frames, %d stored pages, %d runs: beyond a bound of the format",
			c.packs, c.files, c.frames, c.pages, c.runs)
	}
	return nil
}

// bytes returns the size of an index. It cannot overflow after check.
func (c indexCounts) bytes() uint64 {
	return indexHeaderBytes + uint64(c.packs)*indexPackBytes + c.frames*(indexFrameBytes+tagBytes) +
		uint64(c.files)*indexFileBytes + c.runs*indexRunBytes
}

func (x *pageIndex) encode() ([]byte, error) {
	counts := indexCounts{packs: uint32(len(x.packs)), files: uint32(len(x.files)), frames: uint64(len(x.frames)), pages: x.pages}
	for _, file := range x.files {
		counts.runs += uint64(len(file.runs))
	}
	if err := counts.check(); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	out := make([]byte, 0, counts.bytes())
	out = append(out, indexMagic...)
	out = le.AppendUint32(out, SchemaVersion)
	out = le.AppendUint32(out, PageBytes)
	out = le.AppendUint32(out, counts.packs)
	out = le.AppendUint32(out, counts.files)
	out = le.AppendUint64(out, counts.frames)
	out = le.AppendUint64(out, counts.pages)
	out = le.AppendUint64(out, counts.runs)
	for _, pack := range x.packs {
		out = append(out, pack.digest[:]...)
		out = append(out, pack.key[:]...)
		out = le.AppendUint64(out, uint64(pack.sizeBytes))
		out = le.AppendUint64(out, uint64(pack.frames))
	}
	for _, f := range x.frames {
		out = le.AppendUint32(out, f.stored|uint32(f.pages-1)<<framePagesShift|uint32(f.codec)<<frameCodecShift)
	}
	for i := range x.frames {
		out = append(out, x.frames[i].tag[:]...)
	}
	for _, file := range x.files {
		out = le.AppendUint32(out, uint32(file.id))
		out = le.AppendUint32(out, uint32(len(file.runs)))
	}
	for _, file := range x.files {
		for _, run := range file.runs {
			out = le.AppendUint64(out, run.First)
			out = le.AppendUint64(out, run.Count)
			out = le.AppendUint64(out, run.ordinal)
		}
	}
	return out, nil
}

// indexDecoder walks through an index whose size was checked against its counts, so that no section can run over.
type indexDecoder struct {
	blob   string
	rest   []byte
	counts indexCounts
	index  *pageIndex
}

// decodePageIndex reads what encode wrote and refuses all else: each index has one form.
func decodePageIndex(blob string, data []byte) (*pageIndex, error) {
	d := &indexDecoder{blob: blob, rest: data, index: &pageIndex{}}
	for _, section := range []func() error{d.header, d.packs, d.frames, d.tags, d.files} {
		if err := section(); err != nil {
			return nil, err
		}
	}
	return d.index, nil
}

func (d *indexDecoder) damaged(format string, args ...any) error {
	return failf(CodeDamaged, d.blob, format, args...)
}

func (d *indexDecoder) take(n int) []byte {
	taken := d.rest[:n]
	d.rest = d.rest[n:]
	return taken
}

func (d *indexDecoder) uint32() uint32 { return binary.LittleEndian.Uint32(d.take(4)) }
func (d *indexDecoder) uint64() uint64 { return binary.LittleEndian.Uint64(d.take(8)) }

func (d *indexDecoder) header() error {
	total := uint64(len(d.rest))
	if total < indexHeaderBytes || string(d.take(len(indexMagic))) != indexMagic {
		return d.damaged("does not begin as a page index")
	}
	if version := d.uint32(); version != SchemaVersion {
		return failf(CodeSchema, d.blob, "written in version %d, this one reads %d", version, SchemaVersion)
	}
	if size := d.uint32(); size != PageBytes {
		return failf(CodeSchema, d.blob, "has pages of %d bytes, this version reads %d", size, PageBytes)
	}
	d.counts = indexCounts{packs: d.uint32(), files: d.uint32()}
	d.counts.frames, d.counts.pages, d.counts.runs = d.uint64(), d.uint64(), d.uint64()
	if err := d.counts.check(); err != nil {
		return d.damaged("%v", err)
	}
	if total != d.counts.bytes() {
		return d.damaged("has %d bytes instead of %d", total, d.counts.bytes())
	}
	return nil
}

func (d *indexDecoder) packs() error {
	d.index.packs = make([]indexPack, d.counts.packs)
	seen := make(map[[32]byte]bool, d.counts.packs)
	var frames uint64
	for i := range d.index.packs {
		var pack indexPack
		copy(pack.digest[:], d.take(len(pack.digest)))
		copy(pack.key[:], d.take(len(pack.key)))
		size, count := d.uint64(), d.uint64()
		if size > MaxPackBytes || count == 0 || count > d.counts.frames-frames || seen[pack.digest] {
			return d.damaged("pack %d: impossible size or number of frames, or listed twice", i)
		}
		seen[pack.digest] = true
		pack.sizeBytes, pack.firstFrame, pack.frames = int64(size), int(frames), int(count)
		frames += count
		d.index.packs[i] = pack
	}
	if frames != d.counts.frames {
		return d.damaged("packs have %d frames instead of %d", frames, d.counts.frames)
	}
	return nil
}

// frames checks that the frames of a pack fill it exactly and have exactly the stored pages.
func (d *indexDecoder) frames() error {
	d.index.frames = make([]frame, d.counts.frames)
	var ordinal uint64
	for p, pack := range d.index.packs {
		var offset int64
		for i := pack.firstFrame; i < pack.firstFrame+pack.frames; i++ {
			word := d.uint32()
			f := frame{
				offset:  offset,
				ordinal: ordinal,
				stored:  word & frameStoredMask,
				pack:    uint16(p),
				pages:   uint8(word>>framePagesShift&(FramePages-1)) + 1,
				codec:   uint8(word >> frameCodecShift),
			}
			if !validFrame(f, word) {
				return d.damaged("frame %d is impossible", i)
			}
			offset += int64(f.stored)
			ordinal += uint64(f.pages)
			d.index.frames[i] = f
		}
		if offset != pack.sizeBytes {
			return d.damaged("frames of pack %d have %d bytes instead of %d", p, offset, pack.sizeBytes)
		}
	}
	if ordinal != d.counts.pages {
		return d.damaged("frames have %d pages instead of %d", ordinal, d.counts.pages)
	}
	d.index.pages = ordinal
	return nil
}

func validFrame(f frame, word uint32) bool {
	const unused = 1<<framePagesShift - 1 - frameStoredMask
	raw := uint32(f.pages) * PageBytes
	switch {
	case word&unused != 0:
		return false
	case f.codec == codecRaw:
		return f.stored == raw
	case f.codec == codecZstd:
		return f.stored > 0 && f.stored < raw
	default:
		return false
	}
}

func (d *indexDecoder) tags() error {
	for i := range d.index.frames {
		copy(d.index.frames[i].tag[:], d.take(tagBytes))
	}
	return nil
}

func (d *indexDecoder) files() error {
	d.index.files = make([]indexFile, d.counts.files)
	lengths := make([]uint32, d.counts.files)
	var runs uint64
	previous := int64(-1)
	for i := range d.index.files {
		id, length := d.uint32(), d.uint32()
		if int64(id) <= previous || length == 0 || uint64(length) > d.counts.runs-runs {
			return d.damaged("memory file %d: wrong order or number of runs", i)
		}
		previous = int64(id)
		d.index.files[i].id, lengths[i] = FileID(id), length
		runs += uint64(length)
	}
	if runs != d.counts.runs {
		return d.damaged("memory files have %d runs instead of %d", runs, d.counts.runs)
	}
	used := make([]bool, len(d.index.packs))
	for i, length := range lengths {
		if err := d.runs(&d.index.files[i], int(length), used); err != nil {
			return err
		}
	}
	for p, is := range used {
		if !is {
			return d.damaged("pack %d has no page of the image", p)
		}
	}
	return nil
}

// runs reads the runs of one memory file and marks the packs that they use.
func (d *indexDecoder) runs(file *indexFile, count int, used []bool) error {
	file.runs = make([]indexRun, count)
	for i := range file.runs {
		run := indexRun{Run: Run{First: d.uint64(), Count: d.uint64()}, ordinal: d.uint64()}
		if run.Count == 0 || checkRun(run.Run) != nil {
			return d.damaged("run %d of memory file %d lies outside of it", i, file.id)
		}
		if run.ordinal != zeroOrdinal && (run.Count > d.counts.pages || run.ordinal > d.counts.pages-run.Count) {
			return d.damaged("run %d of memory file %d names pages that are not stored", i, file.id)
		}
		if i > 0 && (file.runs[i-1].end() > run.First || file.runs[i-1].follows(run)) {
			return d.damaged("run %d of memory file %d is out of order", i, file.id)
		}
		file.runs[i] = run
		d.index.markPacks(run, used)
	}
	return nil
}

// markPacks marks the packs in which a run's pages are.
func (x *pageIndex) markPacks(run indexRun, used []bool) {
	if run.ordinal == zeroOrdinal {
		return
	}
	for p := int(x.frames[x.frameOf(run.ordinal)].pack); p < len(used); p++ {
		from, _ := x.packOrdinals(x.packs[p])
		if from >= run.ordinal+run.Count {
			return
		}
		used[p] = true
	}
}
