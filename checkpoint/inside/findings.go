package inside

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/context"
	"gvisor.dev/gvisor/pkg/sentry/fsimpl/gofer"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
)

// Codes of findings.
const (
	// CodeDeletedSpecial is an open file whose name is gone and whose kind
	// cannot be made again on the restoring host.
	CodeDeletedSpecial = "deleted-special-file"
	// CodeDeletedReadOnly is an open regular file whose name is gone, on a
	// mount on which it could not be made again.
	CodeDeletedReadOnly = "deleted-file-on-read-only-mount"
	// CodeUnstarted is a container that was created and not started: a loaded
	// kernel would start it.
	CodeUnstarted = "container-not-started"
	// CodeLingering is a container that has ended and whose files are still open, or
	// whose processes still run, in a PID namespace of others.
	CodeLingering = "ended-container-in-use"
)

// findContainers finds what of the sandbox's containers could not be restored.
func findContainers(s *boot.Sandbox) []Finding {
	findings := findUnstarted(s.Containers())
	for _, name := range s.Lingering() {
		findings = append(findings, Finding{
			Code: CodeLingering, Detail: fmt.Sprintf("container %q has ended, but processes of it run, or others have its files open", name),
			Remedy: "delete it, and end who has its files open",
		})
	}
	return findings
}

// findUnstarted finds the containers that wait for somebody to start them.
func findUnstarted(containers []boot.ContainerState) []Finding {
	var findings []Finding
	for _, c := range containers {
		if c.Unstarted {
			findings = append(findings, Finding{
				Code: CodeUnstarted, Detail: fmt.Sprintf("container %q was created and not started", c.Name), Remedy: "start it, or delete it",
			})
		}
	}
	return findings
}

// findUnsavable looks through the open files of all tasks for what would make
// a save fail. It does not stop the tasks, so that what it finds may be gone,
// and more may have come, a moment later; the save itself says so then.
func findUnsavable(k *kernel.Kernel) []Finding {
	ctx := k.SupervisorContext()
	var findings []Finding
	seen := make(map[*vfs.FileDescription]bool)
	for _, task := range k.TaskSet().Root.Tasks() {
		var table *kernel.FDTable
		task.WithMuLocked(func(t *kernel.Task) {
			// A task that is exiting may hold a table that nobody owns any more.
			if table = t.FDTable(); table != nil && !table.TryIncRef() {
				table = nil
			}
		})
		if table == nil {
			continue
		}
		pid := k.TaskSet().Root.IDOfTask(task)
		table.ForEach(ctx, func(fd int32, file *vfs.FileDescription, _ kernel.FDFlags) bool {
			if !seen[file] {
				seen[file] = true
				if f, ok := checkFile(ctx, file); ok {
					f.Detail = fmt.Sprintf("process %d (%s), descriptor %d: %s", pid, task.Name(), fd, f.Detail)
					findings = append(findings, f)
				}
			}
			return true
		})
		table.DecRef(ctx)
	}
	return findings
}

func kindName(kind linux.FileMode) string {
	switch kind {
	case linux.S_IFIFO:
		return "FIFO"
	case linux.S_IFSOCK:
		return "socket"
	case linux.S_IFLNK:
		return "symlink"
	default:
		return "special file"
	}
}

// checkFile says whether an open file stands in the way of a save.
func checkFile(ctx context.Context, file *vfs.FileDescription) (Finding, bool) {
	dentry := file.Dentry()
	if dentry == nil || !dentry.IsDead() || file.Mount().Filesystem().FilesystemType().Name() != gofer.Name {
		return Finding{}, false
	}
	stat, err := file.Stat(ctx, vfs.StatOptions{Mask: linux.STATX_TYPE | linux.STATX_SIZE})
	if err != nil {
		return Finding{}, false
	}
	kind := linux.FileMode(stat.Mode).FileType()
	switch {
	case kind != linux.S_IFREG && kind != linux.S_IFDIR:
		return Finding{
			Code:   CodeDeletedSpecial,
			Detail: fmt.Sprintf("%s whose name was deleted", kindName(kind)),
			Remedy: "let the process close it, or keep such files on a tmpfs",
		}, true
	case kind == linux.S_IFREG && file.Mount().ReadOnly():
		return Finding{
			Code:   CodeDeletedReadOnly,
			Detail: fmt.Sprintf("file of %d bytes whose name was deleted, on a read-only mount", stat.Size),
			Remedy: "let the process close it; it cannot be created again on the restoring host",
		}, true
	}
	return Finding{}, false
}
