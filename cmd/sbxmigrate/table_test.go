package main

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/restoreenv"
	"github.com/sbxmigrate/sbxmigrate/sandbox/network"
)

// What a sandbox or another host says neither moves the terminal's cursor nor forges a line, wherever it is quoted.
func TestQuotedTextMovesNoTerminal(t *testing.T) {
	const evil = "x\x1b]0;owned\a\x1b[2J\r\u009b2K\u202eylno-daer\u2066\xff"
	now := time.Now()
	var out bytes.Buffer
	c := &cli{stdout: &out, stderr: &out, log: &logger{w: &out}}
	plan := &checkpoint.Plan{
		Mounts:   []restoreenv.Backing{{Destination: "/" + evil + "\n", Device: evil, Source: evil}},
		Findings: []checkpoint.Finding{{Code: "E_X", Subject: evil, Saved: evil + "\nerror: forged", Remedy: evil}},
		Network:  []network.Row{{Link: evil + "\nforged", What: evil, Sandbox: evil, Host: evil}},
		Connections: []network.Fate{{
			Connection: network.Connection{
				Protocol: network.ProtocolTCP, State: evil + "\nforged", Local: netip.MustParseAddrPort("[fe80::1%" + "\x1b[2J\n" + "]:80"),
			},
			Reason: evil + "\nforged",
		}},
	}
	if err := printPlan(c, plan); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(out.String(), "\n"); lines != 9 {
		t.Errorf("a mount, a property of the network, a connection, their headings, blank lines and a finding take %d lines:\n%q", lines, &out)
	}
	shown := out.Len()
	c.warn("connection "+plan.Connections[0].String(), evil+"\nerror: forged")
	if lines := strings.Count(out.String()[shown:], "\n"); lines != 2 {
		t.Errorf("two warnings take %d lines:\n%q", lines, &out)
	}
	c.log.write(levelError, "first line\n  second "+evil, now)
	for _, r := range out.String() {
		if unicode.IsControl(r) && r != '\n' || unicode.Is(unicode.Bidi_Control, r) {
			t.Errorf("%U is printed:\n%q", r, &out)
		}
	}
	for _, want := range []string{`x\x1b]0;owned\x07\x1b[2J\x0d\x9b2K\u202eylno-daer\u2066` + "\ufffd", "first line\n  second "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in\n%q", want, &out)
		}
	}
}
