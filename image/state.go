package image

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// A stateWriter compresses one state stream into a blob.
type stateWriter struct {
	w       *Writer
	kind    string
	blob    *newBlob
	encoder *zstd.Encoder
	raw     uint64
	closed  bool
}

// StateWriter begins a state stream of a kind, such as "kernel": lowercase letters, digits and "-". Streams may be
// written at the same time, each by one goroutine, and must be closed before Commit. Take them before the pause: beginning one
// allocates some MiB.
func (w *Writer) StateWriter(kind string) (io.WriteCloser, error) {
	if err := w.usable(); err != nil {
		return nil, err
	}
	if !kindPattern.MatchString(kind) {
		return nil, failf(CodeConfig, "", "%q is no kind of state", kind)
	}
	blob, err := w.store.createBlob()
	if err != nil {
		return nil, w.fail(err)
	}
	encoder, err := zstd.NewWriter(blob,
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(stateWindowBytes/2),
	)
	if err != nil {
		blob.discard()
		return nil, w.fail(&Error{Code: CodeConfig, Err: err})
	}
	s := &stateWriter{w: w, kind: kind, blob: blob, encoder: encoder}
	w.mu.Lock()
	defer w.mu.Unlock()
	if slices.ContainsFunc(w.states, func(o *stateWriter) bool { return o.kind == kind }) || len(w.states) >= MaxStates {
		blob.discard()
		return nil, failf(CodeConfig, "", "state %q was begun before, or there are too many", kind)
	}
	w.states = append(w.states, s)
	return s, nil
}

func (s *stateWriter) Write(data []byte) (int, error) {
	if err := s.w.usable(); err != nil {
		return 0, err
	}
	if s.closed || s.raw+uint64(len(data)) > MaxStateBytes {
		return 0, s.w.fail(failf(CodeTooLarge, "", "state %q is closed, or has more than %d bytes", s.kind, uint64(MaxStateBytes)))
	}
	n, err := s.encoder.Write(data)
	s.raw += uint64(n)
	if err != nil {
		return n, s.w.fail(ioError("", err))
	}
	return n, nil
}

// Close ends the stream. A second call does nothing.
func (s *stateWriter) Close() error {
	if s.closed {
		return nil
	}
	if err := s.w.usable(); err != nil {
		return err
	}
	s.closed = true
	if err := s.encoder.Close(); err != nil {
		return s.w.fail(ioError("", err))
	}
	return nil
}

// OpenState opens a state stream. Its digest has been checked when this returns, and is checked again on the way, so that EOF
// comes only after exactly what was written. The caller closes it.
func (img *Image) OpenState(kind string) (io.ReadCloser, error) {
	at := slices.IndexFunc(img.config.States, func(s State) bool { return s.Kind == kind })
	if at < 0 {
		return nil, failf(CodeIncomplete, img.name, "has no state %q", kind)
	}
	name, d := img.stateName(at), img.manifest.states[at]
	file, err := openBlob(img.store.dir, name, d)
	if err != nil {
		return nil, err
	}
	r := &stateReader{name: name, file: file, sum: sha256.New(), digest: d.Digest.Encoded(), left: img.config.States[at].RawBytes}
	if err := r.begin(); err != nil {
		_ = r.Close() // only read
		return nil, err
	}
	return r, nil
}

func (img *Image) stateName(at int) string {
	return fmt.Sprintf("state %s %s", img.config.States[at].Kind, img.manifest.states[at].Digest)
}

type stateReader struct {
	name    string
	file    *os.File
	buffer  *bufio.Reader // reads the file and feeds sum
	sum     hash.Hash
	digest  string
	decoder *zstd.Decoder
	left    uint64 // decompressed bytes that must still come
	done    bool
}

// begin checks the digest and goes back to the start.
func (r *stateReader) begin() error {
	if _, err := io.Copy(r.sum, r.file); err != nil {
		return ioError(r.name, err)
	}
	if hex.EncodeToString(r.sum.Sum(nil)) != r.digest {
		return failf(CodeDamaged, r.name, "does not match its digest")
	}
	if _, err := r.file.Seek(0, io.SeekStart); err != nil {
		return ioError(r.name, err)
	}
	r.sum.Reset()
	r.buffer = bufio.NewReaderSize(io.TeeReader(r.file, r.sum), 128<<10)
	var err error
	r.decoder, err = zstd.NewReader(r.buffer, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(stateWindowBytes))
	return ioError(r.name, err)
}

func (r *stateReader) Read(into []byte) (int, error) {
	if r.done {
		return 0, io.EOF
	}
	n, err := r.decoder.Read(into)
	if uint64(n) > r.left {
		return 0, failf(CodeDamaged, r.name, "decompresses to more than it should")
	}
	r.left -= uint64(n)
	switch {
	case err == nil:
		return n, nil
	case !errors.Is(err, io.EOF):
		return n, failf(CodeDamaged, r.name, "cannot be decompressed: %v", err)
	case r.left > 0:
		return n, failf(CodeDamaged, r.name, "ends %d bytes early", r.left)
	}
	if _, err := io.Copy(io.Discard, r.buffer); err != nil {
		return n, ioError(r.name, err)
	}
	if hex.EncodeToString(r.sum.Sum(nil)) != r.digest {
		return n, failf(CodeDamaged, r.name, "changed while it was read")
	}
	r.done = true
	return n, io.EOF
}

func (r *stateReader) Close() error {
	if r.decoder != nil {
		r.decoder.Close()
	}
	return ioError(r.name, r.file.Close())
}
