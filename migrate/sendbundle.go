package migrate

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/migrate/bundle"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// codeBundle is the code of findings about a bundle that is to be sent along.
const codeBundle = "bundle"

// sendBundle sends the sandbox's bundle, if both hosts agree.
func (s *source) sendBundle(ctx context.Context) error {
	content, findings, err := bundleOf(s.sb)
	if err != nil {
		return err
	}
	size, problems, err := bundle.Survey(content)
	if err != nil {
		return err
	}
	for _, p := range problems {
		findings = append(findings, bundleFinding(p.Path, p.Message))
	}
	if len(findings) > 0 {
		return &FindingsError{Findings: findings}
	}
	if err := s.link.control.Send(&wire.Bundle{Entries: size.Entries, Bytes: size.Bytes}); err != nil {
		return err
	}
	if err := s.takeFindings(ctx, s.idlePatience); err != nil {
		return err
	}
	if err := s.openLanes(ctx); err != nil {
		return err
	}
	s.report.BundleBytes = size.Bytes
	s.tell("sending the bundle")
	out := &pipe{lanes: s.lanes, on: 0, typ: wire.TypeBundle}
	if err := bundle.Pack(ctx, out, content); err != nil {
		return s.refusalOr(ctx, err)
	}
	return out.end()
}

// refusalOr returns what the target says of an error in sending, if that says more.
func (s *source) refusalOr(ctx context.Context, err error) error {
	if s.link == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, refusalPatience)
	defer cancel()
	var refused *RefusedError
	if _, answer := expect[*wire.Findings](ctx, s.link); errors.As(answer, &refused) {
		return refused
	}
	return err
}

func bundleFinding(subject, message string) wire.Finding {
	return wire.Finding{Code: codeBundle, Subject: subject, Message: message, Fatal: true}
}

// bundleOf returns what a sandbox's bundle is made of, and what forbids to send it.
func bundleOf(sb *sandbox.Sandbox) (c bundle.Content, findings []wire.Finding, err error) {
	spec, err := sb.Spec()
	if err != nil {
		return c, nil, err
	}
	if spec.Hooks != nil {
		findings = append(findings, bundleFinding("hooks", hooksRefused))
	}
	moved := make(map[string]string) // names in the new bundle by source
	for _, m := range sb.Mounts.GoferMounts() {
		name, ok := nameInBundle(sb, m)
		if !ok {
			continue // the target's own: the plan looks for it
		}
		moved[m.Source] = name
		if !m.ServedReadOnly() {
			findings = append(findings, bundleFinding("mount "+m.Destination,
				fmt.Sprintf("%q is written to by the sandbox, and its copy would not be what the sandbox knows: make it read-only, or run the sandbox with an --overlay on it", m.Source)))
			continue
		}
		c.Trees = append(c.Trees, bundle.Tree{Source: m.Source, Name: name})
	}
	c.Trees = withoutNested(c.Trees)
	rewritePaths(spec, sb.Bundle, moved)
	c.Config, err = json.Marshal(spec)
	if err == nil && len(c.Config) > bundle.MaxConfigBytes {
		err = fmt.Errorf("config.json has %d bytes, limit is %d", len(c.Config), bundle.MaxConfigBytes)
	}
	return c, findings, err
}

const hooksRefused = "hooks are programs of the host, and do not travel: give the target a bundle of its own"

// nameInBundle returns the path in the new bundle of what backs a mount, if it goes
// along.
func nameInBundle(sb *sandbox.Sandbox, m mounts.Mount) (string, bool) {
	root := sb.Mounts.Mounts[0].Source
	if m.Origin == mounts.OriginRoot {
		return bundle.RootName, true
	}
	if m.SourceExternal {
		return "", false
	}
	if rel, err := filepath.Rel(root, m.Source); err == nil && filepath.IsLocal(rel) {
		return filepath.Join(bundle.RootName, rel), true
	}
	rel, err := filepath.Rel(sb.Bundle, m.Source)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return "", false
	}
	return filepath.Join(bindsName, rel), true
}

// bindsName is the directory of the new bundle for what is bound from inside the old
// one, and not from its root.
const bindsName = "binds"

// withoutNested leaves out trees that lie in another one.
func withoutNested(trees []bundle.Tree) []bundle.Tree {
	var kept []bundle.Tree
	for i, t := range trees {
		nested := false
		for j, other := range trees {
			nested = nested || i != j && (strings.HasPrefix(t.Name, other.Name+"/") || t.Name == other.Name && j < i)
		}
		if !nested {
			kept = append(kept, t)
		}
	}
	return kept
}

// rewritePaths makes a specification name what moved, by the old sources, where it is
// in the new bundle.
func rewritePaths(spec *specs.Spec, dir string, moved map[string]string) {
	absolute := func(name string) string {
		if filepath.IsAbs(name) {
			return filepath.Clean(name)
		}
		return filepath.Join(dir, name)
	}
	spec.Root.Path = bundle.RootName
	for i := range spec.Mounts {
		if name, ok := moved[absolute(spec.Mounts[i].Source)]; ok {
			spec.Mounts[i].Source = name
		}
	}
}

// bundleReader reads the bundle's frames of a data connection as one stream.
type bundleReader struct {
	next   func() (wire.Frame, error)
	left   []byte // of the newest frame
	bytes  uint64
	closed bool
}

// Read implements io.Reader.
func (b *bundleReader) Read(p []byte) (int, error) {
	for len(b.left) == 0 {
		if b.closed {
			return 0, io.EOF
		}
		f, err := b.next()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return 0, err
		}
		switch f.Type {
		case wire.TypeBundle:
			b.left = f.Payload
			b.bytes += uint64(len(f.Payload))
		case wire.TypeEnd:
			end, err := wire.ParseEnd(f.Payload)
			if err != nil {
				return 0, err
			}
			if end.Type != wire.TypeBundle || end.Bytes != b.bytes {
				return 0, fmt.Errorf("it ends %d bytes of %v frames, %d bytes of the bundle came", end.Bytes, end.Type, b.bytes)
			}
			b.closed = true
		default:
			return 0, fmt.Errorf("a %v frame comes in the bundle", f.Type)
		}
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}
