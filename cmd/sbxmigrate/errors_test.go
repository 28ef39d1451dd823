package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

func TestClassify(t *testing.T) {
	for _, test := range []struct {
		err    error
		code   string
		status int
	}{
		{usageError("x"), "E_USAGE", 2},
		{fmt.Errorf("cannot start: %w", sandbox.ErrState), "E_STATE", 5},
		{fmt.Errorf("%w: %q", sandbox.ErrNotFound, "a"), "E_NOT_FOUND", 3},
		{fmt.Errorf("%w: %w", sandbox.ErrBundle, fs.ErrNotExist), "E_BUNDLE", 6},
		{fmt.Errorf("exec: %w", &control.RemoteError{Message: "no"}), "E_INSIDE", 9},
		{fmt.Errorf("call: %w", control.ErrTimeout), "E_TIMEOUT", 8},
		// The reason counts, not what it led to.
		{errors.Join(errInterrupted, sandbox.ErrState), "E_INTERRUPTED", 130},
		{&fs.PathError{Op: "open", Err: fs.ErrPermission}, "E_PERMISSION", 11},
		{errors.New("anything"), "E_FAILED", 1},
	} {
		if class := classify(test.err); class.code != test.code || class.status != test.status {
			t.Errorf("%v: %s with status %d, want %s with %d", test.err, class.code, class.status, test.code, test.status)
		}
	}
}

func TestErrorClassesAreDistinct(t *testing.T) {
	seen := make(map[string]bool)
	for _, class := range errorClasses() {
		if seen[class.code] {
			t.Errorf("code %s stands for two classes", class.code)
		}
		seen[class.code] = true
		if class.status <= 0 || class.status >= ownFailure {
			t.Errorf("%s has exit status %d, want 1 to %d", class.code, class.status, ownFailure-1)
		}
		if !strings.HasPrefix(class.code, "E_") || class.meaning == "" {
			t.Errorf("%s has no E_ or no meaning", class.code)
		}
	}
}

func TestFinish(t *testing.T) {
	for _, test := range []struct {
		name   string
		cmd    *cobra.Command
		err    error
		status int
		stderr string
	}{
		{"done", &cobra.Command{}, nil, 0, ""},
		{"status of a process", &cobra.Command{Annotations: passStatus()}, exitStatus(7), 7, ""},
		{"failure", &cobra.Command{}, sandbox.ErrState, 5, "error: sandbox is in the wrong state [E_STATE]\n"},
		{"own failure", &cobra.Command{Annotations: passStatus()}, sandbox.ErrState, 255, "error: sandbox is in the wrong state [E_STATE]\n"},
		{"with a hint", &cobra.Command{}, usageError("x"), 2, "error: wrong usage: x [E_USAGE]\nhint: see --help\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			c := &cli{stdout: &stdout, stderr: &stderr, logFormat: logFormatText}
			if status := c.finish(test.cmd, test.err); status != test.status {
				t.Errorf("exit status %d, want %d", status, test.status)
			}
			if stderr.String() != test.stderr || stdout.Len() != 0 {
				t.Errorf("stderr is %q, want %q; stdout is %q, want nothing", &stderr, test.stderr, &stdout)
			}
		})
	}
}

// errorsPage is docs/errors.md. UPDATE_DOCS=1 writes it.
const errorsPage = "../../docs/errors.md"

func TestErrorsPage(t *testing.T) {
	page, err := os.ReadFile(errorsPage)
	if err != nil {
		t.Fatal(err)
	}
	updated := string(page)
	for marker, table := range map[string]string{
		"commands": commandTable(), "mounts": codeTable(mounts.Codes()), "environment": codeTable(restoreenv.Codes()),
	} {
		updated = replaceBetween(t, updated, marker, table)
	}
	if updated == string(page) {
		return
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(errorsPage, []byte(updated), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("%s is not as the code: run the test with UPDATE_DOCS=1", errorsPage)
}

// replaceBetween puts a table between the two marks of its name.
func replaceBetween(t *testing.T, page, marker, table string) string {
	t.Helper()
	begin, end := "<!-- begin "+marker+" -->\n", "<!-- end "+marker+" -->\n"
	before, rest, ok := strings.Cut(page, begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s lacks the marks of %q", errorsPage, marker)
	}
	return before + begin + table + end + after
}

func commandTable() string {
	var b strings.Builder
	b.WriteString("| code | exit status | meaning | what to do |\n|---|---|---|---|\n")
	for _, class := range errorClasses() {
		fmt.Fprintf(&b, "| `%s` | %d | %s | %s |\n", class.code, class.status, class.meaning, class.hint)
	}
	return b.String()
}

func codeTable[C ~string](codes map[C]string) string {
	var b strings.Builder
	b.WriteString("| code | meaning |\n|---|---|\n")
	for _, code := range slices.Sorted(maps.Keys(codes)) {
		fmt.Fprintf(&b, "| `%s` | %s |\n", code, codes[code])
	}
	return b.String()
}
