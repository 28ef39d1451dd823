package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"
)

// maxProcessBytes bounds a process.json.
const maxProcessBytes = 16 << 20

// processOptions say what process to run inside.
type processOptions struct {
	file           string
	tty            bool
	cwd            string
	env            []string
	user           string
	additionalGIDs []uint
	caps           []string
}

func (o *processOptions) addFlags(f *pflag.FlagSet) {
	f.StringVarP(&o.file, "process", "p", "", "read the process from this process.json `file` (- for stdin); other flags change it")
	f.BoolVarP(&o.tty, "tty", "t", false, "give the process a terminal")
	f.StringVar(&o.cwd, "cwd", "", "working `directory` inside")
	f.StringArrayVarP(&o.env, "env", "e", nil, "add `NAME=VALUE` to the environment; may be repeated")
	f.StringVarP(&o.user, "user", "u", "", "user and group, as numbers: `UID[:GID]`")
	f.UintSliceVarP(&o.additionalGIDs, "additional-gids", "g", nil, "further group `IDs`; may be repeated")
	f.StringSliceVarP(&o.caps, "cap", "c", nil, "add a `capability`; may be repeated")
}

// process makes a process out of the options: that of the file, or else the
// container's own, with args, changed by what the flags say.
func (o *processOptions) process(container *specs.Process, args []string) (*specs.Process, error) {
	p, err := o.base(container, args)
	if err != nil {
		return nil, err
	}
	if o.tty {
		p.Terminal = true
	}
	if o.cwd != "" {
		p.Cwd = o.cwd
	}
	p.Env = append(p.Env, o.env...)
	if o.user != "" {
		if p.User.UID, p.User.GID, err = parseUser(o.user, p.User.GID); err != nil {
			return nil, err
		}
	}
	for _, gid := range o.additionalGIDs {
		p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(gid))
	}
	if len(o.caps) > 0 {
		p.Capabilities = addCapabilities(p.Capabilities, o.caps)
	}
	return p, nil
}

// base is the process before the flags change it. It shares nothing with
// container.
func (o *processOptions) base(container *specs.Process, args []string) (*specs.Process, error) {
	switch {
	case o.file == "" && len(args) == 0:
		return nil, usageError("name a command to run inside, or a process.json with --process")
	case o.file != "" && len(args) > 0:
		return nil, usageError("a command and --process exclude each other")
	case o.file != "":
		return readProcess(o.file)
	}
	p := *container
	p.Args, p.Terminal = args, false
	p.Env = append([]string{}, container.Env...)
	p.User.AdditionalGids = append([]uint32{}, container.User.AdditionalGids...)
	return &p, nil
}

func readProcess(path string) (*specs.Process, error) {
	in := io.Reader(os.Stdin)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("read process: %w", err)
		}
		defer f.Close()
		in = f
	}
	return parseProcess(in)
}

func parseProcess(r io.Reader) (*specs.Process, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxProcessBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read process: %w", err)
	}
	if len(data) > maxProcessBytes {
		return nil, fmt.Errorf("read process: it has more than %d bytes", maxProcessBytes)
	}
	var p specs.Process
	if err := json.Unmarshal(data, &p); err != nil {
		return nil, fmt.Errorf("read process: %w", err)
	}
	if len(p.Args) == 0 {
		return nil, usageError("process.json has no args: name the program to run")
	}
	return &p, nil
}

// parseUser understands UID and UID:GID. Without a GID it is the given one.
func parseUser(text string, gid uint32) (uint32, uint32, error) {
	uidText, gidText, hasGID := strings.Cut(text, ":")
	uid, err := strconv.ParseUint(uidText, 10, 32)
	if err != nil {
		return 0, 0, usageError("--user is %q, want UID or UID:GID as numbers", text)
	}
	if !hasGID {
		return uint32(uid), gid, nil
	}
	parsed, err := strconv.ParseUint(gidText, 10, 32)
	if err != nil {
		return 0, 0, usageError("--user is %q, want UID or UID:GID as numbers", text)
	}
	return uint32(uid), uint32(parsed), nil
}

// addCapabilities returns the sets with further capabilities in those that make
// a process have them.
func addCapabilities(sets *specs.LinuxCapabilities, names []string) *specs.LinuxCapabilities {
	var sum specs.LinuxCapabilities
	if sets != nil {
		sum = *sets
	}
	for i, name := range names {
		names[i] = "CAP_" + strings.TrimPrefix(strings.ToUpper(name), "CAP_")
	}
	for _, set := range []*[]string{&sum.Bounding, &sum.Effective, &sum.Permitted} {
		*set = append(append([]string{}, *set...), names...)
	}
	return &sum
}
