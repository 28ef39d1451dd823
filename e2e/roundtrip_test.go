package e2e

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// A trip is a workload that is checkpointed on one host and goes on on another: other id, other bundle path, other state directory.
type trip struct {
	from, to     *host
	fromID, toID string
	bundle       guest.Bundle
}

// startTrip starts a program of package guest on the first host, with data mounted on guest.DataDir, and waits until it answers.
func startTrip(t *testing.T, name string, b guest.Bundle, data string) *trip {
	t.Helper()
	b.Mounts = append(b.Mounts, guest.Bind(programsDir, guest.ProgramsDir, "ro"))
	if data != "" {
		b.Mounts = append(b.Mounts, guest.Bind(data, guest.DataDir, "rw"))
	}
	trip := &trip{from: newHost(t), to: newHost(t), fromID: name, toID: "moved-" + name, bundle: b}
	trip.from.run(trip.fromID, trip.from.bundle(name, b))
	trip.from.ask(trip.fromID, "work") // ask.py waits until the program answers
	return trip
}

// image is where the checkpoint goes.
func (trip *trip) image() string { return trip.from.path("images") + ":" + trip.fromID }

// checkpoint saves and ends the sandbox on the first host.
func (trip *trip) checkpoint(flags ...string) {
	trip.from.t.Helper()
	trip.from.must(append([]string{"checkpoint", trip.fromID, "--image", trip.image()}, flags...)...)
	trip.from.gone(trip.fromID)
	trip.from.try("delete", "--force", trip.fromID)
	nothingRuns(trip.from.t)
}

// restore lets it go on on the second host.
func (trip *trip) restore(flags ...string) {
	trip.to.t.Helper()
	bundle := trip.to.bundle("elsewhere/"+trip.toID, trip.bundle)
	trip.to.mustLaunch(trip.toID, append([]string{"restore", "--detach", "--image", trip.image(), "--bundle", bundle, trip.toID}, flags...)...)
	trip.to.wantStatus(trip.toID, specs.StateRunning)
}

// sameAnswer moves the sandbox and fails unless the program answers a question as before.
func (trip *trip) sameAnswer(question string) {
	trip.from.t.Helper()
	before := trip.from.ask(trip.fromID, question)
	trip.move()
	if diff := cmp.Diff(before, trip.to.ask(trip.toID, question)); diff != "" {
		trip.to.t.Errorf("%s changed (-before +after):\n%s", question, diff)
	}
}

// move checkpoints and restores.
func (trip *trip) move() {
	trip.from.t.Helper()
	trip.checkpoint()
	trip.restore()
}

// goesOn fails unless each of the program's workers does more work, and none has found a fault.
func (trip *trip) goesOn() {
	trip.to.t.Helper()
	trip.to.goesOn(trip.toID, 1)
}

// goesOn fails unless each worker of a program does so many more pieces of work, and none has found a fault. Workers that stand
// alone report {count, failure}; several report that by name.
func (h *host) goesOn(id string, pieces float64) {
	h.t.Helper()
	first := workers(h.ask(id, "work"))
	eventually(h.t, "every worker goes on", func() bool {
		now := workers(h.ask(id, "work"))
		for name, w := range now {
			if failure := w["failure"]; failure != nil {
				h.t.Fatalf("worker %q failed after the restore: %v", name, failure)
			}
			if w["count"].(float64) < first[name]["count"].(float64)+pieces {
				return false
			}
		}
		return len(now) > 0
	})
}

func workers(report map[string]any) map[string]map[string]any {
	if _, alone := report["count"]; alone {
		return map[string]map[string]any{"": report}
	}
	all := make(map[string]map[string]any)
	for name, w := range report {
		all[name] = w.(map[string]any)
	}
	return all
}

// lines returns the lines of a command's output without the empty ones.
func lines(output string) []string {
	return strings.FieldsFunc(output, func(r rune) bool { return r == '\n' || r == '\r' })
}
