package checkpoint

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/mounts"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/boot"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// CodeTerminal is the finding that the saved container has a terminal and the
// bundle asks for none, or the reverse.
const CodeTerminal = "E_PLAN_TERMINAL"

// PlanOptions says what is to be restored, where, and how strictly.
type PlanOptions struct {
	Image  *image.Image
	Bundle *sandbox.Bundle
	// Further are the bundles of the containers besides the first, by their names in
	// the image.
	Further map[string]*sandbox.Bundle
	// Policy and Map are those of package restoreenv.
	Policy restoreenv.Policy
	Map    map[string]string
	// MemoryBytes is how much memory the saved sandbox has; the image's, where there is one.
	MemoryBytes uint64
}

// Finding is one thing that differs between a saved sandbox and this host.
type Finding struct {
	Code string `json:"code"`
	// Refuses says that the finding forbids the restore under the plan's policy.
	Refuses bool   `json:"refuses"`
	Subject string `json:"subject"`
	Saved   string `json:"saved,omitempty"`
	Target  string `json:"target,omitempty"`
	Nearest string `json:"nearest,omitempty"`
	Remedy  string `json:"remedy"`
}

// String is the finding on one line.
func (f Finding) String() string {
	line := fmt.Sprintf("%s: %s: saved %s, here %s", f.Code, f.Subject, orNothing(f.Saved), orNothing(f.Target))
	if f.Nearest != "" {
		line += fmt.Sprintf(" (nearest: %s)", f.Nearest)
	}
	return line + ": " + f.Remedy
}

func orNothing(s string) string {
	if s == "" {
		return "nothing"
	}
	return s
}

// Plan says what would back a saved sandbox on this host, and what stands in
// the way.
type Plan struct {
	Policy   restoreenv.Policy    `json:"policy"`
	Mounts   []restoreenv.Backing `json:"mounts"`
	Findings []Finding            `json:"findings"`

	// Network sets the saved network beside that of this host.
	Network []network.Row `json:"network,omitempty"`
	// Connections says what becomes of each connection and listener that the
	// sandbox had.
	Connections []network.Fate `json:"connections,omitempty"`

	saved   *saved
	list    *mounts.List      // the saved mounts with their sources here
	network *network.Identity // what the sandbox will have on this host
	// furtherLists are those of the further containers, in their saved order.
	furtherLists   []*mounts.List
	furtherBundles map[string]*sandbox.Bundle
}

// Several says whether the saved sandbox has more containers than its first.
func (p *Plan) Several() bool {
	return slices.ContainsFunc(p.Mounts, func(m restoreenv.Backing) bool { return m.Container != p.Mounts[0].Container })
}

// Refuses says whether a restore would refuse.
func (p *Plan) Refuses() bool { return len(p.Refusals()) > 0 }

// Refusals returns the findings that forbid the restore.
func (p *Plan) Refusals() []Finding {
	var refusals []Finding
	for _, f := range p.Findings {
		if f.Refuses {
			refusals = append(refusals, f)
		}
	}
	return refusals
}

// MakePlan compares an image with a bundle on this host. It starts nothing and
// changes nothing. Differences are findings in the plan, all of them at once;
// the error is about what kept it from comparing.
func MakePlan(opts PlanOptions) (*Plan, error) {
	opts.MemoryBytes = opts.Image.Stats().PagesCommitted * image.PageBytes
	return PlanFor(opts.Image.Config(), opts)
}

// PlanFor is MakePlan for what another host says about a sandbox that comes from
// there. opts has no image.
func PlanFor(config *image.Config, opts PlanOptions) (*Plan, error) {
	p := &Plan{Policy: opts.Policy}
	// What makes the rest unreadable comes first.
	if err := p.checkHost(config); err != nil {
		return nil, err
	}
	var err error
	if p.saved, err = readSaved(config); err != nil {
		return nil, err
	}
	p.checkMounts(opts)
	p.checkTerminals(opts)
	p.checkMemoryLimit(opts.Bundle, opts.MemoryBytes)
	if err := p.checkNetwork(opts.Bundle); err != nil {
		return nil, err
	}
	return p, nil
}

func (p *Plan) checkHost(config *image.Config) error {
	host, err := thisHost()
	if err != nil {
		return err
	}
	var mismatch *image.Error
	if err := config.CheckHost(host); errors.As(err, &mismatch) {
		p.Findings = append(p.Findings, Finding{
			Code: string(mismatch.Code), Refuses: true, Subject: "host",
			Saved: mismatch.Detail, Target: host.Arch + ", gVisor " + host.GVisor, Remedy: mismatch.Remedy(),
		})
	}
	return nil
}

