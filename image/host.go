package image

import (
	"slices"
	"strings"
)

// Host is what this host and program are, for comparison with what an image needs.
type Host struct {
	Build  string
	GVisor string
	Arch   string
	CPU    CPU
}

// CheckHost says whether state saved under c can be loaded here: the first reason why not, or nil. Saved state is the
// kernel's object graph, so there is no compatibility between builds; and threads may have looked at the CPU's features, its
// cache line and the layout of its registers at any time before.
func (c *Config) CheckHost(h Host) error {
	switch {
	case c.Arch != h.Arch:
		return failf(CodeArch, "config", "saved on %s, this host is %s", c.Arch, h.Arch)
	case c.GVisor != h.GVisor:
		return failf(CodeBuild, "config", "saved with gVisor %s, this program has %s", c.GVisor, h.GVisor)
	case c.Build != h.Build:
		return failf(CodeBuild, "config", "saved by build %s, this is %s", c.Build, h.Build)
	}
	var missing []string
	for _, feature := range c.CPU.Features {
		if !slices.Contains(h.CPU.Features, feature) {
			missing = append(missing, feature)
		}
	}
	saved, here := c.CPU, h.CPU
	switch {
	case len(missing) > 0:
		return failf(CodeCPU, "config", "this CPU lacks %s", strings.Join(missing, ", "))
	case saved.CacheLineBytes != here.CacheLineBytes:
		return failf(CodeCPU, "config", "saved with cache lines of %d bytes, this CPU has %d", saved.CacheLineBytes, here.CacheLineBytes)
	case saved.XSAVEBytes != here.XSAVEBytes || saved.XSAVEFeatures != here.XSAVEFeatures:
		return failf(CodeCPU, "config", "saved with XSAVE state %#x of %d bytes, this CPU has %#x of %d",
			saved.XSAVEFeatures, saved.XSAVEBytes, here.XSAVEFeatures, here.XSAVEBytes)
	case saved.MXCSRMask != here.MXCSRMask:
		return failf(CodeCPU, "config", "saved with MXCSR mask %#x, this CPU has %#x", saved.MXCSRMask, here.MXCSRMask)
	}
	return nil
}
