package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
)

const moveID = "bench-moved"

// liveMigration moves by our migrate command, between two agents.
type liveMigration struct {
	hosts     [2]*host
	agents    [2]*exec.Cmd
	addresses [2]string // where the agents listen
	bundle    guest.Bundle
	at, moves int
}

// newLiveMigration starts the agents, and the sandbox on the first host.
func newLiveMigration(hosts [2]*host, bundle guest.Bundle, place *os.File) (mover, error) {
	l := &liveMigration{hosts: hosts, bundle: bundle}
	if err := l.start(place); err != nil {
		l.close()
		return nil, err
	}
	return l, nil
}

func (l *liveMigration) start(place *os.File) error {
	var keys [2]string
	for i, h := range l.hosts {
		key, err := h.run("key", "init", "--data", h.path("data"))
		if err != nil {
			return err
		}
		keys[i] = string(bytes.TrimSpace(key))
	}
	for i, h := range l.hosts {
		if _, err := h.run("key", "trust", "peer", keys[1-i], "--data", h.path("data")); err != nil {
			return err
		}
		if err := l.startAgent(i); err != nil {
			return err
		}
	}
	dir, err := l.hosts[0].bundle("first", inNamespace(l.bundle, place))
	if err != nil {
		return err
	}
	_, err = l.hosts[0].run("run", "--detach", "--bundle", dir, moveID)
	return err
}

func (l *liveMigration) startAgent(i int) error {
	h := l.hosts[i]
	log, err := os.Create(h.path("agent.log"))
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := h.command("agent", "--listen", h.address+":0", "--data", h.path("data"))
	cmd.Stderr = log
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := netlab.Start(h.ns, cmd); err != nil {
		return err
	}
	l.agents[i] = cmd
	line, err := bufio.NewReader(out).ReadString('\n') // it says nothing else
	if err != nil {
		said, _ := os.ReadFile(log.Name())
		return fmt.Errorf("agent: %w: %s", err, said)
	}
	l.addresses[i] = strings.TrimSpace(line)
	return nil
}

func (l *liveMigration) move(to *os.File) (map[string]float64, error) {
	l.moves++
	from, there := l.hosts[l.at], l.hosts[1-l.at]
	dir, err := there.bundle(fmt.Sprint(l.moves), inNamespace(l.bundle, to))
	if err != nil {
		return nil, err
	}
	began := time.Now()
	out, err := from.run("migrate", "--data", from.path("data"), "--peer", "peer", "--bundle", dir, "--json", moveID, l.addresses[1-l.at])
	if err != nil {
		return nil, err
	}
	took := time.Since(began)
	var report struct {
		Downtime int64 `json:"downtimeNanoseconds"`
	}
	if err := json.Unmarshal(out, &report); err != nil {
		return nil, fmt.Errorf("report: %w: %s", err, out)
	}
	if report.Downtime <= 0 {
		return nil, errors.New("the report states no downtime")
	}
	if _, err := from.run("delete", moveID); err != nil {
		return nil, err
	}
	l.at = 1 - l.at
	return map[string]float64{statedQuantity: inMillis(time.Duration(report.Downtime)), totalQuantity: inMillis(took)}, nil
}

func (l *liveMigration) close() {
	for i, h := range l.hosts {
		h.delete(moveID)
		if agent := l.agents[i]; agent != nil {
			agent.Process.Signal(syscall.SIGTERM)
			agent.Wait()
		}
	}
}
