package image

import (
	"context"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/image/sha256x16"
)

// WriterOptions says how an image is written. The zero value is sensible.
type WriterOptions struct {
	// Compression of pages; CompressionZstd by default. State streams are compressed in any case.
	Compression Compression

	// Level is zstd's, from 1 (the default, fastest) to 4. Levels above 1 cost much and gain little on memory.
	Level int

	// Workers is the number of streams of pages that are hashed, compressed and written side by side, each into packs of its
	// own. By default there is one for each CPU.
	Workers int

	// Parent is an open image of the same store: pages equal to its pages are referred to and not stored again. NewWriter reads all
	// of its packs for that, which also checks them. It may be closed once NewWriter has returned.
	Parent *Image

	// PackBytes is the size at which the next pack is begun; 128 MiB by default.
	PackBytes int64

	// NoSync leaves it to the kernel when the image reaches the disk. Commit returns sooner, and a crash of the *host* soon
	// after it may cost the image (never unnoticed: digests tell). Processes may crash as they like.
	NoSync bool

	// packs is the number of packs that a worker writes to at a time, see packsOfWorker.
	packs int
}

func (o *WriterOptions) complete() error {
	switch o.Compression {
	case "":
		o.Compression = CompressionZstd
	case CompressionZstd, CompressionNone:
	default:
		return failf(CodeConfig, "", "unknown compression %q", o.Compression)
	}
	if o.Level == 0 {
		o.Level = int(zstd.SpeedFastest)
	}
	if o.Workers == 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.packs == 0 {
		o.packs = o.packsOfWorker()
	}
	if o.PackBytes == 0 {
		o.PackBytes = defaultPackBytes
	}
	if o.Level < 1 || o.Level > int(zstd.SpeedBestCompression) || o.Workers < 1 || o.PackBytes < 1 || o.PackBytes > MaxPackBytes/2 {
		return failf(CodeConfig, "", "level %d, %d workers or packs of %d bytes are out of range", o.Level, o.Workers, o.PackBytes)
	}
	return nil
}

// packsOfWorker is one, or as many as the CPU hashes side by side and all workers together may write. An image with a parent has few
// pages of its own, and refers to the packs of all that came before it.
func (o *WriterOptions) packsOfWorker() int {
	n := min(sha256x16.Streams, maxOpenPacks/o.Workers)
	if !sha256x16.Fast() || n < sha256x16.Worthwhile || o.Parent != nil {
		return 1
	}
	return n
}

// A Writer makes one image. Its methods may be called from any number of goroutines, but what Commit is to see must have
// returned before it is called. After an error the image cannot be completed: every call returns that error, and Abort cleans up.
type Writer struct {
	store   *Store
	ctx     context.Context
	options WriterOptions
	lock    *storeLock
	key     tagKey
	mac     cipher.AEAD
	dedup   *dedup
	counts  pageCounts
	lanes   chan *lane // those not in use
	syncer  syncer

	mu     sync.Mutex // guards what follows
	err    error      // the first one
	ended  bool       // by Commit or Abort
	tables map[FileID]*pageTable
	packs  []packSource
	states []*stateWriter
	small  []*newBlob // index, config, manifest

	parent    *parentImage // set by NewWriter
	published bool         // blobs may have got their names; only looked at when no other call is under way
}

// A packSource is a pack that the image may refer to: one that is being written, or one of the parent.
type packSource struct {
	written *newPack
	parent  int // number in the parent's index, if written is nil
}

// parentImage is what outlives the parent's Close.
type parentImage struct {
	manifest Descriptor
	packs    []Descriptor
	index    *pageIndex
}

// pageCounts counts pages as they are added, so a page that was added twice counts twice.
type pageCounts struct{ added, zero, equal atomic.Uint64 }

func (c *pageCounts) add(pages, zero, equal int) {
	c.added.Add(uint64(pages))
	c.zero.Add(uint64(zero))
	c.equal.Add(uint64(equal))
}

