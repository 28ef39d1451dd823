package guest

import (
	"embed"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

//go:embed programs
var programs embed.FS

// WritePrograms puts every program into dir, for a bind mount on ProgramsDir.
func WritePrograms(dir string) error {
	sub, err := fs.Sub(programs, "programs")
	if err != nil {
		return err
	}
	if err := os.CopyFS(dir, sub); err != nil {
		return fmt.Errorf("write guest programs: %w", err)
	}
	return nil
}

// Program returns the command line that runs one of the programs: "redis.py", "node.js"…
func Program(name string) []string {
	interpreter := Python
	if filepath.Ext(name) == ".js" {
		interpreter = "/usr/bin/node"
	}
	return []string{interpreter, filepath.Join(ProgramsDir, name)}
}

// Ask returns the command line, for the runtime's exec, that asks the running program a question.
func Ask(question ...string) []string {
	return append(Program("ask.py"), question...)
}

// WriteBusyboxRoot makes dir a root file system with a static busybox and nothing else of the host. Its /etc/motd says "busybox root".
func WriteBusyboxRoot(dir string) error {
	for _, name := range []string{"bin", "dev", "etc", "mnt", "proc", "root", "srv", "sys", "tmp", "var/data"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	busybox := filepath.Join(dir, "bin/busybox")
	if err := copyExecutable("/bin/busybox", busybox); err != nil {
		return err
	}
	// Relative links, so that they mean the same on the host.
	if out, err := exec.Command("/bin/sh", "-c", `for a in $("$1/busybox" --list); do [ "$a" = busybox ] || ln -s busybox "$1/$a"; done`,
		"sh", filepath.Join(dir, "bin")).CombinedOutput(); err != nil {
		return fmt.Errorf("link busybox's applets: %w: %s", err, out)
	}
	for name, content := range map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000:guest:/tmp:/bin/sh\n",
		"etc/group":  "root:x:0:\nguest:x:1000:\n",
		"etc/motd":   "busybox root\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func copyExecutable(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(target, source); err != nil {
		target.Close()
		return err
	}
	return target.Close()
}
