package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// How many right answers the client wants from each host, at least, before the
// demo goes on.
const demoAnswers = 1000

// maxDemoMemoryMiB bounds --memory: both hosts are this machine, and the image
// is on its disk.
const maxDemoMemoryMiB = 64 << 10

// Ways to move the sandbox.
const (
	viaLive  = "live"
	viaImage = "image"
)

type demoOptions struct {
	via       string
	memoryMiB int
	json      bool
}

func (o *demoOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.via, "via", viaLive, "live: migrate while the server works; image: checkpoint, then restore")
	f.IntVar(&o.memoryMiB, "memory", 64, "`MiB` of keys and values in the server's memory")
	f.BoolVar(&o.json, "json", false, "print the result as JSON")
}

func newDemoCommand(c *cli) *cobra.Command {
	var opts demoOptions
	cmd := &cobra.Command{
		Use:   "demo [flags]",
		Short: "Move a server with a connected client from one host to another, both made for the occasion",
		Long: `Move a server with a connected client from one host to another.

The hosts are network namespaces on a bridge, each with a state directory of its
own. The server is a key-value store in a sandbox that holds nothing but this
program. The client stays outside, keeps one connection, and checks every answer.
The sandbox migrates while the server answers, or goes by way of an image.
All of it is gone afterwards, also when the demo fails or is interrupted.`,
		Example: `  sbxmigrate demo
  sbxmigrate demo --via image
  sbxmigrate demo --memory 1024 --json 2>/dev/null`,
		Args: exactArgs(0, "no arguments"),
		RunE: func(cmd *cobra.Command, args []string) error { return runDemo(cmd.Context(), c, opts) },
	}
	opts.addFlags(cmd.Flags())
	return cmd
}

func runDemo(ctx context.Context, c *cli, opts demoOptions) error {
	if opts.memoryMiB < 1 || opts.memoryMiB > maxDemoMemoryMiB {
		return usageError("--memory is %d, want 1 to %d", opts.memoryMiB, maxDemoMemoryMiB)
	}
	if opts.via != viaLive && opts.via != viaImage {
		return usageError("--via is %q, want live or image", opts.via)
	}
	ctx, signals := catchSignals(ctx)
	defer signals.stop()
	d := &demo{via: opts.via, progress: c.stderr, begun: time.Now(), debug: c.debug, keys: opts.memoryMiB << 20 / demoValueBytes}
	result, err := d.run(ctx)
	err = errors.Join(interruption(ctx, err), d.cleanUp())
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	if opts.json {
		return printJSON(c.stdout, result)
	}
	return result.print(c.stdout)
}

// demo is a demo under way.
type demo struct {
	via      string
	progress io.Writer
	begun    time.Time
	debug    bool
	keys     int

	dir  string   // everything that it writes is in here
	lab  *demoLab // the network
	undo []func() error
}

// step says what has been reached.
func (d *demo) step(format string, args ...any) {
	fmt.Fprintf(d.progress, "%7.3f s  %s\n", time.Since(d.begun).Seconds(), fmt.Sprintf(format, args...))
}

// later adds what has to be done in the end. The last comes first.
func (d *demo) later(undo func() error) { d.undo = append(d.undo, undo) }

func (d *demo) laterDelete(s *sandbox.Sandbox) {
	d.later(func() error { return s.Delete(context.Background(), true) })
}

func (d *demo) cleanUp() error {
	var errs []error
	for i := len(d.undo) - 1; i >= 0; i-- {
		errs = append(errs, d.undo[i]())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up: %w", err)
	}
	d.step("cleaned up: no process, namespace or file is left")
	return nil
}

