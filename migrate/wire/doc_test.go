package wire

import (
	"bytes"
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// TestDocumentShowsRealBytes holds the samples of docs/protocol.md against the encoder.
func TestDocumentShowsRealBytes(t *testing.T) {
	document, err := os.ReadFile("../../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	// Samples are indented, and spaced for people.
	var samples strings.Builder
	for line := range strings.Lines(string(document)) {
		if strings.HasPrefix(line, "    ") {
			samples.WriteString(strings.Join(strings.Fields(line), ""))
		}
	}
	id, err := attempt.Parse("000102030405060708090a0b0c0d0e0f")
	if err != nil {
		t.Fatal(err)
	}
	var batch PageBatch
	batch.Zero(16, 2)
	batch.Duplicate(32, 1, 7)
	var frames bytes.Buffer
	w, err := NewWriter(&frames, WriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.WriteFrame(TypePages, 0, batch.Payload())
	w.WriteFrame(TypeBarrier, 0, AppendBarrier(nil, 1))
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	message, err := encodeMessage(Source, id, 4, &Commit{Epoch: 7})
	if err != nil {
		t.Fatal(err)
	}
	preamble := appendPreamble(nil, Preamble{Version: 1, Kind: KindData, Attempt: id, Index: 1, Count: 4})
	for name, want := range map[string]string{
		"preamble": hex.EncodeToString(preamble),
		"frames":   hex.EncodeToString(frames.Bytes()),
		"message":  string(message),
	} {
		if !strings.Contains(samples.String(), want) {
			t.Errorf("the document does not show this %s: %s", name, want)
		}
	}
}
