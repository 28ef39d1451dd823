package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]unix.Signal{
		"9": 9, "KILL": 9, "SIGKILL": 9, "kill": 9, "SigTerm": 15, "0": 0, "64": 64,
		"RTMIN": 34, "SIGRTMIN+3": 37, "rtmax-1": 63, "SIGRTMAX": 64,
	} {
		if got, err := parseSignal(text); err != nil || got != want {
			t.Errorf("%q is signal %d (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "-1", "65", "SIG", "TERM ", "RTMIN+31", "SIGRTMIN+", "NOPE", "99999999999999999999"} {
		if got, err := parseSignal(text); err == nil {
			t.Errorf("%q is accepted as signal %d", text, got)
		}
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "4096": 4096, "1K": 1 << 10, "64M": 64 << 20, "2g": 2 << 30, "1TiB": 1 << 40, "10kb": 10 << 10, "-1": -1,
	} {
		if got, err := parseBytes(text); err != nil || got != want {
			t.Errorf("%q is %d bytes (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"", "K", "-2", "1.5G", "1X", "9223372036854775807K", "M1"} {
		if got, err := parseBytes(text); err == nil {
			t.Errorf("%q is accepted as %d bytes", text, got)
		}
	}
}

func TestParseUser(t *testing.T) {
	for text, want := range map[string][2]uint32{"5": {5, 77}, "5:6": {5, 6}, "0:0": {0, 0}, "4294967295": {1<<32 - 1, 77}} {
		uid, gid, err := parseUser(text, 77)
		if err != nil || uid != want[0] || gid != want[1] {
			t.Errorf("%q is %d:%d (%v), want %v", text, uid, gid, err, want)
		}
	}
	for _, text := range []string{":", "5:", ":6", "root", "-1", "4294967296", "1:2:3"} {
		if uid, gid, err := parseUser(text, 77); err == nil {
			t.Errorf("%q is accepted as %d:%d", text, uid, gid)
		}
	}
}

func TestProcessFromContainer(t *testing.T) {
	container := &specs.Process{
		Terminal: true, Args: []string{"init"}, Cwd: "/srv", Env: []string{"A=1"},
		User:         specs.User{UID: 1, GID: 2, AdditionalGids: []uint32{3}},
		Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL"}, Ambient: []string{"CAP_KILL"}},
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 2}},
	}
	var before specs.Process
	if err := convert(container, &before); err != nil {
		t.Fatal(err)
	}
	opts := processOptions{env: []string{"B=2"}, user: "8:9", additionalGIDs: []uint{10}, caps: []string{"net_admin"}, cwd: "/tmp"}
	got, err := opts.process(container, []string{"ls", "-l"})
	if err != nil {
		t.Fatal(err)
	}
	want := &specs.Process{
		Args: []string{"ls", "-l"}, Cwd: "/tmp", Env: []string{"A=1", "B=2"},
		User: specs.User{UID: 8, GID: 9, AdditionalGids: []uint32{3, 10}},
		Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_KILL", "CAP_NET_ADMIN"}, Effective: []string{"CAP_NET_ADMIN"}, Permitted: []string{"CAP_NET_ADMIN"},
			Ambient: []string{"CAP_KILL"},
		},
		Rlimits: container.Rlimits,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(&before, container); diff != "" {
		t.Errorf("the container's own process changed (-before +after):\n%s", diff)
	}
}

func TestLinuxResources(t *testing.T) {
	opts := updateOptions{memory: "64M", cpuQuota: -1, pidsLimit: 7, cpuShares: 99}
	given := func(flags ...string) func(string) bool {
		return func(flag string) bool { return strings.Contains(" "+strings.Join(flags, " ")+" ", " "+flag+" ") }
	}
	got, err := opts.linuxResources(given("memory", "cpu-quota", "pids-limit"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := json.Marshal(got)
	if err != nil {
		t.Fatal(err)
	}
	// What no flag named is left as it is: cpu-share was not given.
	if want := `{"memory":{"limit":67108864},"cpu":{"quota":-1},"pids":{"limit":7}}`; string(data) != want {
		t.Errorf("got %s, want %s", data, want)
	}
	if got, err := opts.linuxResources(given()); err != nil || !cmp.Equal(got, &specs.LinuxResources{}) {
		t.Errorf("no flag gives %+v (%v), want nothing", got, err)
	}
}

func TestPrintTableEscapes(t *testing.T) {
	var out bytes.Buffer
	rows := []string{"1\tplain", "2\t\x1b[2Jevil\nline\u009b"}
	if err := printTable(&out, "N\tTEXT", rows); err != nil {
		t.Fatal(err)
	}
	want := "N   TEXT\n1   plain\n2   \\x1b[2Jevil\\x0aline\\x9b\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", &out, want)
	}
}

func TestLogFormats(t *testing.T) {
	now := time.Date(2026, 7, 1, 2, 3, 4, 0, time.UTC)
	var people, program bytes.Buffer
	(&logger{w: &people}).write(levelWarning, "a \"b\"", now)
	(&logger{w: &program, json: true}).write(levelError, "a \"b\"\nc", now)
	if want := "warning: a \"b\"\n"; people.String() != want {
		t.Errorf("got %q, want %q", &people, want)
	}
	if want := `{"level":"error","msg":"a \"b\"\nc","time":"2026-07-01T02:03:04Z"}` + "\n"; program.String() != want {
		t.Errorf("got %q, want %q", &program, want)
	}
}

func TestEventShape(t *testing.T) {
	stats := &control.Stats{MemoryUsage: 5, MemoryLimit: 9, MemoryByKind: map[string]uint64{"pagecache": 2}, CPUNanos: 7, PIDs: 3}
	data, err := json.Marshal(newEvent("id", stats))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"type":"stats","id":"id","data":{"cpu":{"usage":{"total":7}},` +
		`"memory":{"cache":2,"usage":{"limit":9,"usage":5},"raw":{"pagecache":2}},"pids":{"current":3}}}`
	if string(data) != want {
		t.Errorf("got  %s\nwant %s", data, want)
	}
}

// (Fuzzing is not for this package: an instrumented sentry does not link.)
func TestParseProcess(t *testing.T) {
	p, err := parseProcess(strings.NewReader(`{"args":["a"],"cwd":"/x","user":{"uid":1}}`))
	if err != nil || p.Args[0] != "a" || p.Cwd != "/x" || p.User.UID != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
	endless := strings.NewReader(`{"cwd":"` + strings.Repeat("x", maxProcessBytes) + `"}`)
	if _, err := parseProcess(endless); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("a process.json without end: %v", err)
	}
	for _, text := range []string{"", "{", "[]", "null", `{"args":[]}`, `{"args":null}`, `{"args":"a"}`, `{"args":["a"],"user":{"uid":-1}}`} {
		if p, err := parseProcess(strings.NewReader(text)); err == nil {
			t.Errorf("%q is accepted as %+v", text, p)
		}
	}
}
