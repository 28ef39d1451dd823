package wire

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

var (
	testAttempt  = attempt.ID{1, 2, 3}
	otherAttempt = attempt.ID{9}
)

func sampleTotals() Totals {
	d := DigestOf(nil).String()
	return Totals{StateBytes: 1 << 20, StateDigest: d, MetaBytes: 5, MetaDigest: d, CommittedPages: 9, MissingPages: 9, PagesDigest: d}
}

// sampleMessages has one message of each type.
func sampleMessages() []Message {
	build := Build{Version: "1.0", GVisor: "v0.0.0", Architecture: "amd64"}
	files := []MemoryFile{{Stream: 0, Pages: 5}, {Stream: 3, Pages: 1 << 32}}
	return []Message{
		&Hello{Build: build, Sandbox: "redis <1>", Epoch: 7, Mode: "hybrid", DataConnections: 4},
		&Plan{Manifest: json.RawMessage(`{"a":[1,2.50,"\u003c"]}`), Files: files},
		&Round{Number: 3, Files: files},
		&Freeze{},
		&Bundle{Entries: 3, Bytes: 4096},
		&Handover{Totals: sampleTotals(), Epoch: 7, Terminals: []Terminal{{Session: "root", State: json.RawMessage(`{"rows":24}`)}}, Connections: json.RawMessage("null")},
		&Commit{Epoch: 1<<64 - 1},
		&Query{Epoch: 7},
		&Abort{Reason: "cancelled"},
		&Destroyed{},
		&Welcome{Build: build},
		&Findings{Findings: []Finding{{Code: "mount_missing", Subject: "/data", Message: "no such", Fatal: true}}, Connections: []Fate{{Connection: "tcp 10.9.0.2:80 LISTEN", Kept: true, Reason: "on every address"}}},
		&Findings{},
		&Placed{Barrier: 3},
		&Announced{},
		&Prepared{Totals: sampleTotals(), LoadNanoseconds: 18e6},
		&Standing{Standing: attempt.Incomplete, Epoch: 7, PagesMissing: 12},
		&Refuse{Code: "build_mismatch", Message: "other build"},
	}
}

func sideOf(t testing.TB, m Message) Side {
	for _, side := range []Side{Source, Target} {
		if _, err := messageName(side, m); err == nil {
			return side
		}
	}
	t.Fatalf("%T has no name", m)
	return 0
}

func TestEveryMessageArrivesAsSent(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	conns := map[Side]*ControlConn{Source: NewControlConn(a, Source, testAttempt), Target: NewControlConn(b, Target, testAttempt)}
	seen := map[string]bool{}
	for _, want := range sampleMessages() {
		from := sideOf(t, want)
		name, _ := messageName(from, want)
		seen[name] = true
		sent := make(chan error, 1)
		go func() { sent <- conns[from].Send(want) }()
		got, err := conns[Source+Target-from].Receive()
		if err != nil || <-sent != nil {
			t.Fatalf("%T: %v", want, err)
		}
		// RawMessage nil arrives as null: the same document.
		if p, ok := want.(*Plan); ok {
			p.Environment, p.Network = json.RawMessage("null"), json.RawMessage("null")
			p.Manifest = json.RawMessage(`{"a":[1,2.50,"\u003c"]}`)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("%T: %s", want, diff)
		}
	}
	for name := range messageTypes {
		if !seen[name] {
			t.Errorf("no sample of %s", name)
		}
	}
}

// framed puts a length before a message.
func framed(b string) []byte {
	return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
}

// receive lets the target read what a source may have sent.
func receive(b []byte) (Message, error) {
	conn := struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(b), io.Discard}
	return NewControlConn(conn, Target, testAttempt).Receive()
}

