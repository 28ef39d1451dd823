package image

import (
	"context"
	"crypto/cipher"
	"fmt"
	"os"
	"slices"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// OpenOptions says how an image is opened. The zero value is sensible for one that is inspected.
type OpenOptions struct {
	// Host is compared with the config before anything else is read, if it is set. Set it to restore.
	Host *Host

	// CacheFrames bounds the decompressed frames that ReadPages keeps, 64 KiB each; 256 by default.
	CacheFrames int
}

// An Image is an open image. All of it that was to be read is still there until Close, also if the image is deleted meanwhile.
// Its methods may be called from any number of goroutines.
type Image struct {
	store      *Store
	name       string // for messages
	descriptor Descriptor
	manifest   *manifest
	config     *Config
	index      *pageIndex
	packs      []*os.File
	macs       []cipher.AEAD // by pack
	decoder    *zstd.Decoder
	cache      frameCache
	closed     atomic.Bool
}

// Open opens an image: index.json, then the manifest, the config with the schema first and then the host, then the page
// index, each checked against its digest and against the others; last it opens the packs and looks at their sizes. No page is read. The
// caller closes it.
func (s *Store) Open(ctx context.Context, name string, options OpenOptions) (*Image, error) {
	img := &Image{store: s, name: fmt.Sprintf("image %s:%s", s.dir, name)}
	if options.CacheFrames <= 0 {
		options.CacheFrames = defaultCacheFrames
	}
	img.cache.capacity = options.CacheFrames
	steps := []func() error{
		func() error { return img.openManifest(name) },
		func() error { return img.openConfig(options.Host) },
		img.openIndex,
		img.openPacks,
	}
	for _, step := range steps {
		err := context.Cause(ctx)
		if err == nil {
			err = step()
		}
		if err != nil {
			_ = img.Close() // the first error counts
			return nil, err
		}
	}
	return img, nil
}

func (img *Image) openManifest(name string) error {
	index, err := img.store.readIndex()
	if err != nil {
		return err
	}
	at := findImage(index, name)
	if at < 0 {
		return failf(CodeNotFound, img.store.dir, "has no image %q", name)
	}
	img.descriptor = index.Manifests[at]
	blob := "manifest " + img.descriptor.Digest.String()
	if t := img.descriptor.ArtifactType; t != "" {
		if err := checkArtifactType(blob, t); err != nil {
			return err
		}
	}
	if img.descriptor.MediaType != v1.MediaTypeImageManifest {
		return failf(CodeNotCheckpoint, blob, "media type %q is not that of a checkpoint", img.descriptor.MediaType)
	}
	if img.descriptor.Size > MaxManifestBytes {
		return failf(CodeDamaged, blob, "has %d bytes, more than %d", img.descriptor.Size, MaxManifestBytes)
	}
	data, err := readBlob(img.store.dir, blob, img.descriptor)
	if err != nil {
		return err
	}
	img.manifest, err = decodeManifest(blob, data)
	return err
}

func (img *Image) openConfig(host *Host) error {
	blob := "config " + img.manifest.config.Digest.String()
	data, err := readBlob(img.store.dir, blob, img.manifest.config)
	if err != nil {
		return err
	}
	if img.config, err = decodeConfig(blob, data); err != nil {
		return err
	}
	if host != nil {
		if err := img.config.CheckHost(*host); err != nil {
			return err
		}
	}
	kinds := len(img.config.States)
	if kinds != len(img.manifest.states) {
		return failf(CodeDamaged, blob, "has %d states, the manifest %d", kinds, len(img.manifest.states))
	}
	for i, state := range img.config.States {
		if stateKind(img.manifest.states[i].MediaType) != state.Kind {
			return failf(CodeDamaged, blob, "state %q is not where the manifest has it", state.Kind)
		}
	}
	return nil
}

func (img *Image) openIndex() error {
	blob := "page index " + img.manifest.index.Digest.String()
	data, err := readBlob(img.store.dir, blob, img.manifest.index)
	if err != nil {
		return err
	}
	if img.index, err = decodePageIndex(blob, data); err != nil {
		return err
	}
	if len(img.index.packs) != len(img.manifest.packs) {
		return failf(CodeDamaged, blob, "has %d packs, the manifest %d", len(img.index.packs), len(img.manifest.packs))
	}
	for i, pack := range img.index.packs {
		if d := img.manifest.packs[i]; d.Digest != pack.oci() || d.Size != pack.sizeBytes {
			return failf(CodeDamaged, blob, "pack %d is not the manifest's", i)
		}
	}
	if err := checkMemory(img.config, img.index); err != nil {
		return failf(CodeDamaged, blob, "%v", err)
	}
	return nil
}

// checkMemory checks that all pages of an index are in memory files of the config.
func checkMemory(config *Config, index *pageIndex) error {
	for _, file := range index.files {
		last := file.runs[len(file.runs)-1]
		if pages := config.memoryPages(file.id); last.end() > pages {
			return fmt.Errorf("memory file %d has page %d and is said to have %d pages", file.id, last.end()-1, pages)
		}
	}
	return nil
}

func (img *Image) openPacks() error {
	for i, pack := range img.index.packs {
		file, err := openBlob(img.store.dir, packName(pack), img.manifest.packs[i])
		if err != nil {
			return err
		}
		img.packs = append(img.packs, file)
		img.macs = append(img.macs, pack.key.mac())
	}
	var err error
	img.decoder, err = newFrameDecoder(0)
	return ioError("", err)
}

func packName(p indexPack) string { return "page pack " + p.oci().String() }

// Close gives back the image's files and memory. No other call may be under way.
func (img *Image) Close() error {
	if img.closed.Swap(true) {
		return nil
	}
	for _, file := range img.packs {
		_ = file.Close() // only read
	}
	if img.decoder != nil {
		img.decoder.Close()
	}
	return nil
}

func (img *Image) usable() error {
	if img.closed.Load() {
		return failf(CodeClosed, img.name, "was closed")
	}
	return nil
}

// Config returns what the image was saved from. It is the image's: do not change it.
func (img *Image) Config() *Config { return img.config }

// Manifest returns the descriptor of the image's manifest. Its digest identifies the image.
func (img *Image) Manifest() Descriptor { return img.descriptor }

// A PageRun is a run of pages that an image has.
type PageRun struct {
	Run
	Zero bool // committed, all zeros
}

// Files returns the memory files that have pages.
func (img *Image) Files() []FileID {
	var ids []FileID
	for _, file := range img.index.files {
		ids = append(ids, file.id)
	}
	return ids
}

// Runs returns the committed pages of a memory file in rising order.
func (img *Image) Runs(file FileID) []PageRun {
	var runs []PageRun
	for _, run := range img.index.file(file) {
		next := PageRun{Run: run.Run, Zero: run.ordinal == zeroOrdinal}
		if n := len(runs); n > 0 && runs[n-1].end() == next.First && runs[n-1].Zero == next.Zero {
			runs[n-1].Count += next.Count
			continue
		}
		runs = append(runs, next)
	}
	return slices.Clip(runs)
}
