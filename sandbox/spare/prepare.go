package spare

import (
	"os"
	"sync"
)

// prepared is the process that Prepare has started and nobody has taken.
var prepared struct {
	mu      sync.Mutex
	process *Process
}

// Prepare starts a sandbox process with the default platform for Take. If it
// cannot, Take has nothing to give, and Start will tell why.
func Prepare(label string) {
	p, err := Start(label, "", os.Stderr)
	if err != nil {
		return
	}
	prepared.mu.Lock()
	defer prepared.mu.Unlock()
	p.early = true
	prepared.process = p
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

// Discard ends a prepared process that nobody has taken, whatever its label.
func Discard() {
	prepared.mu.Lock()
	p := prepared.process
	prepared.process = nil
	prepared.mu.Unlock()
	if p != nil {
		p.Kill()
		p.Wait()
	}
}
