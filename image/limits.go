package image

import "github.com/sbxmigrate/sbxmigrate/image/sha256x16"

// PageBytes is the size of a page of a sandbox's memory file.
const PageBytes = 4096

// FramePages is the number of pages in a frame, except where a worker had fewer left: 64 KiB.
const FramePages = 16

const frameBytes = FramePages * PageBytes

// Bounds on what is believed of a file before it is verified. A value beyond its bound is damage or, where a Writer
// meets it, an ErrTooLarge.
const (
	// MaxFilePages bounds page numbers: a memory file of 16 TiB.
	MaxFilePages = 1 << 32

	// MaxFiles bounds the memory files of one sandbox.
	MaxFiles = 256

	// MaxPacks bounds the packs that one image refers to. A reader has all of them open.
	MaxPacks = 4096

	// MaxPackBytes bounds one pack.
	MaxPackBytes = 4 << 30

	// MaxPackPages bounds the pages stored in one pack.
	MaxPackPages = 1 << 24

	// MaxStoredPages bounds the pages stored in all packs of one image: 1 TiB.
	MaxStoredPages = 1 << 28

	// MaxRuns bounds the runs of pages in an index.
	MaxRuns = 1 << 28

	// MaxPageIndexBytes bounds a page index. 1 TiB of distinct pages needs about 350 MiB, and 24 bytes for each run.
	MaxPageIndexBytes = 7 << 30

	// MaxIndexJSONBytes bounds index.json, the list of a store's images.
	MaxIndexJSONBytes = 4 << 20

	// MaxManifestBytes bounds a manifest. One with MaxPacks packs has about 700 KiB.
	MaxManifestBytes = 4 << 20

	// MaxConfigBytes bounds a config: OCI specs and mounts of all containers of a sandbox.
	MaxConfigBytes = 16 << 20

	// MaxImages bounds the images of a store.
	MaxImages = 4096

	// MaxStates bounds the state streams of an image.
	MaxStates = 16

	// MaxStateBytes bounds a state stream when it is decompressed.
	MaxStateBytes = 1 << 40

	// MaxContainers bounds the containers of a sandbox.
	MaxContainers = 256

	// MaxNameBytes bounds the name of an image and of a kind of state.
	MaxNameBytes = 128

	// MaxTextBytes bounds a string in a config.
	MaxTextBytes = 64 << 10

	// stateWindowBytes bounds the memory that a decompressor of a state stream takes.
	stateWindowBytes = 8 << 20

	// collectDepth bounds how deep Collect follows image indexes in image indexes that others put into a layout.
	collectDepth = 8
)

// Sizes that a writer chooses and a reader does not care about.
const (
	// stagePages is what a worker collects before it encodes and writes: 1 MiB, a frame for each stream that is hashed at a time. It stays in the
	// worker's cache while it is read, hashed and written.
	stagePages = sha256x16.Streams * FramePages

	// defaultPackBytes is the size at which a worker begins the next pack.
	defaultPackBytes = 128 << 20

	// maxOpenPacks bounds the packs that are written at a time where there could be fewer. Each is an open file then, and again when
	// the image is read.
	maxOpenPacks = 512

	// writebackBytes is how much a worker writes before the kernel is asked to begin bringing it to the disk.
	writebackBytes = 32 << 20

	// loadBytes is about what a worker reads of a pack at a time.
	loadBytes = 1 << 20

	// defaultCacheFrames is the size of an image's cache of decompressed frames: 16 MiB.
	defaultCacheFrames = 256
)