// NewWriter begins an image. ctx ends it early: pending and later calls return its error. The caller always calls Abort in
// the end.
func (s *Store) NewWriter(ctx context.Context, options WriterOptions) (*Writer, error) {
	if err := options.complete(); err != nil {
		return nil, err
	}
	w := &Writer{
		store:   s,
		ctx:     ctx,
		options: options,
		dedup:   newDedup(),
		lanes:   make(chan *lane, options.Workers),
		tables:  map[FileID]*pageTable{},
	}
	w.syncer.w = w
	rand.Read(w.key[:])
	w.mac = w.key.mac()
	if err := w.begin(); err != nil {
		w.abort()
		return nil, err
	}
	return w, nil
}

func (w *Writer) begin() error {
	if err := w.store.makeTemp(); err != nil {
		return err
	}
	var err error
	if w.lock, err = openLock(w.store.dir); err != nil {
		return err
	}
	if err := w.enter(); err != nil {
		return err
	}
	if w.options.Parent != nil {
		if err := w.adopt(w.options.Parent); err != nil {
			return err
		}
		w.options.Parent = nil // not to be used after its Close
	}
	for range w.options.Workers {
		l, err := newLane(w, zstd.EncoderLevel(w.options.Level))
		if err != nil {
			return err
		}
		w.lanes <- l
	}
	return nil
}

// enter takes the shared lock of those who write, and cleans up after killed writers if there is no other.
func (w *Writer) enter() error {
	err := w.lock.tryAcquire(unix.F_WRLCK, lockUsers)
	if err == nil {
		err = w.lock.acquire(unix.F_WRLCK, lockIndex) // others use tempDir for index.json under this lock alone
		if err == nil {
			w.store.sweepTemp()
			err = w.lock.acquire(unix.F_UNLCK, lockIndex)
		}
	}
	if err != nil && !errors.Is(err, ErrBusy) {
		return err
	}
	return w.lock.acquire(unix.F_RDLCK, lockUsers)
}

// adopt makes the pages that a parent stores known. The lock is held, so what is there now is not collected.
func (w *Writer) adopt(parent *Image) error {
	if err := parent.usable(); err != nil {
		return err
	}
	w.parent = &parentImage{manifest: parent.descriptor, packs: parent.manifest.packs, index: parent.index}
	var segments []*segment
	for number, pack := range parent.index.packs {
		if !w.store.has(pack.oci()) {
			return failf(CodeMissingBlob, packName(pack), "the parent's pack is not in %s", w.store.dir)
		}
		w.packs = append(w.packs, packSource{parent: number})
		segments = append(segments, parent.segments(pack)...)
	}
	return parent.eachSegment(w.ctx, w.options.Workers, len(segments), func(r *segmentReader, i int) error {
		s := segments[i]
		pages, err := r.read(s, nil)
		if err != nil {
			return err
		}
		number := parent.index.frames[s.firstFrame].pack
		from, _ := parent.index.packOrdinals(parent.index.packs[number])
		for page := range s.pages {
			tag := r.tagger.tag(w.mac, pages[page*PageBytes:][:PageBytes])
			w.dedup.claim(tag, makeLocation(uint32(number), uint32(s.ordinal-from)+uint32(page)))
		}
		return nil
	})
}

// register gives a new pack its number.
func (w *Writer) register(blob *newBlob) (*newPack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.packs) >= 2*MaxPacks { // Commit counts those that the image needs
		blob.discard()
		return nil, failf(CodeTooLarge, "", "more than %d packs", 2*MaxPacks)
	}
	pack := &newPack{number: uint32(len(w.packs)), blob: blob}
	w.packs = append(w.packs, packSource{written: pack})
	return pack, nil
}

func (w *Writer) table(file FileID) *pageTable {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.tables[file]
	if t == nil {
		t = newPageTable()
		w.tables[file] = t
	}
	return t
}

// fail keeps the first error and returns it.
func (w *Writer) fail(err error) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	return w.err
}

// usable returns why the writer cannot go on, if it cannot.
func (w *Writer) usable() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.ended:
		return failf(CodeClosed, "", "the image has been committed or aborted")
	case w.err != nil:
		return w.err
	case w.ctx.Err() != nil:
		return fmt.Errorf("write image: %w", context.Cause(w.ctx))
	}
	return nil
}
