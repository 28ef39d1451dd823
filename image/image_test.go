package image

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"testing"
	"time"
)

// testConfig is a config as a small sandbox has it.
func testConfig() Config {
	return Config{
		Build:     "v1.0.0-test",
		GVisor:    "v0.0.0-20260701204157-69c2d17aea96",
		Arch:      "amd64",
		CPU:       CPU{Features: []string{"avx", "sse2"}, CacheLineBytes: 64, XSAVEBytes: 832, XSAVEFeatures: 7, MXCSRMask: 0xffff},
		Time:      time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC),
		SandboxID: "box",
		Hostname:  "box",
		Containers: []Container{
			{Name: "box", Spec: json.RawMessage(`{"ociVersion":"1.2.0","process":{"args":["sh","-c","echo <hi>"]}}`)},
		},
		Mounts:    json.RawMessage(`[{"destination":"/"}]`),
		Memory:    []MemoryFile{{ID: 0, Name: "main", SizeBytes: 64 << 20}, {ID: 7, SizeBytes: 1 << 20}},
		Decisions: map[string]string{"tmp": "memory"},
	}
}

func TestRoundTrip(t *testing.T) {
	for _, options := range []WriterOptions{{Compression: CompressionNone}, {}, {Workers: 1, PackBytes: 100 << 10}} {
		store, err := CreateStore(t.TempDir() + "/image")
		if err != nil {
			t.Fatal(err)
		}
		memory := textLike(rand.New(rand.NewPCG(1, 2)), 8<<20)
		_, _ = rand.NewChaCha8([32]byte{}).Read(memory[1<<20 : 3<<20])
		clear(memory[4<<20 : 5<<20])
		copy(memory[5<<20:6<<20], memory[2<<20:])
		w, err := store.NewWriter(context.Background(), options)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Abort()
		if err := w.AddFrom(context.Background(), 0, bytes.NewReader(memory), []Run{{0, 1024}, {1024, 1024}}); err != nil {
			t.Fatal(err)
		}
		if err := w.AddPages(7, 3, memory[:100*PageBytes]); err != nil {
			t.Fatal(err)
		}
		s, err := w.StateWriter("kernel")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Write(memory[:200000]); err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit("latest", testConfig()); err != nil {
			t.Fatal(err)
		}
		img, err := store.Open(context.Background(), "latest", OpenOptions{})
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(memory))
		if err := img.ReadPages(0, 0, got); err != nil || !bytes.Equal(got, memory) {
			t.Fatal("ReadPages", err)
		}
		target := newMemfd(t, make([]byte, len(memory)))
		if err := img.Load(context.Background(), map[FileID]PageSink{0: SinkTo(target)}, LoadOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := target.ReadAt(got, 0); err != nil || !bytes.Equal(got, memory) {
			t.Fatal("Load", err)
		}
		if err := img.Verify(context.Background()); err != nil {
			t.Fatal(err)
		}
		r, err := img.OpenState("kernel")
		if err != nil {
			t.Fatal(err)
		}
		state, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(state, memory[:200000]) {
			t.Fatal("state", err)
		}
	}
}

func openImage(tb testing.TB, store *Store) *Image {
	tb.Helper()
	img, err := store.Open(context.Background(), "latest", OpenOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = img.Close() })
	return img
}
