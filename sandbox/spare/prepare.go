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
	prepared.process = p
}

// Take returns the prepared process, at most once, or nil. It belongs to the
// caller.
func Take() *Process {
	prepared.mu.Lock()
	defer prepared.mu.Unlock()
	p := prepared.process
	prepared.process = nil
	return p
}

// Discard ends a prepared process that nobody has taken.
func Discard() {
	if p := Take(); p != nil {
		p.Kill()
		p.Wait()
	}
}
