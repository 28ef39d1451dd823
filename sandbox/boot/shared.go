package boot

import (
	"fmt"

	"gvisor.dev/gvisor/pkg/sentry/vfs"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// The masters of shared mounts are attached nowhere. The kernel itself keeps them,
// beside what it saves of its own accord: so they are there again in a loaded
// kernel, content included, even where no container has them mounted any more.

// sharedKey is the name by which the kernel keeps a master.
func sharedKey(name string) string { return "sbxmigrate/shared-mount/" + name }

// bindShared makes a mount of what the containers of the sandbox share, attached
// nowhere yet. The first container that names it makes the master, and its options
// of the filesystem count; flags are each container's own. Only one may be made at
// a time.
func (m *mounter) bindShared(mount *mounts.Mount, name string, opts *vfs.MountOptions) (*vfs.Mount, error) {
	key := sharedKey(mount.Shared.Name)
	master, _ := m.k.PopCheckpointState(key).(*vfs.Mount)
	if master == nil {
		all := vfs.MountOptions{GetFilesystemOptions: opts.GetFilesystemOptions}
		var err error
		if master, err = m.k.VFS().MountDisconnected(m.ctx, m.creds, mount.Device, name, &all); err != nil {
			return nil, fmt.Errorf("mount master of shared mount %q: %w", mount.Shared.Name, err)
		}
	}
	m.k.AddStateToCheckpoint(key, master)
	return m.k.VFS().NewDisconnectedMount(master.Filesystem(), master.Root(), opts), nil
}
