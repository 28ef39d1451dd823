package terminal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/sys/unix"
)

// How being attached ends, other than with the process.
var (
	// ErrDetached says that the person has typed the detach keys.
	ErrDetached = errors.New("detached")
	// ErrEnded is the keeper's word that there is no more to see, and why.
	ErrEnded = errors.New("the terminal is gone")
)

// AttachOptions say who sits at a terminal.
type AttachOptions struct {
	In  io.Reader // what is typed; its end is not told
	Out io.Writer // what is shown
	// DetachKeys are typed one after the other to detach; none: nothing does.
	DetachKeys []byte
	// Sizes gives the window's sizes, as they change; nil: it has none.
	Sizes <-chan unix.Winsize
}

// Attach connects a person with the keeper at conn, which it owns, and returns the
// exit status of the process inside when that has ended. Otherwise the error is an
// ErrDetached or an ErrEnded. A read of In that is under way then is left behind.
func Attach(conn *net.UnixConn, opts AttachOptions) (status int, err error) {
	defer conn.Close()
	p := &person{conn: conn, opts: opts, detached: make(chan struct{})}
	stop := make(chan struct{})
	defer close(stop)
	go p.carrySizes(stop)
	go p.carryInput()
	status, err = p.carryOutput()
	select {
	case <-p.detached:
		return 0, ErrDetached
	default:
		return status, err
	}
}

// person is the near end of a connection to a keeper.
type person struct {
	conn     *net.UnixConn
	opts     AttachOptions
	detached chan struct{}

	mu sync.Mutex // held while a frame is written
}

func (p *person) send(k kind, payload []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return writeFrame(p.conn, k, payload)
}

func (p *person) carryOutput() (status int, err error) {
	for {
		f, err := readFrame(p.conn)
		if err != nil {
			return 0, fmt.Errorf("%w: its keeper has ended", ErrEnded)
		}
		switch f.kind {
		case kindData:
			if _, err := p.opts.Out.Write(f.payload); err != nil {
				return 0, err
			}
		case kindExit:
			return int(int32(binary.LittleEndian.Uint32(f.payload))), nil
		case kindEnded:
			return 0, fmt.Errorf("%w: %s", ErrEnded, f.payload)
		default:
			return 0, fmt.Errorf("%w: its keeper sent a frame of kind %d", ErrEnded, f.kind)
		}
	}
}

func (p *person) carrySizes(stop <-chan struct{}) {
	for {
		select {
		case size, ok := <-p.opts.Sizes:
			if !ok {
				return
			}
			payload := binary.LittleEndian.AppendUint16(nil, size.Row)
			if p.send(kindSize, binary.LittleEndian.AppendUint16(payload, size.Col)) != nil {
				return
			}
		case <-stop:
			return
		}
	}
}

func (p *person) carryInput() {
	keys := detector{keys: p.opts.DetachKeys}
	buffer := make([]byte, MaxFrameBytes/2)
	for {
		n, err := p.opts.In.Read(buffer)
		typed, detach := keys.feed(buffer[:n])
		for len(typed) > 0 {
			part := typed[:min(len(typed), MaxFrameBytes)]
			if p.send(kindData, part) != nil {
				return
			}
			typed = typed[len(part):]
		}
		if detach {
			close(p.detached)
			p.conn.Close()
			return
		}
		if err != nil {
			return
		}
	}
}

// A detector holds back what may become the detach keys.
type detector struct {
	keys    []byte
	matched int // how many of keys were typed
}

// feed returns what of the input so far is not the detach keys' beginning, and
// whether they are complete. What was typed behind them is dropped.
func (d *detector) feed(b []byte) (typed []byte, detach bool) {
	if len(d.keys) == 0 {
		return b, false
	}
	for _, c := range b {
		// The longest beginning of the keys that what was typed ends with.
		for d.matched > 0 && c != d.keys[d.matched] {
			shorter := d.shorter()
			typed = append(typed, d.keys[:d.matched-shorter]...)
			d.matched = shorter
		}
		if c != d.keys[d.matched] {
			typed = append(typed, c)
			continue
		}
		if d.matched++; d.matched == len(d.keys) {
			return typed, true
		}
	}
	return typed, false
}

// shorter returns the length of the longest proper beginning of the keys with
// which the matched ones end.
func (d *detector) shorter() int {
	for n := d.matched - 1; n > 0; n-- {
		if string(d.keys[:n]) == string(d.keys[d.matched-n:d.matched]) {
			return n
		}
	}
	return 0
}

// ParseKeys understands keys as "ctrl-p,ctrl-q" or "ctrl-a,d"; "" is none.
func ParseKeys(text string) ([]byte, error) {
	var keys []byte
	for len(text) > 0 {
		key := text
		text = ""
		for i := range key {
			if key[i] == ',' && i > 0 {
				key, text = key[:i], key[i+1:]
				if text == "" {
					return nil, fmt.Errorf("detach keys end with a comma")
				}
				break
			}
		}
		const control = "ctrl-"
		switch {
		case len(key) == 1:
			keys = append(keys, key[0])
		case len(key) == len(control)+1 && key[:len(control)] == control && isControl(key[len(control)]):
			keys = append(keys, key[len(control)]&0x1f)
		default:
			return nil, fmt.Errorf("detach key %q is neither a character nor ctrl- and one of a-z @ [ \\ ] ^ _", key)
		}
	}
	if len(keys) > maxKeys {
		return nil, fmt.Errorf("%d detach keys, limit is %d", len(keys), maxKeys)
	}
	return keys, nil
}

// maxKeys bounds the detach keys.
const maxKeys = 16

func isControl(c byte) bool { return 'a' <= c && c <= 'z' || c == '@' || '[' <= c && c <= '_' }
