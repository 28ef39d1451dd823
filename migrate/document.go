package migrate

import (
	"encoding/json"
	"fmt"
	"runtime"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
)

// document is what a plan's manifest holds: what an image's config would say, and
// what the operator wants of the target.
type document struct {
	Config image.Config `json:"config"` // without environment and network, which are the plan's own
	// Bundle is the directory of the bundle on the target.
	Bundle string `json:"bundle"`
	// Bundles are those of the containers besides the first, by name.
	Bundles map[string]string `json:"bundles,omitempty"`
	Policy  restoreenv.Policy `json:"policy"`
	Map     map[string]string `json:"map"`
	// MemoryBytes is what the memory file takes on the source.
	MemoryBytes uint64 `json:"memoryBytes"`
}

// plan makes the message that says what would move.
func (d document) plan(pages uint64) (*wire.Plan, error) {
	environment, network := d.Config.Environment, d.Config.Network
	d.Config.Environment, d.Config.Network = nil, nil
	d.Config.Time = d.Config.Time.UTC().Round(0)
	manifest, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("describe sandbox: %w", err)
	}
	return &wire.Plan{
		Manifest: manifest, Environment: environment, Network: network,
		Files: []wire.MemoryFile{{Stream: memoryStream, Pages: pages}},
	}, nil
}

// readPlan takes a plan apart.
func readPlan(p *wire.Plan) (*document, error) {
	var d document
	if err := json.Unmarshal(p.Manifest, &d); err != nil {
		return nil, fmt.Errorf("read plan: %w", err)
	}
	if len(p.Files) != 1 || p.Files[0].Stream != memoryStream {
		return nil, fmt.Errorf("read plan: %d memory files, this version moves sandboxes with one", len(p.Files))
	}
	if n := len(d.Config.Containers); n > image.MaxContainers {
		return nil, fmt.Errorf("read plan: %d containers, limit is %d", n, image.MaxContainers)
	}
	d.Config.Environment, d.Config.Network = p.Environment, p.Network
	return &d, nil
}

// thisBuild is what both sides compare first.
func thisBuild() (wire.Build, error) {
	id, gvisor, err := checkpoint.Build()
	return wire.Build{Version: id, GVisor: gvisor, Architecture: runtime.GOARCH}, err
}