func (p *Plan) checkMounts(opts PlanOptions) {
	resolve := restoreenv.Options{Policy: opts.Policy, Map: opts.Map, BundleErrors: make(map[string]error)}
	target := make(restoreenv.Environment)
	// What compiles is compared even where something does not; the errors
	// become findings with the rest.
	compile := func(container string, spec *specs.Spec, dir string, saved *mounts.List) {
		list, err := mounts.Compile(spec, mounts.Options{Bundle: dir, Overlay: overlayMode(saved), TmpDecision: saved.Tmp})
		if err != nil {
			resolve.BundleErrors[container] = err
		}
		maps.Copy(target, restoreenv.Build(container, list))
	}
	compile(boot.RootContainer, opts.Bundle.Spec, opts.Bundle.Dir, &p.saved.mounts)
	for _, name := range slices.Sorted(maps.Keys(opts.Further)) {
		bundle, saved := opts.Further[name], &mounts.List{}
		if at := slices.IndexFunc(p.saved.further, func(c savedContainer) bool { return c.name == name }); at >= 0 {
			saved = &p.saved.further[at].mounts
		}
		compile(name, sandbox.WithShared(bundle.Spec, opts.Bundle.Spec.Annotations), bundle.Dir, saved)
	}
	resolution, findings := restoreenv.Resolve(p.saved.environment, target, resolve)
	for _, f := range findings {
		p.Findings = append(p.Findings, Finding{
			Code: string(f.Code), Refuses: f.Refuses(opts.Policy), Subject: "mount " + f.Destination + ofContainer(f.Container),
			Saved: f.Saved, Target: f.Target, Nearest: f.Nearest, Remedy: f.Remedy,
		})
	}
	p.Mounts = resolution.Mounts
	p.list = place(&p.saved.mounts, boot.RootContainer, resolution)
	for i := range p.saved.further {
		c := &p.saved.further[i]
		p.furtherLists = append(p.furtherLists, place(&c.mounts, c.name, resolution))
	}
	p.furtherBundles = opts.Further
}

// ofContainer says to which container something belongs, if that is not the first.
func ofContainer(name string) string {
	if name == "" || name == boot.RootContainer {
		return ""
	}
	return " of container " + name
}

// overlayMode is the mode that the saved mounts were compiled with, so that
// the bundle compiles to the same.
func overlayMode(list *mounts.List) mounts.OverlayMode {
	mode := mounts.OverlayNone
	for _, m := range list.Mounts {
		switch {
		case m.Overlay && m.Destination == "/" && mode == mounts.OverlayNone:
			mode = mounts.OverlayRoot
		case m.Overlay && m.Destination != "/":
			mode = mounts.OverlayAll
		}
	}
	return mode
}

// place returns a container's saved mounts with the sources that back them here.
func place(list *mounts.List, container string, resolution *restoreenv.Resolution) *mounts.List {
	placed := *list
	placed.Mounts = append([]mounts.Mount(nil), list.Mounts...)
	backing := make(map[string]restoreenv.Backing)
	for _, b := range resolution.Gofer(container) {
		backing[b.Destination] = b
	}
	for i := range placed.Mounts {
		if b, ok := backing[placed.Mounts[i].Destination]; ok {
			placed.Mounts[i].Source, placed.Mounts[i].Recursive = b.Source, b.Recursive
		}
	}
	return &placed
}

// Terminals returns the exec sessions of the saved sandbox that have a terminal.
func (p *Plan) Terminals() []boot.Session {
	var sessions []boot.Session
	for _, s := range p.saved.streams.Sessions {
		if s.Terminal != nil && s.Name != boot.RootContainer {
			sessions = append(sessions, s)
		}
	}
	return sessions
}

func (p *Plan) checkTerminals(opts PlanOptions) {
	p.checkTerminal(boot.RootContainer, &p.saved.spec, opts.Bundle)
	for i := range p.saved.further {
		c := &p.saved.further[i]
		if bundle := opts.Further[c.name]; bundle != nil {
			p.checkTerminal(c.name, &c.spec, bundle)
		}
	}
}

func (p *Plan) checkTerminal(container string, saved *specs.Spec, bundle *sandbox.Bundle) {
	had, wants := saved.Process.Terminal, bundle.Spec.Process.Terminal
	if had == wants {
		return
	}
	p.Findings = append(p.Findings, Finding{
		Code: CodeTerminal, Refuses: true, Subject: "process.terminal" + ofContainer(container),
		Saved: fmt.Sprint(had), Target: fmt.Sprint(wants), Remedy: fmt.Sprintf("set process.terminal to %v in the bundle", had),
	})
}

// checkNetwork compares the saved network with that of the bundle's namespace.
// Under the relaxed policy a sandbox may come back under other addresses, and
// lose the connections that the old ones had.
func (p *Plan) checkNetwork(bundle *sandbox.Bundle) error {
	here := &network.Identity{}
	if path := sandbox.NetworkNamespace(bundle.Spec); path != "" {
		var err error
		if here, err = network.Probe(path); err != nil {
			return fmt.Errorf("read network namespace %q: %w", path, err)
		}
	}
	p.Network = p.saved.network.SideBySide(here)
	for _, d := range p.saved.network.Compare(here) {
		refuses := d.Severity == network.SeverityBlocks ||
			d.Severity == network.SeverityAddress && p.Policy != restoreenv.PolicyRelaxed
		p.Findings = append(p.Findings, Finding{
			Code: d.Code, Refuses: refuses, Subject: "network " + d.Subject,
			Saved: d.Sandbox, Target: d.Host, Remedy: d.Remedy,
		})
	}
	p.network = &p.saved.network
	defer func() { p.Connections = network.Survival(p.saved.connections, p.network) }()
	// What the strict policy lets pass is not worth another identity: an address
	// that the host makes up by itself, say, where the interface is down still.
	if p.Refuses() || p.Policy != restoreenv.PolicyRelaxed || p.saved.network.SameAddresses(here) {
		return nil
	}
	moved, err := p.saved.network.Relocate(here)
	if err != nil {
		return err
	}
	p.network = moved
	return nil
}
