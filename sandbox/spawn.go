package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/spare"
)

// maxReportBytes bounds what a sandbox process says when it is ready.
const maxReportBytes = 1 << 20

// child is a sandbox process that has been started but has not reported yet.
type child struct {
	process *spare.Process
	ready   *os.File // reads its boot.Report
}

// startProcess returns a sandbox process that waits for its files: the one that
// the command has prepared, if it is for this sandbox and its platform, or a new
// one.
func startProcess(cfg *boot.Config, log *os.File) (*spare.Process, error) {
	if cfg.Platform == boot.DefaultPlatform {
		if p := spare.Take(cfg.ID); p != nil {
			return p, nil
		}
	}
	spare.Discard()
	return spare.Start(cfg.ID, cfg.Platform, log)
}

// handOver makes process the sandbox of cfg and files. It takes ownership of all
// of them; Config, Ready and Log are filled in here.
func handOver(process *spare.Process, cfg *boot.Config, files *boot.Files, log *os.File) (_ *child, err error) {
	defer closeFiles(files)
	defer func() {
		if err != nil && process != nil {
			process.Kill()
			process.Wait()
		}
	}()
	cfg.Files = files.Layout()
	data, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	if files.Config, err = memoryFile("sandbox-config", data); err != nil {
		return nil, err
	}
	ready, readyChild, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	files.Ready = readyChild
	// The log is the caller's, closeFiles must not find it.
	given := *files
	given.Log = log
	err = process.Give(given.List())
	if err != nil && process.Early() {
		// It has ended, and told the terminal why. If that was not by chance, another says it in the log.
		process.Kill()
		process.Wait()
		if process, err = spare.Start(cfg.ID, cfg.Platform, log); err == nil {
			err = process.Give(given.List())
		}
	}
	if err != nil {
		ready.Close()
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	return &child{process: process, ready: ready}, nil
}

// waitReady blocks until the sandbox process has reported, ended, or ctx has.
func (c *child) waitReady(ctx context.Context) (*boot.Report, error) {
	defer c.ready.Close()
	stop := context.AfterFunc(ctx, func() { c.ready.Close() })
	defer stop()
	data, err := io.ReadAll(io.LimitReader(c.ready, maxReportBytes))
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBoot, err)
	}
	var report boot.Report
	if err := json.Unmarshal(data, &report); err != nil {
		c.process.Kill() // it may be there still, and say nonsense
		return nil, fmt.Errorf("%w: it ended without a word (%s), see its log", ErrBoot, c.process.Wait())
	}
	if report.Error != "" {
		return nil, fmt.Errorf("%w: %s", ErrBoot, report.Error)
	}
	return &report, nil
}

// memoryFile returns a file in memory with data in it, to be read from its
// beginning.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := io.Copy(f, bytes.NewReader(data)); err != nil {
		f.Close()
		return nil, err
	}
	_, err = f.Seek(0, io.SeekStart)
	return f, err
}

// newMemory returns the memfd that will hold all of a sandbox's memory. It can
// never shrink: whoever maps it would otherwise be killed by a guest that makes
// its kernel truncate it.
func newMemory() (*os.File, error) {
	fd, err := unix.MemfdCreate("sandbox-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create sandbox memory: %w", err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("seal sandbox memory: %w", err)
	}
	return os.NewFile(uintptr(fd), "sandbox-memory"), nil
}

func closeFiles(files *boot.Files) {
	for _, f := range files.List() {
		if f != nil {
			f.Close()
		}
	}
}
