// Package image stores checkpoints of sandboxes in OCI image layouts.
//
// A layout (Store) is a directory with any number of named images that share blobs. An image is a manifest with a JSON
// config and these layers: named state streams (what the kernel wrote about itself), one page index, and page packs.
// docs/image-format.md describes every byte of them.
//
//	index.json ──► manifest ──► config               what was saved, by which build, on which CPU
//	                       ├──► state blobs          one zstd stream each
//	                       ├──► page index           runs of guest pages → stored pages; a tag for each frame
//	                       └──► packs                frames of up to 16 pages, end to end, raw or zstd
//
// # Writing
//
// Data in: pages (from memory, or read by the workers from an io.ReaderAt such as a memfd), state streams, a Config.
// Data out: an image, visible from the moment in which index.json is renamed into place, and durable then.
//
//	store, err := image.CreateStore(dir)
//	w, err := store.NewWriter(ctx, image.WriterOptions{})
//	defer w.Abort()                     // after a Commit it does nothing
//	err = w.AddFrom(ctx, 0, memfd, runs) // as often as needed: what is added later replaces what was there
//	state, err := w.StateWriter("kernel")
//	w.KeepOnly(0, committed)
//	desc, err := w.Commit(ctx, "latest", config)
//
// # Reading
//
// Data in: a store and a name. Data out: the config (checked before anything else is touched), state streams, pages: at random
// (ReadPages) or all in pack order (Load).
//
// # Invariants
//
//   - An image is complete: its index names every committed page, zero pages included, and its manifest names every
//     pack that the index refers to, also those that an older image wrote. Nobody walks a chain of parents.
//   - No byte that a caller gets from this package is unverified. State streams, index, config and manifest match their SHA-256
//     before the first byte of them is used; each page belongs to a frame that matches its tag in the index. Verify checks the SHA-256 of packs too.
//   - Equal pages are stored once. They are recognised by a tag under a random key that no guest sees, see Tag.
//   - No length from a file is trusted before it met its bound (limits.go) and the size of that file.
//   - Blobs are anonymous or temporary until Commit, so a writer that fails or is killed leaves no image.
//
// # Locks
//
// Between processes: byte 0 of DIR/.lock guards index.json, byte 1 is shared by writers and exclusive to Collect. Byte
// 1 is taken before byte 0. Within a Writer: a lane (held by one goroutine at a time) → dedup shard → nothing, lane → page
// table → nothing, lane → Writer.mu → nothing. Image: the frame cache's mutex is taken alone and never around I/O.
//
// What this package does not do: decide which pages to save, interpret state, check whether mounts or networks fit
// (it carries them as JSON), talk to registries, encrypt, sign.
package image
