package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"testing"
)

func dataPreamble(index, count uint16) Preamble {
	return Preamble{Version: Version, Kind: KindData, Attempt: testAttempt, Index: index, Count: count}
}

// offer plays both ends of one data connection and returns what each saw.
func offer(t *testing.T, r *Rendezvous, p Preamble, peer string) (dialler net.Conn, greeted, offered error) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { near.Close(); far.Close() })
	answered := make(chan error, 1)
	go func() {
		got, err := ReadPreamble(far)
		if err == nil {
			err = r.Offer(far, got, peer)
		}
		if err != nil {
			far.Close()
		}
		answered <- err
	}()
	greeted = Greet(near, p)
	return near, greeted, <-answered
}

func TestDataConnectionsMeetTheirAttempt(t *testing.T) {
	var r Rendezvous
	const count = 4
	m, err := r.Expect(testAttempt, "key A", count)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if _, err := r.Expect(testAttempt, "key A", 1); !errors.Is(err, ErrAttempt) {
		t.Fatalf("one attempt is expected twice: %v", err)
	}

	diallers := make([]net.Conn, count)
	for _, index := range []uint16{2, 0, 3} {
		conn, greeted, offered := offer(t, &r, dataPreamble(index, count), "key A")
		if greeted != nil || offered != nil {
			t.Fatal(greeted, offered)
		}
		diallers[index] = conn
	}
	for name, test := range map[string]struct {
		preamble Preamble
		peer     string
	}{
		"the same connection again": {dataPreamble(2, count), "key A"},
		"another count":             {dataPreamble(1, count+1), "key A"},
		"another peer":              {dataPreamble(1, count), "key B"},
		"another attempt":           {Preamble{Kind: KindData, Attempt: otherAttempt, Index: 1, Count: count}, "key A"},
	} {
		if _, greeted, offered := offer(t, &r, test.preamble, test.peer); !errors.Is(greeted, ErrRefused) || !errors.Is(offered, ErrRefused) {
			t.Errorf("%s: dialler saw %v, listener %v", name, greeted, offered)
		}
	}
	conn, greeted, offered := offer(t, &r, dataPreamble(1, count), "key A")
	if greeted != nil || offered != nil {
		t.Fatal(greeted, offered)
	}
	diallers[1] = conn

	conns, err := m.Wait(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for i, conn := range conns {
		go diallers[i].Write([]byte{byte(i)})
		var b [1]byte
		if _, err := io.ReadFull(conn, b[:]); err != nil || int(b[0]) != i {
			t.Fatalf("connection %d is number %d: %v", i, b[0], err)
		}
	}
	if _, greeted, _ := offer(t, &r, dataPreamble(0, count), "key A"); !errors.Is(greeted, ErrRefused) {
		t.Fatalf("late connection: %v", greeted)
	}
	again, err := r.Expect(testAttempt, "key A", 1)
	if err != nil {
		t.Fatalf("expect again, as after a lost link: %v", err)
	}
	again.Close()
}

func TestMeetingThatIsGivenUpClosesWhatCame(t *testing.T) {
	var r Rendezvous
	m, err := r.Expect(testAttempt, "key A", 2)
	if err != nil {
		t.Fatal(err)
	}
	conn, greeted, _ := offer(t, &r, dataPreamble(0, 2), "key A")
	if greeted != nil {
		t.Fatal(greeted)
	}
	gaveUp := errors.New("gave up")
	ctx, cancel := context.WithCancelCause(context.Background())
	cancel(gaveUp)
	if _, err := m.Wait(ctx); !errors.Is(err, gaveUp) {
		t.Fatal(err)
	}
	m.Close()
	m.Close()
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Fatal("connection is still open")
	}
	if len(r.waiting) != 0 {
		t.Fatal("attempt is still expected")
	}
}

func TestPreambleRefuses(t *testing.T) {
	good := appendPreamble(nil, dataPreamble(1, 2))
	if p, err := parsePreamble(good); err != nil || p != dataPreamble(1, 2) {
		t.Fatal(p, err)
	}
	with := func(change func(*Preamble)) []byte {
		p := dataPreamble(1, 2)
		change(&p)
		return appendPreamble(nil, p)
	}
	flipped := bytes.Clone(good)
	flipped[10] ^= 1
	for name, test := range map[string]struct {
		b    []byte
		want error
	}{
		"cut":               {good[:31], ErrTruncated},
		"nothing":           {nil, ErrTruncated},
		"HTTP":              {bytes.Repeat([]byte("GET / HT"), 4), ErrMagic},
		"flipped bit":       {flipped, ErrChecksum},
		"another version":   {with(func(p *Preamble) { p.Version = 2 }), ErrVersion},
		"no attempt":        {with(func(p *Preamble) { p.Attempt = [16]byte{} }), ErrPayload},
		"kind 0":            {with(func(p *Preamble) { p.Kind = 0 }), ErrType},
		"control and index": {with(func(p *Preamble) { p.Kind = KindControl }), ErrPayload},
		"index 2 of 2":      {with(func(p *Preamble) { p.Index = 2 }), ErrLength},
		"65535 connections": {with(func(p *Preamble) { p.Count = 65535 }), ErrLength},
	} {
		if _, err := ReadPreamble(bytes.NewReader(test.b)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestGreetNamesBothVersions(t *testing.T) {
	answer := appendPreamble(nil, Preamble{Version: 9, Kind: KindData, Status: StatusVersion, Attempt: testAttempt, Count: 1})
	conn := struct {
		io.Reader
		io.Writer
	}{bytes.NewReader(answer), io.Discard}
	err := Greet(conn, dataPreamble(0, 1))
	if !errors.Is(err, ErrVersion) || !bytes.Contains([]byte(err.Error()), []byte("version 9, this side version 1")) {
		t.Fatal(err)
	}
}

func FuzzPreamble(f *testing.F) {
	f.Add(appendPreamble(nil, dataPreamble(1, 2)))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := ReadPreamble(bytes.NewReader(b))
		if err == nil && !bytes.Equal(appendPreamble(nil, p), b[:preambleBytes]) {
			t.Fatalf("%x was taken as %+v", b[:preambleBytes], p)
		}
	})
}