func TestControlMessagesAreStrict(t *testing.T) {
	good := `{"seq":0,"type":"commit","attempt":"` + testAttempt.String() + `","body":{"epoch":7}}`
	if _, err := receive(framed(good)); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		if !strings.Contains(good, old) {
			t.Fatalf("no %q in the message", old)
		}
		return framed(strings.Replace(good, old, new, 1))
	}
	for _, test := range []struct {
		name string
		b    []byte
		want error
	}{
		{"claims 4 GiB", []byte{255, 255, 255, 255}, ErrLength},
		{"claims 16 MiB", []byte{0, 0, 0, 1}, ErrLength},
		{"cut in the length", framed(good)[:3], ErrTruncated},
		{"cut in the body", framed(good)[:50], ErrTruncated},
		{"empty", framed(""), ErrPayload},
		{"null", framed("null"), ErrType},
		{"not JSON", framed("GET / HTTP/1.1\r\n"), ErrPayload},
		{"two messages in one", framed(good + good), ErrPayload},
		{"white space", framed(good + "\n"), ErrPayload},
		{"unknown key", edit(`{"epoch":7}`, `{"epoch":7,"force":true}`), ErrPayload},
		{"unknown key outside", edit(`"seq":0`, `"seq":0,"x":1`), ErrPayload},
		{"repeated key", edit(`{"epoch":7}`, `{"epoch":8,"epoch":7}`), ErrPayload},
		{"other case", edit(`"epoch"`, `"Epoch"`), ErrPayload},
		{"other order", framed(`{"type":"commit","seq":0,"attempt":"` + testAttempt.String() + `","body":{"epoch":7}}`), ErrPayload},
		{"missing key", edit(`{"epoch":7}`, `{}`), ErrPayload},
		{"epoch 0", edit(`7`, `0`), ErrPayload},
		{"negative epoch", edit(`7`, `-7`), ErrPayload},
		{"epoch 2^64", edit(`7`, `18446744073709551616`), ErrPayload},
		{"body of another type", edit(`{"epoch":7}`, `[]`), ErrPayload},
		{"no body", edit(`{"epoch":7}`, `null`), ErrPayload},
		{"unknown type", edit(`commit`, `commitnow`), ErrType},
		{"message of the other side", edit(`commit`, `standing`), ErrType},
		{"another attempt", edit(testAttempt.String(), otherAttempt.String()), ErrAttempt},
		{"no attempt", edit(testAttempt.String(), ""), ErrPayload},
		{"late in the sequence", edit(`"seq":0`, `"seq":1`), ErrSequence},
	} {
		t.Run(test.name, func(t *testing.T) {
			if m, err := receive(test.b); !errors.Is(err, test.want) {
				t.Fatalf("got %v, %v; want %v", m, err, test.want)
			}
		})
	}
}

func TestReplayedCommitIsRefused(t *testing.T) {
	var recorded bytes.Buffer
	source := NewControlConn(&recorded, Source, testAttempt)
	if err := source.Send(&Commit{Epoch: 7}); err != nil {
		t.Fatal(err)
	}
	again := append(bytes.Clone(recorded.Bytes()), recorded.Bytes()...)
	conn := struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(again), io.Discard}

	target := NewControlConn(conn, Target, testAttempt)
	if _, err := target.Receive(); err != nil {
		t.Fatal(err)
	}
	if _, err := target.Receive(); !errors.Is(err, ErrSequence) {
		t.Fatalf("replayed on the same connection: %v", err)
	}
	conn.Reader = bytes.NewReader(recorded.Bytes())
	if _, err := NewControlConn(conn, Target, otherAttempt).Receive(); !errors.Is(err, ErrAttempt) {
		t.Fatalf("replayed in another attempt: %v", err)
	}
}

func TestMessagesOutOfBoundsAreNotSent(t *testing.T) {
	files := make([]MemoryFile, MaxStreams+1)
	for side, messages := range map[Side][]Message{
		Source: {
			&Commit{}, &Query{}, &Hello{}, &Plan{}, &Standing{Standing: attempt.Complete, Epoch: 1},
			&Plan{Files: files}, &Plan{Files: []MemoryFile{{Stream: 1}, {Stream: 1}}}, &Plan{Files: []MemoryFile{{Pages: 1 << 60}}},
			&Plan{Files: []MemoryFile{{}}, Manifest: json.RawMessage(`"` + strings.Repeat("x", MaxControlBytes) + `"`)},
			&Hello{Sandbox: "a", Epoch: 1, Mode: "teleport", DataConnections: 1},
			&Hello{Sandbox: "a", Epoch: 1, Mode: "stop", DataConnections: MaxDataConnections + 1},
			&Abort{Reason: strings.Repeat("x", MaxTextBytes+1)}, &Abort{Reason: "\xff"},
			&Handover{Epoch: 1},
		},
		Target: {
			&Commit{Epoch: 1}, &Standing{Standing: attempt.Unreachable, Epoch: 1}, &Standing{Standing: attempt.Owner},
			&Findings{Findings: make([]Finding, MaxFindings+1)}, &Findings{Connections: make([]Fate, MaxFates+1)}, &Handover{Totals: sampleTotals(), Epoch: 1, Terminals: make([]Terminal, MaxTerminals+1)}, &Prepared{Totals: sampleTotals(), LoadNanoseconds: -1},
		},
	} {
		for _, m := range messages {
			var sent bytes.Buffer
			var wrong *Error
			if err := NewControlConn(&sent, side, testAttempt).Send(m); !errors.As(err, &wrong) || sent.Len() > 0 {
				t.Errorf("%v sends %T %.80v: %v", side, m, m, err)
			}
		}
	}
}

func TestReceiveEndsCleanly(t *testing.T) {
	if _, err := receive(nil); err != io.EOF {
		t.Fatal(err)
	}
}

func FuzzControl(f *testing.F) {
	for _, m := range sampleMessages() {
		b, err := encodeMessage(sideOf(f, m), testAttempt, 0, m)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, side := range []Side{Source, Target} {
			m, err := decodeMessage(b, side, testAttempt, 0)
			if err != nil {
				continue
			}
			again, err := encodeMessage(side, testAttempt, 0, m)
			if err != nil || !bytes.Equal(again, b) {
				t.Fatalf("%q was taken and is sent as %q, %v", b, again, err)
			}
		}
	})
}
