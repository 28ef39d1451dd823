package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sbxmigrate/sbxmigrate/e2e/guest"
	"github.com/sbxmigrate/sbxmigrate/e2e/netlab"
	"github.com/sbxmigrate/sbxmigrate/e2e/redis"
)

// servePort is that of serve.py.
const servePort = "7000"

// serverBundle has a redis and a serve.py, see there.
func (s *stage) serverBundle() guest.Bundle {
	command := strings.Join(redisServer, " ") + " & exec " + strings.Join(guest.Program("serve.py"), " ")
	// An empty argument means "" to redis, and nothing to the shell.
	command = strings.Replace(command, "--save  ", "--save '' ", 1)
	b := guest.Bundle{Args: []string{"/bin/sh", "-c", command}, Root: s.rootfs}
	b.Mounts = append(b.Mounts, guest.Bind(s.programs, guest.ProgramsDir, "ro"))
	return b
}

// A server is a sandbox with a serverBundle on a lab, and a client beside it.
type server struct {
	side    string
	host    *host
	id      string
	client  *os.File // namespace
	address string
}

// serve starts a server on a machine of its own; number tells it from the lab's others.
func (s *stage) serve(lab *netlab.Lab, client *os.File, side string, h *host, number int, flags ...string) (*server, error) {
	v := &server{side: side, host: h, id: fmt.Sprintf("bench-%d", number), client: client, address: fmt.Sprintf("10.9.0.%d", 100+number)}
	place, err := lab.Machine(fmt.Sprintf("02:00:00:00:01:%02x", number), v.address+prefix, true)
	if err != nil {
		return nil, err
	}
	dir, err := h.bundle(v.id, inNamespace(s.serverBundle(), place))
	if err != nil {
		return nil, err
	}
	args := append(append([]string{"run", "--detach"}, flags...), "--bundle", dir, v.id)
	if _, err := h.run(args...); err != nil {
		return nil, err
	}
	for _, port := range []string{redisPort, servePort} {
		conn, err := v.dialUntil(port, time.Now().Add(responseLimit))
		if err != nil {
			v.close()
			return nil, err
		}
		conn.Close()
	}
	return v, nil
}

func (v *server) close() { v.host.delete(v.id) }

func (v *server) dial(port string) (net.Conn, error) {
	return netlab.Dial(v.client, v.address+":"+port, time.Second)
}

func (v *server) dialUntil(port string, deadline time.Time) (net.Conn, error) {
	for {
		conn, err := v.dial(port)
		if err == nil || time.Now().After(deadline) {
			return conn, err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// redis opens a connection to the server's redis.
func (v *server) redis() (*redis.Client, error) {
	conn, err := v.dial(redisPort)
	if err != nil {
		return nil, err
	}
	return redis.NewClient(conn), nil
}

// work has the server do something so many times, and returns how long each took.
func (v *server) work(what string, times int) (time.Duration, error) {
	conn, err := v.dial(servePort)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	began := time.Now()
	if _, err := fmt.Fprintf(conn, "%s %d\n", what, times); err != nil {
		return 0, err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, fmt.Errorf("%s answers %q: %w", what, answer, err)
	}
	if answer != "done\n" {
		return 0, fmt.Errorf("%s answers %q, want done", what, answer)
	}
	return time.Since(began) / time.Duration(times), nil
}

// streamChunk is what the client reads and writes at once.
const streamChunk = 256 << 10

// sendTo sends to the server for a while and returns how many bytes a second arrived.
func (v *server) sendTo(during time.Duration) (float64, error) {
	conn, err := v.dial(servePort)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "receive\n"); err != nil {
		return 0, err
	}
	chunk := make([]byte, streamChunk)
	began := time.Now()
	for time.Since(began) < during {
		if _, err := conn.Write(chunk); err != nil {
			return 0, err
		}
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, err
	}
	count, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return 0, err
	}
	arrived, err := strconv.ParseFloat(strings.TrimSpace(count), 64)
	return arrived / time.Since(began).Seconds(), err
}

// receiveFrom receives from the server for a while and returns how many bytes a second came.
func (v *server) receiveFrom(during time.Duration) (float64, error) {
	conn, err := v.dial(servePort)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "send\n"); err != nil {
		return 0, err
	}
	chunk := make([]byte, streamChunk)
	began, total := time.Now(), 0
	for time.Since(began) < during {
		n, err := conn.Read(chunk)
		if err != nil {
			return 0, err
		}
		total += n
	}
	if total == 0 {
		return 0, errors.New("nothing came")
	}
	return float64(total) / time.Since(began).Seconds(), nil
}
