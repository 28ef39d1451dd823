package migrate

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// arrivalStreams are what the processes of a sandbox that arrives are connected to.
type arrivalStreams struct {
	stdio     []*os.File          // of the container: three, or the slave end of its terminal
	slaves    map[string]*os.File // of exec'd processes' terminals, by session
	terminals terminals
}

// openStreams opens them: files below Outputs, or terminals. On an error nothing is
// left open.
func (r *Receiver) openStreams(id string, bundle *sandbox.Bundle, plan *checkpoint.Plan) (_ *arrivalStreams, err error) {
	s := &arrivalStreams{slaves: make(map[string]*os.File), terminals: make(terminals)}
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	if bundle.Spec.Process.Terminal {
		log, err := r.openLog(id)
		if err != nil {
			return nil, err
		}
		slave, err := r.openTerminal(id, containerTerminal, log, s.terminals)
		if err != nil {
			return nil, err
		}
		s.stdio = []*os.File{slave}
	} else if s.stdio, err = r.openOutput(id); err != nil {
		return nil, err
	}
	for _, session := range plan.Terminals() {
		// What an exec prints is no more the container's output here than where it was started.
		slave, err := r.openTerminal(id, session, nil, s.terminals)
		if err != nil {
			return nil, err
		}
		s.slaves[session.Name] = slave
	}
	return s, nil
}

func (s *arrivalStreams) close() {
	for _, f := range s.stdio {
		f.Close()
	}
	for _, f := range s.slaves {
		f.Close()
	}
	s.terminals.close()
}

// openOutput opens what a container without a terminal is to print into, and its
// empty input.
func (r *Receiver) openOutput(id string) (files []*os.File, err error) {
	in, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	files = append(files, in)
	for range 2 {
		f, err := r.openLog(id)
		if err != nil {
			for _, f := range files {
				f.Close()
			}
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func (r *Receiver) outputPath(id string) string { return filepath.Join(r.Outputs, id+".log") }

// openLog opens the file for what a container prints.
func (r *Receiver) openLog(id string) (*os.File, error) {
	if err := os.MkdirAll(r.Outputs, 0o700); err != nil {
		return nil, fmt.Errorf("open output of %q: %w", id, err)
	}
	f, err := os.OpenFile(r.outputPath(id), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open output of %q: %w", id, err)
	}
	return f, nil
}

// checkTerminals returns what stands in the way of a sandbox's terminals, or nil.
func (r *Receiver) checkTerminals(bundle *sandbox.Bundle, plan *checkpoint.Plan) *wire.Finding {
	n := len(plan.Terminals())
	if bundle.Spec.Process.Terminal {
		n++
	}
	f := &wire.Finding{Code: "terminal", Subject: "process.terminal", Fatal: true}
	switch {
	case n > 0 && r.OpenTerminal == nil:
		f.Message = "the target takes no sandbox with a terminal: nobody would hold its other end"
	case n > wire.MaxTerminals:
		f.Message = fmt.Sprintf("the sandbox has %d terminals, limit is %d: end some of the exec'd processes", n, wire.MaxTerminals)
	default:
		return nil
	}
	return f
}
