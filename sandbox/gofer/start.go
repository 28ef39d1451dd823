package gofer

import (
	"context"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// Start opens the sources and starts a gofer process that serves them. It
// returns as soon as the process exists; Ready waits until it serves. Ending ctx
// later does not end the process.
//
// The caller owns the returned process, and its Client files.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	ids, err := cfg.idMappings()
	if err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	l := &launch{}
	defer l.close()
	if err := l.prepare(cfg); err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	p, err := l.start(cfg.LogFile, ids)
	if err != nil {
		return nil, fmt.Errorf("start gofer: %w", err)
	}
	return p, nil
}

// launch holds the descriptors of a gofer that is being started. Until start
// succeeds it owns all of them.
type launch struct {
	null     *os.File
	config   *os.File
	status   [2]*os.File // reading end here, writing end in the gofer
	clients  []*os.File
	perMount []*os.File // socket and tree of each mount, by turns
}

// prepare fills l.
func (l *launch) prepare(cfg Config) (err error) {
	if l.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return err
	}
	if l.status[0], l.status[1], err = os.Pipe(); err != nil {
		return fmt.Errorf("make status pipe: %w", err)
	}
	told := childConfig{StartCPU: cfg.StartCPU}
	for i, m := range cfg.Mounts {
		tree, mount, err := openSource(m)
		if err != nil {
			return fmt.Errorf("mount %d: source %q: %w", i, m.Source, err)
		}
		told.Mounts = append(told.Mounts, mount)
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			tree.Close()
			return fmt.Errorf("make socket pair: %w", err)
		}
		l.clients = append(l.clients, os.NewFile(uintptr(fds[0]), "gofer socket "+mountPath(i)))
		l.perMount = append(l.perMount, os.NewFile(uintptr(fds[1]), "gofer"), tree)
	}
	l.config, err = configFile(told)
	return err
}

// configFile returns an anonymous file with the configuration in it.
func configFile(told childConfig) (*os.File, error) {
	data, err := json.Marshal(told)
	if err != nil {
		return nil, err
	}
	fd, err := unix.MemfdCreate("gofer-config", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make configuration file: %w", err)
	}
	f := os.NewFile(uintptr(fd), "gofer-config")
	if _, err := f.WriteAt(data, 0); err != nil {
		f.Close()
		return nil, fmt.Errorf("write configuration: %w", err)
	}
	return f, nil
}

// start makes a process the gofer: the one that the command has prepared, if there
// is one and it is for this user namespace, or a new one. On success the process
// owns what it needs of l.
func (l *launch) start(log *os.File, ids spare.Mappings) (*Process, error) {
	if log == nil {
		log = l.null
	}
	process, err := l.handOver(log, ids)
	if err != nil {
		return nil, err
	}
	p := &Process{Client: l.clients, PID: process.Pid, process: process, status: l.status[0]}
	l.clients, l.status[0] = nil, nil
	return p, nil
}

// handOver gives the files to a process, and returns it.
func (l *launch) handOver(log *os.File, ids spare.Mappings) (*os.Process, error) {
	files := append([]*os.File{log, l.config, l.status[1]}, l.perMount...)
	if len(ids.UID) == 0 {
		if p := spare.TakeGofer(); p != nil {
			if err := p.Give(files); err == nil {
				return p.Process(), nil
			}
			// It has ended, and told the terminal why. If that was not by chance, another says it in the log.
			p.Kill()
			p.Wait()
		}
	} else {
		spare.DiscardGofer()
	}
	p, err := spare.StartGofer(ids, log)
	if err != nil {
		return nil, err
	}
	if err := p.Give(files); err != nil {
		p.Kill()
		p.Wait()
		return nil, err
	}
	return p.Process(), nil
}

// close closes what l still owns.
func (l *launch) close() {
	files := append([]*os.File{l.null, l.config, l.status[0], l.status[1]}, l.clients...)
	for _, f := range append(files, l.perMount...) {
		if f != nil {
			f.Close()
		}
	}
}
