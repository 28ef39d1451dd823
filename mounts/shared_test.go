package mounts

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func TestParseShared(t *testing.T) {
	hints, err := ParseShared(map[string]string{
		"dev.gvisor.spec.mount.cache.source": "/cache", "dev.gvisor.spec.mount.cache.type": "tmpfs",
		"dev.gvisor.spec.mount.cache.share": "pod", "dev.gvisor.spec.mount.cache.options": "nosuid,size=1m",
		"dev.gvisor.spec.mount.b.source": "data", "dev.gvisor.spec.mount.b.type": "bind", "dev.gvisor.spec.mount.b.share": "shared",
		"io.kubernetes.cri.container-type": "container",
	})
	want := []SharedHint{
		{Name: "b", Source: "data", Type: "bind", Share: ShareShared},
		{Name: "cache", Source: "/cache", Type: "tmpfs", Share: SharePod, Options: []string{"nosuid", "size=1m"}},
	}
	if diff := cmp.Diff(want, hints); err != nil || diff != "" {
		t.Errorf("error %v, hints (-want +got):\n%s", err, diff)
	}
}

func TestParseSharedRefuses(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"no field":        {"cache": "x"},
		"no name":         {".source": "/x"},
		"unknown field":   {"a.source": "/x", "a.type": "bind", "a.share": "pod", "a.colour": "red"},
		"unknown type":    {"a.source": "/x", "a.type": "nfs", "a.share": "pod"},
		"unknown share":   {"a.source": "/x", "a.type": "bind", "a.share": "world"},
		"missing source":  {"a.type": "bind", "a.share": "pod"},
		"missing share":   {"a.source": "/x", "a.type": "bind"},
		"one source, two": {"a.source": "/x", "a.type": "bind", "a.share": "pod", "b.source": "/x", "b.type": "bind", "b.share": "pod"},
	} {
		full := make(map[string]string)
		for key, value := range annotations {
			full[SharedPrefix+key] = value
		}
		if _, err := ParseShared(full); len(AsErrors(err)) == 0 || AsErrors(err)[0].Code != CodeAnnotation {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestCompileShared(t *testing.T) {
	spec := specOf(
		specs.Mount{Destination: "/cache", Type: "bind", Source: "/pod/cache", Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/both", Type: "bind", Source: "data"},
	)
	spec.Annotations = map[string]string{
		SharedPrefix + "cache.source": "/pod/cache", SharedPrefix + "cache.type": "tmpfs",
		SharedPrefix + "cache.share": "pod", SharedPrefix + "cache.options": "rw,noexec,size=1m",
		SharedPrefix + "data.source": "data", SharedPrefix + "data.type": "bind", SharedPrefix + "data.share": "pod",
		SharedPrefix + "idle.source": "/idle", SharedPrefix + "idle.type": "bind", SharedPrefix + "idle.share": "pod",
	}
	list := compile(t, spec, Options{Bundle: newBundle(t)})
	// Nobody outside sees it and it was to be a tmpfs: it needs no host path.
	if m := find(t, list, "/cache"); m.Filesystem != FilesystemTmpfs || m.Device != "none" || m.Source != "" || m.Shared == nil ||
		m.Shared.Name != "cache" || m.Flags != (Flags{ReadOnly: true, NoExec: true}) || m.Data != "size=1m" {
		t.Errorf("shared tmpfs is %+v", m)
	}
	if m := find(t, list, "/both"); m.Filesystem != FilesystemGofer || m.Shared == nil || m.Shared.Name != "data" {
		t.Errorf("shared bind is %+v", m)
	}
	if got, want := warningCodes(list), "W_MOUNT_HINT_UNUSED:"+SharedPrefix+"idle"; got != want {
		t.Errorf("warnings %q, want %q", got, want)
	}
}
