package restoreenv

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sbxmigrate/sbxmigrate/mounts"
)

// Resolve says what backs each saved mount on this host, and everything that
// speaks against it. The saved environment comes from Parse or Build, target
// from Build with the bundles' mounts, compiled with the recorded decision about
// /tmp. Whether a mount has an overlay is for the saved side alone to say: no
// specification does. Resolve looks at the sources on this host and changes
// nothing.
func Resolve(saved, target Environment, opts Options) (*Resolution, Findings) {
	r := &resolver{opts: opts, resolution: &Resolution{Mounts: []Backing{}}}
	if r.opts.Fingerprint == nil {
		r.opts.Fingerprint = Fingerprint
	}
	for _, container := range slices.Sorted(maps.Keys(saved)) {
		r.container = container
		if _, ok := target[container]; !ok {
			r.add(Finding{Code: CodeContainerMissing, Destination: "/", Saved: "a container",
				Remedy: fmt.Sprintf("give its bundle, as %s=DIR", container)})
		}
		r.resolveContainer(saved[container], target[container])
	}
	for _, container := range slices.Sorted(maps.Keys(target)) {
		if _, ok := saved[container]; !ok {
			r.container = container
			r.add(Finding{Code: CodeContainerExtra, Destination: "/", Target: "a container",
				Remedy: "leave this bundle out, or accept with the relaxed policy that it is not started"})
		}
	}
	r.unusedMappings(saved)
	return r.resolution, r.findings
}

type resolver struct {
	opts       Options
	container  string // being resolved
	resolution *Resolution
	findings   Findings
}

// strictOnly are the findings that the relaxed policy accepts.
var strictOnly = map[Code]bool{CodeLeftOver: true, CodeContainerExtra: true, CodeSourceChanged: true, CodeContent: true}

func (r *resolver) add(f Finding) {
	f.Container, f.Severity = r.container, SeverityAlways
	if strictOnly[f.Code] {
		f.Severity = SeverityStrict
	}
	r.findings = append(r.findings, f)
}

// located is an entry with its filesystem.
type located struct {
	filesystem string
	Entry
}

// locate returns a container's mounts: what gofers serve first, then by
// filesystem.
func locate(sources Sources) []located {
	var all []located
	add := func(filesystem string) {
		for _, entry := range sources[filesystem] {
			all = append(all, located{filesystem, entry})
		}
	}
	add(mounts.FilesystemGofer)
	for _, filesystem := range slices.Sorted(maps.Keys(sources)) {
		if filesystem != mounts.FilesystemGofer {
			add(filesystem)
		}
	}
	return all
}

func (r *resolver) resolveContainer(saved, target Sources) {
	savedMounts, targetMounts := locate(saved), locate(target)
	// What has no namesake on the other side is a candidate for what is missing.
	unmatchedSaved := namesOnlyIn(savedMounts, targetMounts)
	unmatchedTarget := namesOnlyIn(targetMounts, savedMounts)
	refused := r.bundleErrors(targetMounts)

	open := make(map[string]located)
	for _, t := range targetMounts {
		open[t.Destination] = t
	}
	for _, s := range savedMounts {
		t, found := open[s.Destination]
		delete(open, s.Destination) // a second saved mount there finds nothing
		r.resolveMount(s, t, found, refused[s.Destination] || target == nil, unmatchedTarget)
	}
	for _, t := range targetMounts {
		if _, left := open[t.Destination]; left {
			r.add(Finding{Code: CodeLeftOver, Destination: t.Destination, Target: t.String(), Nearest: nearest(t.Destination, unmatchedSaved),
				Remedy: "leave the mount out of the bundle, or accept with the relaxed policy that it will not be there"})
		}
	}
}

// namesOnlyIn returns the destinations that one side has and the other has not.
func namesOnlyIn(one, other []located) []string {
	has := make(map[string]bool)
	for _, l := range other {
		has[l.Destination] = true
	}
	var only []string
	for _, l := range one {
		if !has[l.Destination] {
			only = append(only, l.Destination)
		}
	}
	return only
}

