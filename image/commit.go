package image

import (
	"bytes"
	"cmp"
	"errors"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Commit makes the image visible under a name, in place of what had that name, and returns the descriptor of its
// manifest. Schema, States and Parent of the config are set here. When it returns without error the image is durable (see NoSync); with
// one, there is none, and the name is as it was.
func (w *Writer) Commit(name string, config Config) (Descriptor, error) {
	if err := errors.Join(checkName(name), w.usable()); err != nil {
		return Descriptor{}, err
	}
	if err := w.drain(); err != nil {
		return Descriptor{}, w.fail(err)
	}
	blobs, manifest, err := w.assemble(&config)
	if err != nil {
		return Descriptor{}, w.fail(err)
	}
	replaced, err := w.publish(name, blobs, manifest)
	if err != nil {
		return Descriptor{}, w.fail(err)
	}
	w.release()
	if replaced {
		_, _ = w.store.Collect() // or somebody is still writing, and the next one does it
	}
	return manifest, nil
}

// Sync brings what was written so far to the disk, so that a Commit soon after it takes less time. Call it before the pause.
func (w *Writer) Sync() error {
	if err := w.usable(); err != nil {
		return err
	}
	if w.options.NoSync {
		return nil
	}
	w.mu.Lock()
	var blobs []*newBlob
	for _, source := range w.packs {
		if source.written != nil {
			blobs = append(blobs, source.written.blob)
		}
	}
	w.mu.Unlock()
	if err := syncAll(blobs); err != nil {
		return w.fail(err)
	}
	return nil
}

// drain takes all lanes, for good: they write what they have staged. Then all packs are complete and synced.
func (w *Writer) drain() error {
	var group sync.WaitGroup
	for range cap(w.lanes) {
		l := <-w.lanes
		group.Go(func() {
			if err := l.end(); err != nil {
				_ = w.fail(err) // looked at below
			}
		})
	}
	group.Wait()
	w.syncer.wait()
	for range cap(w.lanes) {
		w.lanes <- nil // whoever adds pages only now is told that it is too late
	}
	return w.usable()
}

// assemble writes index, config and manifest, and returns the blobs that the image needs and are not in the store yet, the
// manifest last.
func (w *Writer) assemble(config *Config) ([]publishable, Descriptor, error) {
	index, packs, blobs, err := w.buildIndex()
	if err != nil {
		return nil, Descriptor{}, err
	}
	m := &manifest{packs: packs}
	if config.States, m.states, blobs, err = w.buildStates(blobs); err != nil {
		return nil, Descriptor{}, err
	}
	config.Parent = ""
	if w.parent != nil {
		config.Parent = w.parent.manifest.Digest.String()
	}
	config.Memory = slices.SortedFunc(slices.Values(config.Memory), func(a, b MemoryFile) int { return cmp.Compare(a.ID, b.ID) })
	data, err := config.encode()
	if err != nil {
		return nil, Descriptor{}, err
	}
	if err := checkMemory(config, index); err != nil {
		return nil, Descriptor{}, failf(CodeConfig, "", "%v", err)
	}
	if m.config, blobs, err = w.writeSmall(blobs, MediaTypeConfig, data); err != nil {
		return nil, Descriptor{}, err
	}
	if data, err = index.encode(); err != nil {
		return nil, Descriptor{}, err
	}
	if m.index, blobs, err = w.writeSmall(blobs, MediaTypePageIndex, data); err != nil {
		return nil, Descriptor{}, err
	}
	if data, err = m.encode(); err != nil {
		return nil, Descriptor{}, ioError("", err)
	}
	d, blobs, err := w.writeSmall(blobs, v1.MediaTypeImageManifest, data)
	return blobs, d, err
}

// A publishable is a blob with its descriptor.
type publishable struct {
	blob       *newBlob
	descriptor Descriptor
}

func (w *Writer) writeSmall(blobs []publishable, mediaType string, data []byte) (Descriptor, []publishable, error) {
	blob, err := w.store.createBlob()
	if err != nil {
		return Descriptor{}, blobs, err
	}
	w.small = append(w.small, blob)
	if _, err := bytes.NewReader(data).WriteTo(blob); err != nil {
		return Descriptor{}, blobs, err
	}
	d := blob.descriptor(mediaType)
	return d, append(blobs, publishable{blob, d}), nil
}

func (w *Writer) buildStates(blobs []publishable) ([]State, []Descriptor, []publishable, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var states []State
	var descriptors []Descriptor
	for _, s := range w.states {
		if !s.closed {
			return nil, nil, nil, failf(CodeConfig, "", "state %q was not closed", s.kind)
		}
		d := s.blob.descriptor(stateMediaType(s.kind))
		states = append(states, State{Kind: s.kind, RawBytes: s.raw})
		descriptors = append(descriptors, d)
		blobs = append(blobs, publishable{s.blob, d})
	}
	return states, descriptors, blobs, nil
}

// buildIndex makes the page index of what the tables have now. Packs that no page is in are left out.
func (w *Writer) buildIndex() (*pageIndex, []Descriptor, []publishable, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	used := make([]bool, len(w.packs))
	for _, table := range w.tables {
		table.each(func(_ uint64, at location) {
			if at.stored() {
				used[at.pack()] = true
			}
		})
	}
	x := &pageIndex{}
	bases := make([]uint64, len(w.packs)) // first ordinal of each
	var descriptors []Descriptor
	var blobs []publishable
	for number, source := range w.packs {
		if !used[number] {
			continue
		}
		bases[number] = x.pages
		d, blob := w.appendPack(x, source)
		descriptors = append(descriptors, d)
		if blob != nil {
			blobs = append(blobs, publishable{blob, d})
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.tables)) {
		if runs := indexRuns(w.tables[id], bases); len(runs) > 0 {
			x.files = append(x.files, indexFile{id: id, runs: runs})
		}
	}
	return x, descriptors, blobs, nil
}

// appendPack puts a pack with its frames and tags into an index. There is no blob if it is the parent's.
func (w *Writer) appendPack(x *pageIndex, source packSource) (Descriptor, *newBlob) {
	if source.written == nil {
		p := w.parent.index
		pack := p.packs[source.parent]
		x.addPack(pack, p.frames[pack.firstFrame:pack.firstFrame+pack.frames])
		return w.parent.packs[source.parent], nil
	}
	p := source.written
	pack := indexPack{digest: p.digest, key: w.key, sizeBytes: p.blob.size}
	x.addPack(pack, p.frames)
	return Descriptor{MediaType: MediaTypePagePack, Digest: pack.oci(), Size: p.blob.size}, p.blob
}

// addPack appends a pack with its frames; what is their place in the index is set here.
func (x *pageIndex) addPack(pack indexPack, frames []frame) {
	var offset int64
	number := len(x.packs)
	pack.firstFrame, pack.frames = len(x.frames), len(frames)
	x.packs = append(x.packs, pack)
	for _, f := range frames {
		f.offset, f.ordinal, f.pack = offset, x.pages, uint16(number)
		offset += int64(f.stored)
		x.pages += uint64(f.pages)
		x.frames = append(x.frames, f)
	}
}

// indexRuns turns a table into runs that are as long as can be.
func indexRuns(table *pageTable, bases []uint64) []indexRun {
	var runs []indexRun
	table.each(func(page uint64, at location) {
		next := indexRun{Run: Run{First: page, Count: 1}, ordinal: zeroOrdinal}
		if at.stored() {
			next.ordinal = bases[at.pack()] + uint64(at.page())
		}
		if n := len(runs); n > 0 && runs[n-1].follows(next) {
			runs[n-1].Count++
			return
		}
		runs = append(runs, next)
	})
	return runs
}

// publish syncs the blobs, names them, and then names the image. It returns whether there was one of that name.
func (w *Writer) publish(name string, blobs []publishable, manifest Descriptor) (replaced bool, err error) {
	if !w.options.NoSync {
		var unsynced []*newBlob
		for _, b := range blobs {
			if b.descriptor.MediaType != MediaTypePagePack { // drain has done those
				unsynced = append(unsynced, b.blob)
			}
		}
		if err := syncAll(unsynced); err != nil {
			return false, err
		}
	}
	w.published = true
	for _, b := range blobs {
		if err := b.blob.publish(b.descriptor); err != nil {
			return false, err
		}
	}
	if err := syncDir(filepath.Join(w.store.dir, blobsDir)); err != nil {
		return false, err
	}
	return w.name(name, manifest)
}

// name puts the image into index.json. If that is not certain to last, what was there before is put back.
func (w *Writer) name(name string, manifest Descriptor) (replaced bool, err error) {
	manifest.ArtifactType = ArtifactType
	manifest.Annotations = map[string]string{v1.AnnotationRefName: name}
	var before []Descriptor
	_, err = w.store.updateIndex(w.lock, func(index *v1.Index) (bool, error) {
		before = slices.Clone(index.Manifests)
		if at := findImage(index, name); at >= 0 {
			replaced = true
			index.Manifests[at] = manifest
			return true, nil
		}
		index.Manifests = append(index.Manifests, manifest)
		return true, nil
	})
	if err != nil && before != nil {
		_, _ = w.store.updateIndex(w.lock, func(index *v1.Index) (bool, error) { // the lock was kept, nobody has changed it since
			written := findImage(index, name)
			if written < 0 || index.Manifests[written].Digest != manifest.Digest {
				return false, nil
			}
			index.Manifests = before
			return true, nil
		})
	}
	return replaced, err
}

// syncAll syncs blobs side by side: a file system can do them in one go.
func syncAll(blobs []*newBlob) error {
	errs := make([]error, len(blobs))
	var group sync.WaitGroup
	for i, blob := range blobs {
		group.Go(func() { errs[i] = blob.sync() })
	}
	group.Wait()
	return errors.Join(errs...)
}
