package boot

import (
	gcontrol "gvisor.dev/gvisor/pkg/sentry/control"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/mm"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// usage samples what one container uses. Its memory is what its processes have
// mapped and touched; the kernel does not count files by container.
func (s *Sandbox) usage(c *container) control.Stats {
	out := control.Stats{MemoryLimit: s.cfg.TotalMemory, CPUNanos: gcontrol.ContainerUsage(s.kernel)[c.name]}
	seen := make(map[*mm.MemoryManager]bool)
	for _, tg := range s.kernel.TaskSet().Root.ThreadGroups() {
		leader := tg.Leader()
		if leader == nil || leader.ContainerID() != c.name {
			continue
		}
		out.PIDs++
		leader.WithMuLocked(func(t *kernel.Task) {
			if m := t.MemoryManager(); m != nil && !seen[m] {
				seen[m] = true
				out.MemoryUsage += m.ResidentSetSize()
			}
		})
	}
	return out
}

// listProcesses lists the processes of a container as the sandbox numbers them.
func listProcesses(k *kernel.Kernel, container string) ([]control.Process, error) {
	var list []*gcontrol.Process
	if err := gcontrol.Processes(k, container, &list); err != nil {
		return nil, err
	}
	var rows []control.Process
	for _, p := range list {
		row := control.Process{
			PID: int32(p.PID), PPID: int32(p.PPID), PGID: int32(p.PGID), UID: uint32(p.UID),
			TTY: p.TTY, CPUTime: p.Time, Start: p.STime, Command: p.Cmd,
		}
		for _, tid := range p.Threads {
			row.Threads = append(row.Threads, int32(tid))
		}
		rows = append(rows, row)
	}
	return rows, nil
}
