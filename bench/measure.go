package main

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const (
	readyLimit    = 10 * time.Minute // filling a gigabyte inside a slow machine
	responseLimit = 2 * time.Minute
)

// A sample is one run of one workload on one runtime. Index 0 is uncompressed, 1 compressed.
type sample struct {
	Start      time.Duration    `json:"start_ns"`         // run → first output
	Checkpoint [2]time.Duration `json:"checkpoint_ns"`    // wall time of a command that ends the workload
	Durable    [2]time.Duration `json:"durable_ns"`       // the same until every file of the image is on the disk
	Running    [2]time.Duration `json:"running_ns"`       // wall time of a command that leaves it running
	Pause      [2]time.Duration `json:"pause_ns"`         // longest silence of the workload during that
	Restore    [2]time.Duration `json:"restore_ns"`       // command's start → first response
	ImageBytes [2]int64         `json:"image_size_bytes"` // as stored
}

// A stage is where runs happen: a directory with a rootfs and the guest programs.
type stage struct {
	dir, rootfs, programs string
}

// measure makes one run in a directory of its own, and leaves nothing.
func (s *stage) measure(r *runtime, w workload) (result sample, err error) {
	dir, err := os.MkdirTemp(s.dir, r.name+"-")
	if err != nil {
		return sample{}, err
	}
	defer os.RemoveAll(dir)
	bundle := filepath.Join(dir, "bundle")
	if err := w.bundle(s.rootfs, s.programs).Write(bundle); err != nil {
		return sample{}, err
	}
	for mode, compression := range r.compression {
		image := filepath.Join(dir, "image", compression)
		if err := s.checkpoints(r, dir, bundle, image, &result, mode); err != nil {
			return sample{}, fmt.Errorf("checkpoint %s: %w", compression, err)
		}
		if err := s.restore(r, dir, bundle, image, &result, mode); err != nil {
			return sample{}, fmt.Errorf("restore %s: %w", compression, err)
		}
		os.RemoveAll(image) // a tmpfs may not have room for both
	}
	return result, nil
}

// checkpoints starts the workload, saves it while it goes on, and then into image, with which it ends.
func (s *stage) checkpoints(r *runtime, dir, bundle, image string, result *sample, mode int) error {
	source := &sandbox{runtime: r, id: "bench-source", stateDir: filepath.Join(dir, "state")}
	defer source.delete()
	began := time.Now()
	out, err := source.launch("run", "--detach", "--bundle", bundle, source.id)
	if err != nil {
		return err
	}
	defer out.close()
	first, err := out.await("start", began, readyLimit)
	if err != nil {
		return err
	}
	if mode == 0 { // the second one finds warm caches
		result.Start = first.at.Sub(began)
	}
	if _, err := out.await("ready", began, readyLimit); err != nil {
		return err
	}
	if err := source.checkpointRunning(out, result, mode, image+"-running"); err != nil {
		return fmt.Errorf("leave running: %w", err)
	}
	os.RemoveAll(image + "-running")
	return source.checkpointEnding(out, result, mode, image)
}

// A sandbox is one that a run started.
type sandbox struct {
	runtime      *runtime
	id, stateDir string
}

// launch runs a command that leaves the sandbox behind, with a pipe as its stdout.
func (s *sandbox) launch(args ...string) (*stdout, error) {
	out, err := newStdout()
	if err != nil {
		return nil, err
	}
	var stderr bytes.Buffer
	errors, err := os.CreateTemp("", "bench-stderr-") // a pipe would wait for the sandbox, which inherits it
	if err != nil {
		out.close()
		return nil, err
	}
	defer os.Remove(errors.Name())
	defer errors.Close()
	cmd := s.runtime.command(s.stateDir, args...)
	cmd.Stdout, cmd.Stderr = out.write, errors
	err = cmd.Run()
	out.started()
	if err != nil {
		out.close()
		content, _ := os.ReadFile(errors.Name())
		stderr.Write(content)
		return nil, fmt.Errorf("%s: %w: %s", cmd, err, stderr.Bytes())
	}
	return out, nil
}

func (s *sandbox) delete() {
	s.runtime.command(s.stateDir, "delete", "--force", s.id).Run()
}

// checkpointRunning saves the workload and lets it run, and measures that from outside.
func (s *sandbox) checkpointRunning(out *stdout, result *sample, mode int, image string) error {
	began, ended, err := s.checkpoint(out, mode, image, true)
	if err != nil {
		return err
	}
	// The pause ends with the next tick after the command.
	if _, err := out.await("tick", ended, responseLimit); err != nil {
		return err
	}
	result.Running[mode] = ended.Sub(began)
	result.Pause[mode], err = out.longestGap(began, ended)
	return err
}

// checkpointEnding saves the workload for good.
func (s *sandbox) checkpointEnding(out *stdout, result *sample, mode int, image string) error {
	began, ended, err := s.checkpoint(out, mode, image, false)
	if err != nil {
		return err
	}
	if err := syncFiles(image); err != nil {
		return err
	}
	result.Checkpoint[mode], result.Durable[mode] = ended.Sub(began), time.Since(began)
	result.ImageBytes[mode], err = storedBytes(image)
	return err
}

// checkpoint saves the workload into a new directory, and says when the command began and ended.
func (s *sandbox) checkpoint(out *stdout, mode int, image string, leaveRunning bool) (began, ended time.Time, err error) {
	if err := os.MkdirAll(image, 0o700); err != nil {
		return began, ended, err
	}
	// The last image's pages must not be written back at this one's cost.
	if err := exec.Command("sync").Run(); err != nil {
		return began, ended, err
	}
	if _, err := out.await("tick", time.Now(), responseLimit); err != nil {
		return began, ended, err
	}
	cmd := s.runtime.command(s.stateDir, s.runtime.checkpoint(s.id, image, s.runtime.compression[mode], leaveRunning)...)
	began = time.Now()
	output, err := cmd.CombinedOutput()
	ended = time.Now()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", cmd, err, output)
	}
	return began, ended, err
}

// restore starts the workload again from an image, and measures how long that takes until it responds.
func (s *stage) restore(r *runtime, dir, bundle, image string, result *sample, mode int) error {
	target := &sandbox{runtime: r, id: "bench-target", stateDir: filepath.Join(dir, "target-state")}
	defer target.delete()
	began := time.Now()
	out, err := target.launch(r.restore(target.id, image, bundle)...)
	if err != nil {
		return err
	}
	defer out.close()
	response, err := out.await("tick", began, responseLimit)
	if err != nil {
		return err
	}
	result.Restore[mode] = response.at.Sub(began)
	return nil
}

// syncFiles brings every file and directory below dir to the disk.
func syncFiles(dir string) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() && !entry.IsDir() {
			return err
		}
		file, err := os.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		return file.Sync()
	})
}

// storedBytes is the size of all files below a directory.
func storedBytes(dir string) (total int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	return total, err
}
