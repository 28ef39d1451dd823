package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"runtime"

	"gvisor.dev/gvisor/pkg/unet"
	"gvisor.dev/gvisor/pkg/urpc"
)

// ErrAnswer says that the sandbox's answer was larger than the call's could be: it is not the program that this is a client of.
var ErrAnswer = errors.New("sandbox answered too much on its control socket")

const (
	// maxFiles is how many descriptors may come with an answer, and go with a call: urpc's own bound.
	maxFiles = 128
	// maxShortAnswerBytes bounds the answer of a call whose result has a few numbers, or which fails with a reason.
	maxShortAnswerBytes = 64 << 10
	// maxListBytes bounds a list of processes: some 25,000.
	maxListBytes = 4 << 20
	// maxAnswerBytes bounds every other answer: lists of pages, and of held frames.
	maxAnswerBytes = 64 << 20
)

// answerLimit bounds what an answer may make this side read. A sandbox that was taken over may say anything.
func answerLimit(method string) int64 {
	switch method {
	case MethodStart, MethodStatus, MethodWait, MethodSignal, MethodPause, MethodResume, MethodExec, MethodStats,
		MethodCreate, MethodDestroy:
		return maxShortAnswerBytes
	case MethodProcesses:
		return maxListBytes
	}
	return maxAnswerBytes
}

// call and answer are urpc's messages.
type call struct {
	Method string `json:"method"`
	Arg    any    `json:"arg"`
}

type answer struct {
	Success bool   `json:"success"`
	Err     string `json:"err"`
	Result  any    `json:"result"`
}

// exchange makes a call as urpc's client does, which does not bound what it reads.
func exchange(socket *unet.Socket, method string, arg, result any) error {
	if err := sendCall(socket, call{Method: method, Arg: arg}); err != nil {
		return err
	}
	a := answer{Result: result}
	files, err := receiveAnswer(socket, answerLimit(method), &a)
	if err != nil {
		return err
	}
	if payload := filesOf(result); payload != nil {
		payload.Files = files
	} else {
		closeFiles(files)
	}
	if !a.Success {
		return &RemoteError{Method: method, Message: a.Err}
	}
	return nil
}

// filesOf returns the descriptors that go with an argument or result, nil if it has none.
func filesOf(v any) *urpc.FilePayload {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() || p.Elem().Kind() != reflect.Struct {
		return nil
	}
	field := p.Elem().FieldByName("FilePayload")
	if !field.IsValid() {
		return nil
	}
	payload, _ := field.Addr().Interface().(*urpc.FilePayload)
	return payload
}

func closeFiles(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

func sendCall(socket *unet.Socket, c call) error {
	b, err := json.Marshal(c)
	if err != nil {
		return err
	}
	w := socket.Writer(true)
	if payload := filesOf(c.Arg); payload != nil {
		if len(payload.Files) > maxFiles {
			return fmt.Errorf("%s: %d files, at most %d", c.Method, len(payload.Files), maxFiles)
		}
		var fds []int
		for _, f := range payload.Files {
			fds = append(fds, int(f.Fd()))
		}
		w.PackFDs(fds...)
		defer runtime.KeepAlive(payload.Files)
	}
	for len(b) > 0 {
		n, err := w.WriteVec([][]byte{b})
		if err != nil {
			return err
		}
		w.PackFDs() // they went with the first bytes
		b = b[n:]
	}
	return nil
}

// receiveAnswer reads an answer of at most limit bytes, and the descriptors that come with its first byte.
func receiveAnswer(socket *unet.Socket, limit int64, a *answer) ([]*os.File, error) {
	r := socket.Reader(true)
	r.EnableFDs(maxFiles)
	first := make([]byte, 1)
	if _, err := r.ReadVec([][]byte{first}); err != nil {
		return nil, err
	}
	fds, err := r.ExtractFDs()
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, fd := range fds {
		files = append(files, os.NewFile(uintptr(fd), "from sandbox"))
	}
	rest := &io.LimitedReader{R: socket, N: limit}
	if err := json.NewDecoder(io.MultiReader(bytes.NewReader(first), rest)).Decode(a); err != nil {
		closeFiles(files)
		if rest.N <= 0 {
			return nil, fmt.Errorf("%w: more than %d bytes", ErrAnswer, limit)
		}
		return nil, err
	}
	return files, nil
}
