package mounts

import (
	"encoding/json"
	"path"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func FuzzParseOptions(f *testing.F) {
	for _, seed := range []string{"ro,nosuid", "uid=1022,noatime", "size=64k,size=10%", "mode=a=b", "=", "newinstance=", "size=16e", "rbind,rw,rro"} {
		f.Add(FilesystemTmpfs, seed)
		f.Add(FilesystemDevpts, seed)
	}
	f.Fuzz(func(t *testing.T, filesystem, options string) {
		p, errs := parseOptions(filesystem, []string{options})
		for _, err := range errs {
			if err.Code == "" || err.Remedy == "" {
				t.Errorf("error says too little: %+v", err)
			}
		}
		// What was understood means the same when read again.
		again, errs := parseOptions(filesystem, p.data)
		if len(errs) > 0 || strings.Join(again.data, ",") != strings.Join(p.data, ",") || len(again.unknown) > 0 {
			t.Errorf("%q became %q, then %q, %v", options, p.data, again.data, errs)
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, seed := range []string{
		`{"root":{"path":"rootfs","readonly":true},"mounts":[{"destination":"/proc","type":"tmpfs"}]}`,
		`{"root":{"path":"rootfs"},"mounts":[{"destination":"/a/b","type":"bind","source":"data"},{"destination":"/a","type":"cgroup"}]}`,
		`{"root":{"path":"/"},"mounts":[{"destination":"/dev","type":"bind","source":"/dev","options":["rbind","x=y=z"]}],
			"annotations":{"dev.gvisor.spec.mount.a.share":"pod"}}`,
		`{}`, `{"mounts":[{"destination":"//..//","type":"none","options":["bind"]}]}`,
	} {
		f.Add([]byte(seed))
	}
	bundle := newBundle(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		var spec specs.Spec
		if json.Unmarshal(data, &spec) != nil {
			return
		}
		list, err := Compile(&spec, Options{Bundle: bundle, Lenient: len(data)%2 == 0, Overlay: OverlayAll})
		if err != nil && len(AsErrors(err)) == 0 {
			t.Fatalf("an error without code: %v", err)
		}
		checkList(t, list)
	})
}

// checkList checks what everybody may rely on in a list.
func checkList(t *testing.T, list *List) {
	t.Helper()
	if list.Mounts[0].Destination != "/" {
		t.Fatalf("first mount is %+v, not the root", list.Mounts[0])
	}
	position := make(map[string]int)
	for i, m := range list.Mounts {
		if _, twice := position[m.Destination]; twice || !path.IsAbs(m.Destination) || path.Clean(m.Destination) != m.Destination {
			t.Errorf("destination %q is not clean, or there twice", m.Destination)
		}
		position[m.Destination] = i
		if m.Device != DeviceName(m.Filesystem, m.Destination) {
			t.Errorf("%+v has the wrong device", m)
		}
		if m.Filesystem != FilesystemGofer && (m.Source != "" || m.Overlay || m.Recursive) {
			t.Errorf("%+v is not served and has a source", m)
		}
	}
	for i, m := range list.Mounts {
		for dir := m.Destination; dir != "/"; {
			dir = path.Dir(dir)
			if at, ok := position[dir]; ok && at > i {
				t.Errorf("%q stands before its parent %q", m.Destination, dir)
			}
		}
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add(sampleTable)
	f.Add("22 1 254:0 / /a\\04 rw - x y\n")
	f.Add("a b c:d / / e - - - -")
	f.Fuzz(func(t *testing.T, data string) {
		table, err := ParseTable(strings.NewReader(data))
		if err != nil {
			return
		}
		for _, entry := range table {
			if !path.IsAbs(entry.MountPoint) {
				t.Errorf("mount point %q is not absolute", entry.MountPoint)
			}
		}
		table.holding(0, "/a/b")
	})
}

func FuzzParseShared(f *testing.F) {
	f.Add("a.source", "/data", "a.type", "tmpfs", "a.share", "pod")
	f.Add("a.source", "/data", "b.source", "/data", "a.options", "ro,")
	f.Add("..", "", "a.b.c", "x", "", "y")
	f.Fuzz(func(t *testing.T, key1, value1, key2, value2, key3, value3 string) {
		hints, err := ParseShared(map[string]string{SharedPrefix + key1: value1, SharedPrefix + key2: value2, SharedPrefix + key3: value3})
		if err != nil && len(AsErrors(err)) == 0 {
			t.Fatalf("an error without code: %v", err)
		}
		for _, h := range hints {
			if h.Name == "" || h.Source == "" || h.Type == "" || h.Share == "" {
				t.Errorf("incomplete: %+v", h)
			}
		}
	})
}
