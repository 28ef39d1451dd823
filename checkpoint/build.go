package checkpoint

import (
	"debug/elf"
	"fmt"
	"runtime/debug"
	"sync"
)

// buildFacts identify the program: saved state is the object graph of this
// very program, so only the same one may load it.
type buildFacts struct {
	ID     string // Go's build ID, which is a digest of everything that went into the binary
	GVisor string // version of the gVisor module
}

const gvisorModule = "gvisor.dev/gvisor"

// readBuild returns the facts of the running program.
var readBuild = sync.OnceValues(func() (buildFacts, error) {
	var facts buildFacts
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return facts, fmt.Errorf("identify build: the binary has no build information")
	}
	for _, dep := range info.Deps {
		if dep.Path == gvisorModule {
			facts.GVisor = dep.Version
		}
	}
	id, err := goBuildID("/proc/self/exe")
	if err != nil {
		return facts, fmt.Errorf("identify build: %w", err)
	}
	facts.ID = id
	return facts, nil
})

// maxBuildIDBytes bounds the note that holds the build ID; it has about 100.
const maxBuildIDBytes = 4096

// noteHeaderBytes is the length of what stands before the ID in an ELF note:
// three sizes and the name "Go\0\0".
const noteHeaderBytes = 16

// goBuildID reads the note that Go's linker leaves in every binary.
func goBuildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	section := f.Section(".note.go.buildid")
	if section == nil || section.Size <= noteHeaderBytes || section.Size > maxBuildIDBytes {
		return "", fmt.Errorf("%s has no Go build ID", path)
	}
	note, err := section.Data()
	if err != nil {
		return "", err
	}
	length := f.ByteOrder.Uint32(note[4:8])
	if uint64(length)+noteHeaderBytes > uint64(len(note)) {
		return "", fmt.Errorf("%s has a damaged Go build ID", path)
	}
	return string(note[noteHeaderBytes : noteHeaderBytes+length]), nil
}

// Build identifies the running program: its build ID and the version of the
// gVisor module. Saved state is read by the same build alone.
func Build() (id, gvisor string, err error) {
	facts, err := readBuild()
	return facts.ID, facts.GVisor, err
}
