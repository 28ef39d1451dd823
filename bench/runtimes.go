package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// A runtime is one of the two that are compared: its binary, and how its command lines differ from the other's.
type runtime struct {
	name   string
	binary string
	global []string // flags before the command

	// compression names the modes, in the order of the table's columns: uncompressed, compressed.
	compression [2]string

	checkpoint func(id, image, compression string, leaveRunning bool) []string
	restore    func(id, image, bundle string) []string
}

func ours(binary string) *runtime {
	return &runtime{
		name:        "sbxmigrate",
		binary:      binary,
		compression: [2]string{"none", "zstd"},
		checkpoint: func(id, image, compression string, leaveRunning bool) []string {
			args := []string{"checkpoint", id, "--image", image, "--compress", compression}
			if leaveRunning {
				args = append(args, "--leave-running")
			}
			return args
		},
		restore: func(id, image, bundle string) []string {
			return []string{"restore", "--detach", "--image", image, "--bundle", bundle, id}
		},
	}
}

func runsc(binary string) *runtime {
	return &runtime{
		name:   "runsc",
		binary: binary,
		// As sbxmigrate runs by default: systrap, loopback only, no overlay. Cgroups are left alone, as this machine's
		// may not be writable.
		global:      []string{"--platform=systrap", "--network=none", "--overlay2=none", "--ignore-cgroups"},
		compression: [2]string{"none", "flate-best-speed"},
		checkpoint: func(id, image, compression string, leaveRunning bool) []string {
			args := []string{"checkpoint", "-image-path", image, "-compression", compression}
			if leaveRunning {
				args = append(args, "-leave-running")
			}
			return append(args, id)
		},
		restore: func(id, image, bundle string) []string {
			return []string{"restore", "-detach", "-image-path", image, "-bundle", bundle, id}
		},
	}
}

// command prepares a command line for a state directory.
func (r *runtime) command(stateDir string, args ...string) *exec.Cmd {
	return exec.Command(r.binary, append(append([]string{"--root", stateDir}, r.global...), args...)...)
}

// build compiles both runtimes into dir.
func build(dir string) (oursPath, runscPath string, err error) {
	oursPath, runscPath = filepath.Join(dir, "sbxmigrate"), filepath.Join(dir, "runsc")
	for _, b := range []struct{ in, pkg, to string }{
		{".", "./cmd/sbxmigrate", oursPath},
		{"bench/runsc", "gvisor.dev/gvisor/runsc", runscPath},
	} {
		fmt.Fprintf(os.Stderr, "building %s\n", filepath.Base(b.to))
		cmd := exec.Command("go", "build", "-o", b.to, b.pkg)
		cmd.Dir = b.in
		// With cgo neither would be what is shipped.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", "", fmt.Errorf("build %s: %w\n%s", b.pkg, err, out)
		}
	}
	return oursPath, runscPath, nil
}
