// Package sbxmigrate_test holds the rules about the tree as a whole: who may import whom, what of gVisor is out of
// bounds, that each package explains itself, and where unsafe may stand.
package sbxmigrate_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// modulePath is what every import of ours begins with.
const modulePath = "github.com/sbxmigrate/sbxmigrate"

// A rung is one row of the table in DESIGN.md, section 2. A rung's sub-packages stand on it too and may import each
// other.
type rung struct {
	name       string   // the package, relative to the module
	mayImport  []string // rungs, besides itself
	noGVisor   bool     // nothing of gVisor below it, not even through others
	everything bool     // mayImport does not apply
}

// ladder is ordered: nothing may import what stands below it in this list, tests included.
var ladder = []rung{
	{name: "mounts", noGVisor: true},
	{name: "image", noGVisor: true},
	{name: "restoreenv", mayImport: []string{"mounts"}},
	{name: "sandbox", mayImport: []string{"restoreenv", "mounts"}},
	{name: "checkpoint", mayImport: []string{"sandbox", "restoreenv", "image", "mounts"}},
	{name: "migrate", mayImport: []string{"checkpoint", "restoreenv", "image", "sandbox", "mounts"}},
	{name: "cmd", everything: true},
	// These drive the built binary as a user does, so that they cannot pass by calling what a user cannot.
	{name: "e2e"},
	{name: "bench", mayImport: []string{"e2e"}}, // the same guests
}

// A forbidden import is a part of gVisor that this project replaces.
type forbidden struct {
	path   string // the package and everything below it
	except string // this one is allowed
	reason string
}

var forbiddenImports = []forbidden{
	{
		path:   "gvisor.dev/gvisor/runsc/boot",
		except: "gvisor.dev/gvisor/runsc/boot/filter/config",
		reason: "the loader is ours to write (sandbox/boot); only the seccomp rules are shared",
	},
	{
		path:   "gvisor.dev/gvisor/runsc/container",
		reason: "container lifecycle and state files are ours (sandbox)",
	},
	{
		path:   "gvisor.dev/gvisor/runsc/sandbox",
		reason: "starting and confining the sandbox process is ours (sandbox)",
	},
	{
		path:   "gvisor.dev/gvisor/runsc/cmd",
		reason: "commands are ours (cmd/sbxmigrate)",
	},
}

// listedPackage is what we use of `go list -json`.
type listedPackage struct {
	ImportPath   string
	Dir          string
	GoFiles      []string
	Imports      []string
	TestImports  []string
	XTestImports []string
	Deps         []string
}

// listPackages returns every package of this module that has code besides tests. Packages that another module has
// (bench/runsc) are not among them.
func listPackages(t *testing.T) []listedPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-e", "-json=ImportPath,Dir,GoFiles,Imports,TestImports,XTestImports,Deps", "./...")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.Bytes())
	}
	var packages []listedPackage
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listedPackage
		err := decoder.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("read go list's output: %v", err)
		}
		if p.ImportPath != modulePath {
			packages = append(packages, p)
		}
	}
	if len(packages) == 0 {
		t.Fatal("go list found no package: this test would prove nothing")
	}
	return packages
}

// within says whether a package is the named one or below it.
func within(importPath, name string) bool {
	return importPath == name || strings.HasPrefix(importPath, name+"/")
}

// rungOf returns where a package of ours stands, or -1.
func rungOf(importPath string) int {
	return slices.IndexFunc(ladder, func(r rung) bool {
		return within(importPath, path.Join(modulePath, r.name))
	})
}

// ladderFaults names every import of p that the table does not allow.
func ladderFaults(p listedPackage) []string {
	at := rungOf(p.ImportPath)
	if at < 0 {
		return []string{p.ImportPath + " has no place on the ladder: give it one in DESIGN.md section 2, then here"}
	}
	own := ladder[at]
	var faults []string
	for _, imported := range p.Imports {
		if !within(imported, modulePath) || own.everything {
			continue
		}
		to := rungOf(imported)
		if to >= 0 && (to == at || slices.Contains(own.mayImport, ladder[to].name)) {
			continue
		}
		allowed := "nothing of ours"
		if len(own.mayImport) > 0 {
			allowed = "only " + strings.Join(own.mayImport, ", ")
		}
		faults = append(faults, p.ImportPath+" imports "+imported+": "+own.name+" may import "+allowed)
	}
	for _, imported := range slices.Concat(p.TestImports, p.XTestImports) {
		if within(imported, modulePath) && rungOf(imported) > at {
			faults = append(faults, "a test of "+p.ImportPath+" imports "+imported+", which stands above it")
		}
	}
	if own.noGVisor {
		for _, dep := range p.Deps {
			if within(dep, "gvisor.dev/gvisor") {
				faults = append(faults, p.ImportPath+" depends on "+dep+": "+own.name+" must be usable without gVisor")
				break // the first one tells enough, the rest follows from it
			}
		}
	}
	return faults
}

// forbiddenFaults names the parts of gVisor that p or its tests have and must not.
func forbiddenFaults(p listedPackage) []string {
	var faults []string
	for _, dep := range slices.Concat(p.Deps, p.TestImports, p.XTestImports) {
		for _, f := range forbiddenImports {
			if within(dep, f.path) && dep != f.except {
				faults = append(faults, p.ImportPath+" depends on "+dep+": "+f.reason)
			}
		}
	}
	return faults
}

