package spare

import (
	"os"
	"sync"
)

// prepared are the processes that Prepare has started and nobody has taken.
var prepared struct {
	mu      sync.Mutex
	process *Process
	gofer   chan *Process // one comes, nil where it could not be started; nil once taken
}

// Prepare starts a sandbox process with the default platform for Take, and a gofer for
// TakeGofer. If it cannot, they have nothing to give, and Start or StartGofer will tell
// why.
func Prepare(label string) {
	p, err := Start(label, "", os.Stderr)
	if err != nil {
		return
	}
	prepared.mu.Lock()
	defer prepared.mu.Unlock()
	p.early = true
	prepared.process = p
	gofer := make(chan *Process, 1)
	prepared.gofer = gofer
	go func() {
		g, err := StartGofer(Mappings{}, os.Stderr)
		if err == nil {
			g.early = true
		}
		gofer <- g
	}()
}

// Take returns the process that was prepared for label, at most once, or nil. It
// belongs to the caller.
func Take(label string) *Process {
	prepared.mu.Lock()
	defer prepared.mu.Unlock()
	if prepared.process == nil || prepared.process.label != label {
		return nil
	}
	p := prepared.process
	prepared.process = nil
	return p
}

// TakeGofer returns the gofer that was prepared, at most once, or nil. It belongs to
// the caller.
func TakeGofer() *Process {
	prepared.mu.Lock()
	gofer := prepared.gofer
	prepared.gofer = nil
	prepared.mu.Unlock()
	if gofer == nil {
		return nil
	}
	return <-gofer
}

// DiscardGofer ends the prepared gofer, if nobody has taken it.
func DiscardGofer() { TakeGofer().discard() }

// Discard ends the prepared sandbox process, if nobody has taken it, whatever its label.
func Discard() {
	prepared.mu.Lock()
	p := prepared.process
	prepared.process = nil
	prepared.mu.Unlock()
	p.discard()
}

// DiscardAll ends what is left of both.
func DiscardAll() {
	Discard()
	DiscardGofer()
}

func (p *Process) discard() {
	if p != nil {
		p.Kill()
		p.Wait()
	}
}
