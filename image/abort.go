package image

// Abort ends the writer and removes what it wrote; after a Commit that succeeded it does nothing. It waits for calls that are
// under way, so cancel the context first where that may take long.
func (w *Writer) Abort() {
	w.mu.Lock()
	ended := w.ended
	w.ended = true
	w.mu.Unlock()
	if ended {
		return
	}
	for range cap(w.lanes) {
		<-w.lanes
		w.lanes <- nil // whoever waits for one is told that it is over
	}
	w.abort()
}

// abort is Abort without lanes to wait for.
func (w *Writer) abort() {
	w.release()
	if w.published {
		_, _ = w.store.Collect() // or somebody else is writing, and the next one does it
	}
	w.store.removeIfEmpty()
}

// release removes what is not published, closes all files, and gives up the lock.
func (w *Writer) release() {
	w.syncer.wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ended = true
	for _, source := range w.packs {
		if source.written != nil {
			source.written.blob.discard()
		}
	}
	for _, s := range w.states {
		s.blob.discard()
	}
	for _, blob := range w.small {
		blob.discard()
	}
	if w.lock != nil {
		w.lock.close()
	}
}
