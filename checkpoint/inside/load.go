package inside

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	stime "gvisor.dev/gvisor/pkg/sentry/time"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/timing"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// LoadFiles is the number of files that Load expects: kernel state, memory
// metadata, and the page socket. A standby has one more, see standby.go.
const LoadFiles = 3

// Load makes a kernel out of a saved one. It is boot.Hooks.Load.
//
// It returns once the kernel could run; pages that it has not asked for yet
// keep coming in the background, and a task that needs one waits for it. If the
// pager of a restore goes away before the last page, the process ends: a sandbox
// with holes in its memory must not run, and the image still has everything.
// After post-copy it waits for the next pager instead.
func Load(l *boot.Loading) (*kernel.Kernel, error) {
	if len(l.Files) != LoadFiles && len(l.Files) != LoadFiles+1 {
		return nil, fmt.Errorf("load was given %d files, want %d, or %d for a standby", len(l.Files), LoadFiles, LoadFiles+1)
	}
	standby, whole := len(l.Files) > LoadFiles, false
	if standby {
		var err error
		if whole, err = standBy(l, l.Files[LoadFiles]); err != nil {
			return nil, err
		}
	}
	state, metadata, pages := l.Files[0], l.Files[1], l.Files[2]
	defer state.Close()
	reader := newPageReader(pages, standby, whole, l.Charge)
	arriving.Store(reader)
	loader := kernel.NewAsyncMFLoader(bufferedReader(metadata), reader, l.MemoryFile, nil)

	k := &kernel.Kernel{Platform: l.Platform}
	k.SetMemoryFile(l.MemoryFile)
	privateFiles := map[checkpoint.ResourceID]*pgalloc.MemoryFile{}
	ctx := context.WithValues(k.SupervisorContext(), map[any]any{
		vfs.CtxRestoreFilesystemFDMap: l.HostFDs,
		pgalloc.CtxMemoryFileMap:      privateFiles,
	})
	loader.KickoffPrivate(privateFiles)
	// A collection now would lengthen the time in which nothing runs.
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	timer := timing.New("load", time.Now())
	err := k.LoadFrom(ctx, bufio.NewReaderSize(state, 64<<10), loader, nil, l.Stack,
		stime.NewCalibratedClocks(), &vfs.CompleteRestoreOptions{}, timer.Fork("kernel"))
	if err != nil {
		return nil, fmt.Errorf("load kernel: %w", err)
	}
	if err := loader.WaitMetadata(); err != nil {
		return nil, fmt.Errorf("load memory metadata: %w", err)
	}
	go func() {
		if err := loader.Wait(); err != nil {
			log.Warningf("a page did not arrive, the sandbox ends: %v", err)
			os.Exit(128 + int(unix.SIGKILL))
		}
		l.Loaded()
	}()
	return k, nil
}

// bufferedReader collects the small reads of the state decoder.
func bufferedReader(f *os.File) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(f, 64<<10), f}
}