// docFaults names what p's package comment lacks.
func docFaults(t *testing.T, p listedPackage) []string {
	t.Helper()
	if len(p.GoFiles) == 0 {
		return nil // a package of tests only explains itself in them
	}
	var docs []string
	for _, name := range p.GoFiles {
		file := parseFile(t, filepath.Join(p.Dir, name), parser.PackageClauseOnly|parser.ParseComments)
		if file.Doc == nil || strings.TrimSpace(file.Doc.Text()) == "" {
			continue
		}
		docs = append(docs, name)
		if file.Name.Name != "main" && !strings.HasPrefix(file.Doc.Text(), "Package "+file.Name.Name+" ") {
			return []string{filepath.Join(p.Dir, name) + `: the package comment does not begin with "Package ` + file.Name.Name + ` "`}
		}
	}
	switch len(docs) {
	case 0:
		return []string{p.ImportPath + " has no package comment: say in doc.go what it owns, its data in and out, and what it does not do"}
	case 1:
		return nil
	default:
		return []string{p.ImportPath + " has a package comment in each of " + strings.Join(docs, ", ") + ": readers find one"}
	}
}

func parseFile(t *testing.T, name string, mode parser.Mode) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), name, nil, mode)
	if err != nil {
		t.Fatalf("parse: %v", err)
	}
	return file
}

func TestImportLadder(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, fault := range ladderFaults(p) {
			t.Error(fault)
		}
		for _, fault := range forbiddenFaults(p) {
			t.Error(fault)
		}
	}
}

func TestPackageComments(t *testing.T) {
	for _, p := range listPackages(t) {
		for _, fault := range docFaults(t, p) {
			t.Error(fault)
		}
	}
}

// goFiles calls visit with every Go file of this module, those with build constraints and in testdata included.
func goFiles(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			_, statErr := os.Stat(filepath.Join(name, "go.mod"))
			if name != "." && (strings.HasPrefix(entry.Name(), ".") || statErr == nil) {
				return fs.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") {
			visit(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestUnsafeIsMarked(t *testing.T) {
	goFiles(t, func(name string) {
		marked := strings.HasSuffix(name, "_unsafe.go") || strings.HasSuffix(name, "_unsafe_test.go")
		for _, spec := range parseFile(t, name, parser.ImportsOnly).Imports {
			if spec.Path.Value == `"unsafe"` && !marked {
				t.Errorf("%s imports unsafe: move what needs it to a file that ends in _unsafe.go, so that a reviewer finds it", name)
			}
		}
	})
}

// Every direct dependency is pinned, and a reader can find out why it is here.
func TestDependenciesAreExplained(t *testing.T) {
	out, err := exec.Command("go", "mod", "edit", "-json").Output()
	if err != nil {
		t.Fatalf("go mod edit: %v", err)
	}
	var mod struct {
		Require []struct {
			Path, Version string
			Indirect      bool
		}
	}
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatalf("read go.mod: %v", err)
	}
	page, err := os.ReadFile("docs/dependencies.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range mod.Require {
		row := "| `" + r.Path + "` | `" + r.Version + "` |"
		if !r.Indirect && !bytes.Contains(page, []byte(row)) {
			t.Errorf("docs/dependencies.md has no row %q with the reason for it", row)
		}
	}
}

// The rules must be able to fail: each gets a package that breaks it.
func TestLadderFindsFaults(t *testing.T) {
	ours := func(name string) string { return path.Join(modulePath, name) }
	for _, test := range []struct {
		name string
		p    listedPackage
		want int
	}{
		{"allowed", listedPackage{ImportPath: ours("checkpoint"), Imports: []string{ours("sandbox/control"), ours("image"), "fmt"}}, 0},
		{"within a rung", listedPackage{ImportPath: ours("sandbox/boot"), Imports: []string{ours("sandbox/dirty")}}, 0},
		{"upward", listedPackage{ImportPath: ours("image"), Imports: []string{ours("checkpoint")}}, 1},
		{"upward from a sub-package", listedPackage{ImportPath: ours("sandbox/gofer"), Imports: []string{ours("migrate")}}, 1},
		{"upward in a test", listedPackage{ImportPath: ours("mounts"), XTestImports: []string{ours("restoreenv")}}, 1},
		{"not in the table", listedPackage{ImportPath: ours("restoreenv"), Imports: []string{ours("image")}}, 1},
		{"gVisor in image", listedPackage{ImportPath: ours("image"), Deps: []string{"gvisor.dev/gvisor/pkg/state", "gvisor.dev/gvisor/pkg/log"}}, 1},
		{"a package without a rung", listedPackage{ImportPath: ours("util")}, 1},
		{"runsc's loader", listedPackage{ImportPath: ours("sandbox"), Deps: []string{"gvisor.dev/gvisor/runsc/boot"}}, 1},
		{"a part of runsc's loader", listedPackage{ImportPath: ours("sandbox"), Deps: []string{"gvisor.dev/gvisor/runsc/boot/filter"}}, 1},
		{"the seccomp rules", listedPackage{ImportPath: ours("sandbox"), Deps: []string{"gvisor.dev/gvisor/runsc/boot/filter/config"}}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			faults := append(ladderFaults(test.p), forbiddenFaults(test.p)...)
			if len(faults) != test.want {
				t.Errorf("found %d faults, want %d: %q", len(faults), test.want, faults)
			}
		})
	}
}