// bundleErrors turns what a bundle's compiler refused into findings, and returns
// the destinations that they speak of. What is wrong with a source is left to
// resolveSource: a mapping may replace it.
func (r *resolver) bundleErrors(target []located) map[string]bool {
	refused := make(map[string]bool)
	errs := mounts.AsErrors(r.opts.BundleErrors[r.container])
	if err := r.opts.BundleErrors[r.container]; err != nil && errs == nil {
		r.add(Finding{Code: CodeBundle, Destination: "/", Target: err.Error(), Remedy: "correct the bundle"})
	}
	for _, err := range errs {
		there := slices.ContainsFunc(target, func(t located) bool { return t.Destination == err.Mount })
		if there && aboutSource[err.Code] {
			continue
		}
		refused[err.Mount] = true
		r.add(Finding{Code: Code(err.Code), Destination: err.Mount, Target: err.Found, Remedy: err.Remedy})
	}
	return refused
}

// aboutSource are the compiler's errors that Resolve finds by itself.
var aboutSource = map[mounts.Code]bool{
	mounts.CodeRoot: true, mounts.CodeSource: true, mounts.CodeSourceMissing: true, mounts.CodeSourceKind: true, mounts.CodeSourceSystem: true,
}

// resolveMount finds the backing of one saved mount. Where explained is set,
// another finding says why the bundle's mount is not there or not comparable.
func (r *resolver) resolveMount(saved, target located, found, explained bool, candidates []string) {
	backing := Backing{
		Container: r.container, Filesystem: saved.filesystem, Device: saved.Device, Destination: saved.Destination,
		IsFile: saved.IsFile, ReadOnly: saved.Flags.ReadOnly || saved.Overlay, Recursive: saved.Recursive,
	}
	if source, ok := r.mapped(saved.Destination); ok && backing.Served() {
		backing.Source, backing.Mapped = source, true
	}
	switch comparable := found && saved.filesystem == target.filesystem; {
	case comparable && !explained:
		r.compare(saved, target)
	case comparable || explained || backing.Mapped:
	case found:
		r.add(Finding{Code: CodeType, Destination: saved.Destination, Saved: saved.String(), Target: target.String(),
			Remedy: fmt.Sprintf("make it a mount of type %s in the bundle", ociType(saved.filesystem)) + orMap(backing)})
	default:
		r.add(Finding{Code: CodeMissing, Destination: saved.Destination, Saved: saved.String(), Nearest: nearest(saved.Destination, candidates),
			Remedy: fmt.Sprintf("add a mount of type %s to the bundle", ociType(saved.filesystem)) + orMap(backing)})
	}
	if backing.Served() && (backing.Mapped || found && target.filesystem == saved.filesystem) {
		if !backing.Mapped {
			backing.Source = target.hostPath
		}
		r.resolveSource(saved, target, &backing)
	}
	r.resolution.Mounts = append(r.resolution.Mounts, backing)
}

// mapped returns what a user gave for a destination of the container being resolved.
func (r *resolver) mapped(destination string) (source string, ok bool) {
	if source, ok = r.opts.Map[r.container+":"+destination]; !ok {
		source, ok = r.opts.Map[destination]
	}
	return source, ok
}

// compare finds what differs between the two sides of one mount apart from what
// backs it.
func (r *resolver) compare(saved, target located) {
	differ := func(code Code, saved1, target1, remedy string) {
		r.add(Finding{Code: code, Destination: saved.Destination, Saved: saved1, Target: target1, Remedy: remedy})
	}
	if saved.Device != target.Device {
		differ(CodeDevice, saved.Device, target.Device, "the image was changed or is of another version: save it anew")
	}
	switch {
	case saved.Flags.ReadOnly && !target.Flags.ReadOnly:
		differ(CodeBecameWritable, "read-only", "writable", "give the mount the option ro in the bundle")
	case !saved.Flags.ReadOnly && target.Flags.ReadOnly:
		differ(CodeBecameReadOnly, "writable", "read-only", "take the option ro off the mount in the bundle")
	}
	if s, t := saved.options(), target.options(); !slices.Equal(s, t) {
		differ(CodeOptions, optionText(s), optionText(t), "give the mount the saved options in the bundle")
	}
}