func (d *demo) run(ctx context.Context) (*demoResult, error) {
	a, b, err := d.makeHosts()
	if err != nil {
		return nil, err
	}
	source, err := d.start(ctx, a)
	if err != nil {
		return nil, err
	}
	client, err := d.connect(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := d.ask(ctx, client)
	defer stop()
	defer client.conn.Close() // it may be waiting for an answer that nobody will give
	if err := client.awaitAnswers(ctx, demoAnswers, source.output); err != nil {
		return nil, err
	}
	d.step("client: %d requests answered, every answer right", client.answered.Load())
	target, move, err := d.move(ctx, source.Sandbox, a, b)
	if err != nil {
		return nil, interruption(ctx, err) // the client's trouble is the cause
	}
	if err := client.awaitAnswers(ctx, demoAnswers, target.output); err != nil {
		return nil, err
	}
	if err := stop(); err != nil {
		return nil, err
	}
	d.step("client: %d requests answered over the same connection, every answer right", client.answered.Load())
	if err := client.verify(); err != nil {
		return nil, err
	}
	d.step("client: digest of all keys is as it should be")
	return &demoResult{
		Move: move, Keys: d.keys + 1, Digest: client.digest.String(),
		Answers: client.answered.Load(), LongestGapNanos: client.longestGap.Nanoseconds(),
	}, nil
}

// makeHosts makes the network and the two hosts on it.
func (d *demo) makeHosts() (a, b *demoHost, err error) {
	if d.dir, err = os.MkdirTemp("", "sbxmigrate-demo-"); err != nil {
		return nil, nil, err
	}
	d.later(func() error { return os.RemoveAll(d.dir) })
	if d.lab, err = newDemoLab(); err != nil {
		return nil, nil, err
	}
	d.later(d.lab.outside.Close)
	if a, err = d.makeHost("A", true); err != nil {
		return nil, nil, err
	}
	// What has an address and is up answers for it: not yet on host B.
	if b, err = d.makeHost("B", false); err != nil {
		return nil, nil, err
	}
	d.step("two hosts and the client's, each a network namespace, on one bridge")
	return a, b, nil
}

func (d *demo) makeHost(name string, up bool) (*demoHost, error) {
	h, err := newDemoHost(d.lab, filepath.Join(d.dir, name), name, serverArguments(d.keys), up)
	if err != nil {
		return nil, fmt.Errorf("make host %s: %w", name, err)
	}
	d.later(h.namespace.Close)
	return h, nil
}

// start runs the server on a host and waits until it listens.
func (d *demo) start(ctx context.Context, on *demoHost) (*runningDemo, error) {
	output, stdio, err := openServerOutput()
	if err != nil {
		return nil, err
	}
	s, warnings, err := on.state.Create(ctx, sandbox.CreateOptions{ID: demoSandboxID, Bundle: on.bundle, Stdio: stdio, Debug: d.debug})
	if err != nil {
		return nil, err
	}
	d.laterDelete(s)
	for _, warning := range warnings {
		d.step("%s: warning: %s", on.name, warning)
	}
	if err := s.Start(ctx); err != nil {
		return nil, err
	}
	d.step("%s: sandbox %s started", on.name, demoSandboxID)
	if err := output.awaitReady(ctx); err != nil {
		return nil, err
	}
	d.step("%s: server has %d keys, %d MiB, and listens", on.name, d.keys, d.keys*demoValueBytes>>20)
	return &runningDemo{s, output}, nil
}

// connect makes the client and has it check what the server begins with.
func (d *demo) connect(ctx context.Context) (*demoClient, error) {
	conn, err := d.lab.connect()
	if err != nil {
		return nil, err
	}
	d.later(func() error { conn.Close(); return nil }) // often closed already
	context.AfterFunc(ctx, func() { conn.Close() })    // nobody is waited for any more
	client := newDemoClient(conn, d.keys)
	if err := client.verify(); err != nil {
		return nil, err
	}
	d.step("client: connected from outside, digest of all keys is as it should be")
	return client, nil
}

// ask lets the client ask until stop is called, which returns what went wrong
// for it, if anything. That also ends the context.
func (d *demo) ask(ctx context.Context, client *demoClient) (_ context.Context, stop func() error) {
	ctx, cancel := context.WithCancelCause(ctx)
	enough, done := make(chan struct{}), make(chan error, 1)
	go func() {
		err := client.run(enough)
		if err != nil {
			cancel(err)
		}
		done <- err
	}()
	return ctx, sync.OnceValue(func() error {
		defer cancel(nil)
		close(enough)
		return <-done
	})
}
