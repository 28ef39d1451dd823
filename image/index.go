package image

import (
	"cmp"
	"slices"
	"sort"

	"github.com/opencontainers/go-digest"
)

// zeroOrdinal stands in a run for pages of zeros, which are not stored.
const zeroOrdinal = ^uint64(0)

// A pageIndex says where the pages of an image are. Stored pages are numbered through all packs and frames: a page's number is
// its ordinal.
type pageIndex struct {
	packs  []indexPack
	frames []frame
	pages  uint64 // stored
	files  []indexFile
}

// indexPack is a pack, with the part of frames that is in it.
type indexPack struct {
	digest     [32]byte
	key        tagKey // of the tags of its frames
	sizeBytes  int64
	firstFrame int
	frames     int
}

// frame is a part of a pack that can be decoded alone.
type frame struct {
	offset  int64 // in its pack
	ordinal uint64
	tag     Tag
	stored  uint32 // bytes in the pack
	pack    uint16
	pages   uint8
	codec   uint8
}

// indexFile is a memory file with its committed pages, in rising order.
type indexFile struct {
	id   FileID
	runs []indexRun
}

// indexRun is a run of pages with consecutive ordinals, or of zeros.
type indexRun struct {
	Run
	ordinal uint64
}

// follows says whether b goes on where a ends, in pages and in content, so that the two must be one run.
func (a indexRun) follows(b indexRun) bool {
	if a.end() != b.First || (a.ordinal == zeroOrdinal) != (b.ordinal == zeroOrdinal) {
		return false
	}
	return a.ordinal == zeroOrdinal || a.ordinal+a.Count == b.ordinal
}

func (p indexPack) oci() digest.Digest {
	return digest.NewDigestFromBytes(digest.SHA256, p.digest[:])
}

// file returns a memory file's runs, nil if it has no pages.
func (x *pageIndex) file(id FileID) []indexRun {
	at, found := slices.BinarySearchFunc(x.files, id, func(f indexFile, id FileID) int { return cmp.Compare(f.id, id) })
	if !found {
		return nil
	}
	return x.files[at].runs
}

// frameOf returns the number of the frame that has a stored page.
func (x *pageIndex) frameOf(ordinal uint64) int {
	return sort.Search(len(x.frames), func(i int) bool { return x.frames[i].ordinal > ordinal }) - 1
}

// find returns the run that has a page.
func find(runs []indexRun, page uint64) (indexRun, bool) {
	at := sort.Search(len(runs), func(i int) bool { return runs[i].end() > page })
	if at == len(runs) || runs[at].First > page {
		return indexRun{}, false
	}
	return runs[at], true
}

// packOrdinals returns the first ordinal of a pack and the one after its last.
func (x *pageIndex) packOrdinals(p indexPack) (from, to uint64) {
	last := x.frames[p.firstFrame+p.frames-1]
	return x.frames[p.firstFrame].ordinal, last.ordinal + uint64(last.pages)
}
