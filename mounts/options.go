package mounts

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"
)

// parsedOptions is what a mount's options say.
type parsedOptions struct {
	flags     Flags
	data      []string // known to the filesystem, the last of each key
	bind      bool     // bind or rbind: a bind mount whatever the type says
	recursive bool     // rbind
	unknown   []string // neither known nor ignorable
}

// flagOptions set or clear a flag; the last one of a pair counts. The forms with
// r reach the mounts below as well, which is how a gofer serves them anyway.
var flagOptions = map[string]func(*Flags){
	"ro": func(f *Flags) { f.ReadOnly = true }, "rro": func(f *Flags) { f.ReadOnly = true },
	"rw": func(f *Flags) { f.ReadOnly = false }, "rrw": func(f *Flags) { f.ReadOnly = false },
	"noatime": func(f *Flags) { f.NoATime = true }, "rnoatime": func(f *Flags) { f.NoATime = true },
	"atime": func(f *Flags) { f.NoATime = false }, "ratime": func(f *Flags) { f.NoATime = false },
	"noexec": func(f *Flags) { f.NoExec = true }, "rnoexec": func(f *Flags) { f.NoExec = true },
	"exec": func(f *Flags) { f.NoExec = false }, "rexec": func(f *Flags) { f.NoExec = false },
	"nosuid": func(f *Flags) { f.NoSUID = true }, "rnosuid": func(f *Flags) { f.NoSUID = true },
	"suid": func(f *Flags) { f.NoSUID = false }, "rsuid": func(f *Flags) { f.NoSUID = false },
	"nodev": func(f *Flags) { f.NoDev = true }, "rnodev": func(f *Flags) { f.NoDev = true },
	"dev": func(f *Flags) { f.NoDev = false }, "rdev": func(f *Flags) { f.NoDev = false },
}

// ignorable options ask for what a sandbox has anyway, or for what nobody inside
// or outside can tell.
var ignorable = map[string]bool{
	"": true, "defaults": true,
	"async": true, "sync": true, "dirsync": true,
	"relatime": true, "norelatime": true, "rrelatime": true, "rnorelatime": true,
	"strictatime": true, "nostrictatime": true, "rstrictatime": true, "rnostrictatime": true,
	"diratime": true, "nodiratime": true, "rdiratime": true, "rnodiratime": true,
	"lazytime": true, "nolazytime": true,
	"acl": true, "noacl": true, "iversion": true, "noiversion": true, "mand": true, "nomand": true,
	"loud": true, "silent": true, "remount": true,
	"noswap": true, // the sandbox's memory is not the host's tmpfs
	// Mounts inside never reach the host, nor the host's mounts the inside.
	"private": true, "rprivate": true, "slave": true, "rslave": true, "unbindable": true, "runbindable": true,
}

// dataOptions are the keys that a filesystem takes, with what each accepts.
var dataOptions = map[string]map[string]valueRule{
	FilesystemTmpfs: {
		"mode": octalMode, "uid": numericID, "gid": numericID, "size": sizeOrPercent, "nr_inodes": sizeOnly,
	},
	FilesystemDevpts: {
		"mode": octalMode, "uid": numericID, "gid": numericID, "ptmxmode": octalMode, "newinstance": noValue,
	},
}

// parseOptions reads the options of a mount on a filesystem. What is wrong comes
// back as errors without a mount's name.
func parseOptions(filesystem string, options []string) (parsedOptions, Errors) {
	var p parsedOptions
	var errs Errors
	for _, group := range options {
		for option := range strings.SplitSeq(group, ",") {
			if err := p.add(filesystem, option); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return p, errs
}

func (p *parsedOptions) add(filesystem, option string) *Error {
	if set, ok := flagOptions[option]; ok {
		set(&p.flags)
		return nil
	}
	if option == "bind" || option == "rbind" {
		p.bind, p.recursive = true, option == "rbind"
		return nil
	}
	if ignorable[option] {
		return nil
	}
	key, value, hasValue := strings.Cut(option, "=")
	if strings.Contains(value, "=") || key == "" {
		return &Error{Code: CodeOption, Found: fmt.Sprintf("option %q", option), Expected: "KEY or KEY=VALUE",
			Remedy: "correct the option"}
	}
	rule, known := dataOptions[filesystem][key]
	if !known {
		p.unknown = append(p.unknown, option)
		return nil
	}
	if !rule.accepts(value, hasValue) {
		return &Error{Code: CodeOptionValue, Found: fmt.Sprintf("option %q", option), Expected: rule.expected,
			Remedy: "correct the option's value"}
	}
	p.data = slices.DeleteFunc(p.data, func(earlier string) bool {
		earlierKey, _, _ := strings.Cut(earlier, "=")
		return earlierKey == key
	})
	p.data = append(p.data, option)
	return nil
}

// valueRule says which values of an option the sentry's filesystem takes, so
// that it does not refuse the whole mount later without a reason.
type valueRule struct {
	expected string
	accepts  func(value string, hasValue bool) bool
}

var (
	octalMode = valueRule{"an octal mode up to 7777", func(value string, _ bool) bool {
		mode, err := strconv.ParseUint(value, 8, 32)
		return err == nil && mode <= 0o7777
	}}
	numericID = valueRule{"a number", func(value string, _ bool) bool {
		_, err := strconv.ParseUint(value, 10, 32)
		return err == nil
	}}
	sizeOrPercent = valueRule{"bytes, with k, m, g, t, p or e, or a percentage up to 100%", func(value string, _ bool) bool {
		if percent, ok := strings.CutSuffix(value, "%"); ok {
			n, err := strconv.ParseUint(percent, 10, 8)
			return err == nil && n <= 100
		}
		return isSize(value)
	}}
	sizeOnly = valueRule{"a number, with k, m, g, t, p or e", func(value string, _ bool) bool { return isSize(value) }}
	noValue  = valueRule{"no value", func(_ string, hasValue bool) bool { return !hasValue }}
)

// isSize says whether value is a number with an optional binary unit that fits
// into 63 bits: the sentry rounds sizes up to pages.
func isSize(value string) bool {
	const units = "kmgtpe"
	shift := 0
	if n := len(value); n > 0 {
		if unit := strings.IndexByte(units, value[n-1]|0x20); unit >= 0 {
			value, shift = value[:n-1], 10*(unit+1)
		}
	}
	count, err := strconv.ParseUint(value, 10, 63)
	return err == nil && bits.Len64(count)+shift < 63
}