// resolveSource looks at what is to back a served mount on this host.
func (r *resolver) resolveSource(saved, target located, backing *Backing) {
	problem := Finding{Destination: saved.Destination, Saved: fileKind(saved.IsFile), Target: backing.Source}
	refuse := func(code Code, remedy string) {
		problem.Code, problem.Remedy = code, remedy
		r.add(problem)
		if !strictOnly[code] {
			backing.Source = "" // nothing fits, whatever the policy
		}
	}
	if backing.Source == "" {
		problem.Target = "no usable path"
		refuse(CodeSourceUnusable, "name the source in the bundle"+orMap(*backing))
		return
	}
	isFile, err := mounts.CheckSource(backing.Source)
	var unusable *mounts.Error
	switch {
	case errors.As(err, &unusable) && unusable.Code == mounts.CodeSourceMissing:
		problem.Nearest = nearestPath(backing.Source)
		problem.Target = fmt.Sprintf("%s, which does not exist", backing.Source)
		refuse(CodeSourceMissing, "create it, or name another source in the bundle"+orMap(*backing))
	case err != nil:
		problem.Target = err.Error()
		if unusable != nil {
			problem.Target = unusable.Found
		}
		refuse(CodeSourceUnusable, "name another source in the bundle"+orMap(*backing))
	case isFile != saved.IsFile:
		problem.Target = fmt.Sprintf("%s, %s", backing.Source, fileKind(isFile))
		refuse(CodeSourceKind, fmt.Sprintf("name %s in the bundle", fileKind(saved.IsFile))+orMap(*backing))
	case !backing.Mapped && saved.Source != target.Source:
		problem.Saved = pathOrBundle(saved.Source)
		refuse(CodeSourceChanged, fmt.Sprintf("name the saved source, confirm with --map %s=%s, or use the relaxed policy", saved.Destination, backing.Source))
		r.resolveContent(saved, backing)
	default:
		r.resolveContent(saved, backing)
	}
}

// resolveContent compares the content of a source with what was saved, if its
// fingerprint was.
func (r *resolver) resolveContent(saved located, backing *Backing) {
	if saved.Fingerprint == "" {
		return
	}
	here, err := r.opts.Fingerprint(backing.Source)
	if err != nil {
		here = fmt.Sprintf("cannot be told: %v", err)
	}
	if here != saved.Fingerprint {
		r.add(Finding{Code: CodeContent, Destination: saved.Destination, Saved: saved.Fingerprint, Target: here,
			Remedy: fmt.Sprintf("copy the saved content to %s, or accept the difference with the relaxed policy", backing.Source)})
	}
}

// unusedMappings finds the mappings of what no saved container has.
func (r *resolver) unusedMappings(saved Environment) {
	r.container = ""
	var served []string
	usable := make(map[string]bool)
	for _, container := range slices.Sorted(maps.Keys(saved)) {
		for _, entry := range saved[container][mounts.FilesystemGofer] {
			served = append(served, entry.Destination)
			usable[entry.Destination], usable[container+":"+entry.Destination] = true, true
		}
	}
	for _, destination := range slices.Sorted(maps.Keys(r.opts.Map)) {
		if !usable[destination] {
			r.add(Finding{Code: CodeMapUnused, Destination: destination, Target: r.opts.Map[destination], Nearest: nearest(destination, served),
				Remedy: "map a destination that the saved sandbox has files of the host on: " + strings.Join(served, ", ")})
		}
	}
}
