package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// cutContainer takes a NAME=VALUE apart that speaks of one container of a saved sandbox.
// A path has a slash before the first =, if it has any of both.
func cutContainer(text string) (name, value string, ok bool) {
	name, value, _ = strings.Cut(text, "=")
	return name, value, value != "" && sandbox.IsID(name)
}

// splitBundles tells the bundle of a sandbox's first container, which stands alone,
// from those of others, as NAME=DIR. Without the former it is fallback.
func splitBundles(values []string, fallback string) (first string, further map[string]string, err error) {
	var named []string
	for _, value := range values {
		_, _, isNamed := cutContainer(value)
		switch {
		case isNamed:
			named = append(named, value)
		case first != "":
			return "", nil, usageError("%q and %q are both bundles of the first container: write NAME=DIR for another", first, value)
		default:
			first = value
		}
	}
	if first == "" {
		first = fallback
	}
	further, err = byContainer("bundle", named)
	return first, further, err
}

// byContainer reads values of the form NAME=VALUE.
func byContainer(what string, values []string) (map[string]string, error) {
	all := make(map[string]string)
	for _, value := range values {
		name, its, ok := cutContainer(value)
		if !ok {
			return nil, usageError("%s %q is not of the form NAME=VALUE, with a container's name", what, value)
		}
		if _, twice := all[name]; twice {
			return nil, usageError("%s of container %q is there twice", what, name)
		}
		all[name] = its
	}
	return all, nil
}

// furtherOptions say how the containers besides the first are restored.
type furtherOptions struct {
	ids, pidFiles, consoleSockets, outputs []string
}

func (o *furtherOptions) addFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.ids, "container-id", nil, "restore a further container under this ID: `NAME=ID` (repeatable; default the saved one)")
	f.StringArrayVar(&o.pidFiles, "container-pid-file", nil, "--pid-file of a further container: `NAME=FILE` (repeatable)")
	f.StringArrayVar(&o.consoleSockets, "container-console-socket", nil, "--console-socket of a further container: `NAME=SOCKET` (repeatable)")
	f.StringArrayVar(&o.outputs, "container-output", nil, "append what a further container prints to a file, instead of to our own output: `NAME=FILE` (repeatable)")
}

// A furtherContainer is one that is about to be restored.
type furtherContainer struct {
	name, id, pidFile, consoleSocket, output string
	streams                                  *streams
}

// of returns what the options say about the further containers of an image.
func (o *furtherOptions) of(config *image.Config) ([]*furtherContainer, error) {
	var all []*furtherContainer
	byName := make(map[string]*furtherContainer)
	for i, c := range config.Containers {
		if i > 0 {
			f := &furtherContainer{name: c.Name, id: c.ID}
			all, byName[c.Name] = append(all, f), f
		}
	}
	for _, option := range []struct {
		flag   string
		values []string
		into   func(*furtherContainer) *string
	}{
		{"--container-id", o.ids, func(f *furtherContainer) *string { return &f.id }},
		{"--container-pid-file", o.pidFiles, func(f *furtherContainer) *string { return &f.pidFile }},
		{"--container-console-socket", o.consoleSockets, func(f *furtherContainer) *string { return &f.consoleSocket }},
		{"--container-output", o.outputs, func(f *furtherContainer) *string { return &f.output }},
	} {
		values, err := byContainer(option.flag, option.values)
		if err != nil {
			return nil, err
		}
		for name, value := range values {
			if byName[name] == nil {
				return nil, usageError("%s: the image has no further container %q, only %v", option.flag, name, slices.Sorted(maps.Keys(byName)))
			}
			*option.into(byName[name]) = value
		}
	}
	return all, nil
}

// open opens the container's streams, and starts its stand-in.
func (f *furtherContainer) open(c *cli, process *specs.Process) (err error) {
	if process.Terminal && f.consoleSocket == "" {
		return usageError("container %q has a terminal: say where its master end goes with --container-console-socket %s=SOCKET", f.name, f.name)
	}
	f.streams, err = c.openStreams(f.id, process.Terminal, process.ConsoleSize, streamOptions{detach: true, consoleSocket: f.consoleSocket})
	if err != nil {
		return err
	}
	if _, err = c.needStandIn(f.streams, f.id); err != nil || process.Terminal {
		return err
	}
	// Our own input is the first container's.
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	f.streams.stdio[0].Close()
	f.streams.stdio[0] = null
	if f.output == "" {
		return nil
	}
	for n := 1; n <= 2; n++ {
		file, err := os.OpenFile(f.output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("open output of container %q: %w", f.name, err)
		}
		f.streams.stdio[n].Close()
		f.streams.stdio[n] = file
	}
	return nil
}

// openFurther opens the streams of all, and says how they are restored. On an error
// nothing is left open; otherwise the caller calls closeFurther.
func (c *cli) openFurther(all []*furtherContainer, bundles map[string]*sandbox.Bundle) (map[string]checkpoint.FurtherOptions, error) {
	opts := make(map[string]checkpoint.FurtherOptions)
	for _, f := range all {
		bundle := bundles[f.name]
		if bundle == nil {
			continue // which the plan refuses
		}
		if err := f.open(c, bundle.Spec.Process); err != nil {
			closeFurther(all)
			return nil, err
		}
		opts[f.name] = checkpoint.FurtherOptions{
			ID: f.id, Stdio: f.streams.stdio, StandIn: f.streams.standIn.pid(), PIDFile: f.pidFile, Output: f.output,
		}
		f.streams.givenAway()
	}
	return opts, nil
}

// attachFurther tells the stand-ins of restored containers that they are there.
func attachFurther(all []*furtherContainer) error {
	var errs []error
	for _, f := range all {
		errs = append(errs, f.streams.attach(containerPID, streamOptions{detach: true, consoleSocket: f.consoleSocket}))
	}
	return errors.Join(errs...)
}

func closeFurther(all []*furtherContainer) {
	for _, f := range all {
		if f.streams != nil {
			f.streams.close()
		}
	}
}
