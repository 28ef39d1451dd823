package image

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/klauspost/compress/zstd"
)

func FuzzReference(f *testing.F) {
	for _, seed := range []string{"dir", "dir:name", "/a:b/c", ":", "a:b:c", "x:\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		ref, err := ParseReference(text)
		if err != nil {
			return
		}
		again, err := ParseReference(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q is %v, which reads as %v, %v", text, ref, again, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	config := testConfig()
	data, err := config.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"schema":2,"future":true}`))
	f.Add([]byte(`{"schema":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		config, err := decodeConfig("config", data)
		if err != nil {
			return
		}
		again, err := config.encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}

func FuzzManifest(f *testing.F) {
	store := smallImage(f)
	img := openImage(f, store)
	data, err := img.manifest.encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"artifactType":"application/vnd.sbxmigrate.checkpoint.v2"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := decodeManifest("manifest", data)
		if err != nil {
			return
		}
		again, err := m.encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Errorf("%q becomes %q, %v", data, again, err)
		}
	})
}

func FuzzIndexJSON(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json",` +
		`"digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"annotations":{"org.opencontainers.image.ref.name":"latest"}}]}`))
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]} `))
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = decodeLayout(data)
		index, err := decodeIndexJSON(data)
		if err != nil {
			return
		}
		written, err := json.Marshal(index)
		if err != nil {
			t.Fatal(err)
		}
		again, err := decodeIndexJSON(written)
		if err != nil {
			t.Fatalf("%q becomes %q: %v", data, written, err)
		}
		if findImage(index, "latest") != findImage(again, "latest") {
			t.Errorf("%q finds another image than %q", written, data)
		}
	})
}

func FuzzPageIndex(f *testing.F) {
	data, err := smallIndex().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	if data, err = (&pageIndex{}).encode(); err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodePageIndex("page index", data)
		if err != nil {
			return
		}
		again, err := x.encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x becomes %x, %v", data, again, err)
		}
		for _, file := range x.files { // every page that it promises has a place
			for _, run := range file.runs {
				if run.ordinal != zeroOrdinal {
					last := x.frames[x.frameOf(run.ordinal+run.Count-1)]
					if last.ordinal+uint64(last.pages) < run.ordinal+run.Count {
						t.Errorf("run %+v ends behind its last frame %+v", run, last)
					}
				}
			}
		}
	})
}

// A frame is read from a pack whose digest nobody has checked.
func FuzzFrame(f *testing.F) {
	encoder, err := newFrameEncoder(zstd.SpeedFastest)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoder.encode(nil, bytes.Repeat([]byte("frame"), frameBytes/5+1)[:frameBytes]), uint8(16))
	f.Add(encoder.encode(nil, make([]byte, PageBytes)), uint8(1))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, uint8(1))
	decoder, err := newFrameDecoder(0)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, stored []byte, pages uint8) {
		pages = pages%FramePages + 1
		into := make([]byte, int(pages)*PageBytes, int(pages)*PageBytes+decodeSlack)
		raw, err := decodeFrame(decoder, frame{codec: codecZstd, pages: pages}, stored, into)
		if err == nil && len(raw) != int(pages)*PageBytes {
			t.Errorf("%d pages became %d bytes", pages, len(raw))
		}
	})
}
