package control

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"

	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/pkg/urpc"
)

// Echo is what a sandbox serves, by gVisor's own server.
type Echo struct{}

// FileArgs has a number, and files beside it.
type FileArgs struct {
	urpc.FilePayload
	Number uint64
}

// Same returns what it was given, with other files of the same content.
func (*Echo) Same(in, out *FileArgs) error {
	out.Number = in.Number
	for _, f := range in.Files {
		copied, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			return err
		}
		out.Files = append(out.Files, copied)
	}
	return nil
}

// Fails fails.
func (*Echo) Fails(*None, *None) error { return errors.New("no such thing") }

// Long answers with a text.
func (*Echo) Long(bytes *int, out *string) error {
	*out = strings.Repeat("x", *bytes)
	return nil
}

// pair returns a client whose other end is left to the test.
func pair(t *testing.T) (*Client, *unet.Socket) {
	t.Helper()
	ours, theirs, err := unet.SocketPair(false)
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{socket: ours}
	t.Cleanup(func() { c.Close() })
	return c, theirs
}

func served(t *testing.T) *Client {
	t.Helper()
	c, theirs := pair(t)
	server := urpc.NewServer()
	server.Register(new(Echo))
	server.StartHandling(theirs)
	t.Cleanup(func() { server.Stop(0) })
	return c
}

func TestCallSpeaksURPC(t *testing.T) {
	c := served(t)
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.WriteString("content"); err != nil {
		t.Fatal(err)
	}
	const number = 1<<63 + 1 // which no float has
	var out FileArgs
	in := &FileArgs{FilePayload: urpc.FilePayload{Files: []*os.File{file, file}}, Number: number}
	if err := c.Call(t.Context(), "Echo.Same", in, &out); err != nil {
		t.Fatal(err)
	}
	if out.Number != number || len(out.Files) != 2 {
		t.Fatalf("%+v", out)
	}
	for _, f := range out.Files {
		if got, err := io.ReadAll(f); err != nil || string(got) != "content" {
			t.Errorf("%q, %v", got, err)
		}
		f.Close()
	}
	if _, err := file.Stat(); err != nil {
		t.Errorf("the caller's file: %v", err)
	}
	remote := (*RemoteError)(nil)
	if err := c.Call(t.Context(), "Echo.Fails", &None{}, &None{}); !errors.As(err, &remote) || remote.Message != "no such thing" {
		t.Fatal(err)
	}
	// The connection serves on after a failure, and larger answers than one read.
	length, text := 3<<20, ""
	if err := c.Call(t.Context(), "Echo.Long", &length, &text); err != nil || len(text) != length {
		t.Fatal(len(text), err)
	}
}

// endless is a sandbox that was taken over and says the same for ever.
func endless(socket *unet.Socket, begin, repeat string) {
	socket.Read(make([]byte, 1024))
	socket.Write([]byte(begin))
	block := bytes.Repeat([]byte(repeat), 1024)
	for {
		if _, err := socket.Write(block); err != nil {
			socket.Close()
			return
		}
	}
}

func TestAnswersAreBounded(t *testing.T) {
	for _, method := range []string{MethodStatus, MethodProcesses, "Checkpoint.Survey"} {
		for _, text := range [][2]string{{`{"success":true,"err":"`, "x"}, {`{"success":true,"result":`, "["}, {"", " "}, {`{"success":true,"result":[`, "{},"}} {
			c, theirs := pair(t)
			go endless(theirs, text[0], text[1])
			var result []Process
			err := c.Call(context.Background(), method, &None{}, &result)
			if !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s, endless %q: %v", method, text[1], err)
			}
			if text[1] != "[" && !errors.Is(err, ErrAnswer) { // so deep is no JSON, which is noticed earlier
				t.Errorf("%s, endless %q: %v", method, text[1], err)
			}
			c.Close()
		}
	}
}

func TestFilesNobodyAskedForAreClosed(t *testing.T) {
	c, theirs := pair(t)
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	go func() {
		theirs.Read(make([]byte, 1024))
		w := theirs.Writer(true)
		w.PackFDs(int(write.Fd()))
		w.WriteVec([][]byte{[]byte(`{"success":true}`)})
		write.Close()
	}()
	if err := c.Call(t.Context(), MethodStatus, &None{}, &Status{}); err != nil {
		t.Fatal(err)
	}
	// It ends only when the last descriptor of the other end is closed.
	if n, err := read.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatal(n, err)
	}
}

// FuzzAnswer feeds arbitrary bytes to the decoder of answers.
func FuzzAnswer(f *testing.F) {
	for _, seed := range []string{`{"success":true,"err":"","result":{"status":"running","pids":1}}`, `{"success":false,"err":"x"}`, "", "{", "null", "[[["} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 32<<10 {
			return // more would wait for a reader
		}
		ours, theirs, err := unet.SocketPair(false)
		if err != nil {
			t.Fatal(err)
		}
		defer ours.Close()
		if _, err := theirs.Write(b); err != nil && len(b) > 0 {
			t.Fatal(err)
		}
		theirs.Close()
		if _, err := receiveAnswer(ours, maxShortAnswerBytes, &answer{Result: &Status{}}); err == nil && !bytes.ContainsAny(b, "{n") {
			t.Errorf("%q is an answer", b)
		}
	})
}
