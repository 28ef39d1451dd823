package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
)

// demoServerCommand is the hidden first argument with which the binary serves a
// demoStore. It runs inside the demo's sandbox, where the binary is the only
// file there is.
const demoServerCommand = "demo-server"

// demoServerReady is the server's first line of output, printed once it listens.
const demoServerReady = "ready\n"

// maxDemoLineBytes bounds a request and an answer.
const maxDemoLineBytes = 2 * demoValueBytes

// demoServer runs the server and returns the status to exit with. args are the
// address to listen on and the number of keys to begin with.
func demoServer(args []string) int {
	if err := runDemoServer(args); err != nil {
		fmt.Fprintln(os.Stderr, "demo server:", err)
		return 1
	}
	return 0
}

func runDemoServer(args []string) error {
	if len(args) != 2 {
		return errors.New("wants an address and a number of keys")
	}
	keys, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("number of keys: %w", err)
	}
	store := newDemoStore(keys)
	listener, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer listener.Close()
	os.Stdout.WriteString(demoServerReady)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			if err := serveDemoStore(conn, store); err != nil {
				fmt.Fprintln(os.Stderr, "demo server:", err)
			}
		}()
	}
}

// serveDemoStore answers the requests of one connection until it ends.
func serveDemoStore(conn io.ReadWriter, store *demoStore) error {
	requests := bufio.NewReaderSize(conn, maxDemoLineBytes)
	for {
		line, err := requests.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		if _, err := conn.Write(append(store.answer(line[:len(line)-1]), '\n')); err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
	}
}
