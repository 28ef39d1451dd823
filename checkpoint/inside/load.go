package inside

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/sentry/checkpoint"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/pgalloc"
	"gvisor.dev/gvisor/pkg/sentry/state/stateio"
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
// It returns once the kernel could run; pages keep coming in the background, and
// a task that needs one waits for it. If the
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
		warmHeap()
	}
	state, metadata, pages := l.Files[0], l.Files[1], l.Files[2]
	defer state.Close()
	reader, missing := newReader(l, pages, standby, whole)
	loader := kernel.NewAsyncMFLoader(bufferedReader(metadata), reader, l.MemoryFile, nil)

	k := &kernel.Kernel{Platform: l.Platform}
	k.SetMemoryFile(l.MemoryFile)
	privateFiles := map[checkpoint.ResourceID]*pgalloc.MemoryFile{}
	ctx := context.WithValues(k.SupervisorContext(), map[any]any{
		vfs.CtxRestoreFilesystemFDMap: l.HostFDs,
		pgalloc.CtxMemoryFileMap:      privateFiles,
	})
	loader.KickoffPrivate(privateFiles)
	timer := timing.New("load", time.Now())
	err := k.LoadFrom(ctx, bufio.NewReaderSize(state, 64<<10), loader, nil, l.Stack,
		stime.NewCalibratedClocks(), &vfs.CompleteRestoreOptions{}, timer.Fork("kernel"))
	if err != nil {
		return nil, fmt.Errorf("load kernel: %w", err)
	}
	if err := loader.WaitMetadata(); err != nil {
		return nil, fmt.Errorf("load memory metadata: %w", err)
	}
	if missing != nil {
		if err := missing.prepared(); err != nil {
			return nil, fmt.Errorf("prepare for memory that is missing: %w", err)
		}
		if l.Charge != nil && l.Trap == nil {
			go missing.chargeMissing(l.Charge)
		}
	}
	go func() {
		if err := loader.Wait(); err != nil {
			log.Warningf("a page did not arrive, the sandbox ends: %v", err)
			os.Exit(128 + int(unix.SIGKILL))
		}
		if missing == nil || missing.left() == 0 {
			l.Loaded() // else that is called when the last page has come
		}
	}()
	return k, nil
}

// newReader makes what the kernel gets its pages from, which owns the socket; missing is the same for a
// standby whose pages may come after its start, else nil.
func newReader(l *boot.Loading, socket *os.File, standby, whole bool) (_ stateio.AsyncReader, missing *arrivals) {
	if standby && !whole {
		missing = newArrivals(socket, l.MemoryFile, l.Trap, l.Arriving, l.Loaded)
		arriving.Store(missing)
		return missing, missing
	}
	if l.Trap != nil {
		l.Trap.Close()
	}
	if standby {
		arriving.Store(&arrivals{over: true}) // who asks what is left is told that nothing is
	}
	return newPageReader(socket, standby, l.Charge), nil
}

// bufferedReader collects the small reads of the state decoder.
func bufferedReader(f *os.File) io.ReadCloser {
	return struct {
		io.Reader
		io.Closer
	}{bufio.NewReaderSize(f, 64<<10), f}
}
