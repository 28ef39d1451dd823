package e2e

import (
	"fmt"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
)

// Programs that change memory in every way there is move to and fro with the audit on: it finds no page that was missed. At full
// size they move ten times each.
func TestMigrateChain(t *testing.T) {
	moves := 2
	if *long {
		moves = 10
	}
	busybox := dataDir(t)
	if err := guest.WriteBusyboxRoot(busybox); err != nil {
		t.Fatal(err)
	}
	// Files in memory that are cut off and written anew, by processes that come and go.
	const churn = `for i in $(seq 50); do (n=0; while :; do n=$((n+1)); echo "$i $n" >/tmp/f$i; cat /tmp/f$i /tmp/f1 >/tmp/g$i; : >/tmp/f$i; sleep 0.05; done) & done
while :; do cp /bin/busybox /tmp/big; rm /tmp/big; done`
	for name, b := range map[string]guest.Bundle{
		"python": {
			Args: guest.Program("python.py"), Env: []string{"SIZE_MIB=64"},
			Mounts: []specs.Mount{guest.Bind(programsDir, guest.ProgramsDir, "ro"), guest.Bind(dataDir(t), guest.DataDir, "rw")},
		},
		"processes": {Root: busybox, Args: []string{"/bin/sh", "-c", churn}},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t)
			p.a.run(name, p.a.bundle(name, b))
			if name == "python" {
				p.a.ask(name, "work")
			}
			from, to := p.a, p.b
			for move := range moves {
				report := from.mustMigrate(name, to, "--verify", "--max-downtime", "10s", "--bundle", to.bundle(fmt.Sprintf("%s-%d", name, move), b))
				t.Logf("%d rounds, %d of %d pages in the stop", len(report.Rounds), report.PagesResidual, report.PagesCommitted)
				from.must("delete", name)
				from, to = to, from
			}
			if name != "python" {
				return
			}
			(&trip{from: from.host, to: from.host, fromID: name, toID: name}).goesOn()
			if chain := from.ask(name, "chain"); chain["got"] != chain["want"] {
				t.Errorf("a thread lost a step of its work: %v", chain)
			}
		})
	}
}
