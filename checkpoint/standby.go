package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/faults"
)

// Standby is a sandbox process that loads a kernel while that arrives from
// another host, and starts it when told. It ends with this process unless it was
// started.
type Standby struct {
	// Memory is its memory file: the caller places pages.
	Memory *os.File
	// State and Metadata take the kernel's streams. The caller closes them at
	// their ends.
	State, Metadata io.WriteCloser

	charges        bool
	orders         sync.Mutex // guards standby
	pages, standby *os.File
	trap           *faults.Handler // nil: there is none
	cancel         context.CancelFunc
	created        chan struct{} // closed when sb, warnings and err are set
	sb             *sandbox.Sandbox
	warnings       []string
	err            error
	closeOnce      sync.Once
}

// StandbyOptions say what a standby is to become.
type StandbyOptions struct {
	// Create is how its sandbox is made; Restore is filled in.
	Create sandbox.CreateOptions
	// From names where the sandbox comes from, for its record.
	From string
	// Whole says that every page is in its place before the start.
	Whole bool
	// Terminals are for the exec sessions of Plan.Terminals, by name. The standby takes ownership.
	Terminals map[string]*os.File
	// Further says how the containers besides the first are made, by name.
	Further map[string]FurtherOptions
}

// NewStandby starts a standby under a plan that does not refuse.
func NewStandby(ctx context.Context, root sandbox.Root, plan *Plan, opts StandbyOptions) (_ *Standby, err error) {
	s := &Standby{created: make(chan struct{})}
	create := opts.Create
	if linux := create.Bundle.Spec.Linux; linux != nil && linux.CgroupsPath != "" {
		s.charges = true
	}
	var theirs []*os.File
	open := func(ours, other *os.File, openErr error) *os.File {
		if openErr != nil {
			err = openErr
			return nil
		}
		theirs = append(theirs, other)
		return ours
	}
	pipe := func() *os.File {
		r, w, err := os.Pipe()
		if err == nil {
			widen(w)
		}
		return open(w, r, err)
	}
	s.State, s.Metadata = pipe(), pipe()
	s.pages = open(socketPair())
	s.standby = open(socketPair())
	if err == nil {
		s.Memory, err = sandbox.NewMemory()
	}
	if err != nil {
		for _, f := range theirs {
			f.Close()
		}
		closeFiles(create.Stdio)
		for _, f := range opts.Further {
			closeFiles(f.Stdio)
		}
		for _, f := range opts.Terminals {
			f.Close()
		}
		s.close()
		return nil, err
	}
	var device *os.File
	if !opts.Whole {
		// Without it, memory is waited for in larger pieces.
		device, _ = faults.OpenDevice()
	}
	create.Restore = &sandbox.Restore{
		From: opts.From, Mounts: plan.list, Network: plan.network,
		Sessions: plan.saved.streams.Sessions, Terminal: plan.saved.streams.Terminal, Processes: len(plan.saved.processes),
		Terminals: opts.Terminals, Files: theirs, Memory: s.Memory, Faults: device, Further: plan.furtherRestore(opts.Further),
	}
	ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		s.sb, s.warnings, s.err = root.Create(ctx, create)
		close(s.created)
	}()
	err = s.waitReady()
	if err == nil {
		order := byte(inside.StandbyParts)
		if opts.Whole {
			order = inside.StandbyWhole
		}
		_, err = s.standby.Write([]byte{order})
	}
	if err != nil {
		s.Discard()
		return nil, err
	}
	return s, nil
}

// waitReady returns when the memory file may be written to.
func (s *Standby) waitReady() error {
	var trap *faults.Handler
	ready := make(chan error, 1)
	go func() {
		var err error
		trap, err = receiveTrap(s.standby)
		ready <- err
	}()
	select {
	case err := <-ready:
		if err == nil {
			s.trap = trap
			return nil
		}
		if !errors.Is(err, io.EOF) {
			return fmt.Errorf("%w: %w", ErrSandbox, err)
		}
	case <-s.created:
		go func() { // what still comes is nobody's
			if <-ready == nil && trap != nil {
				trap.Close()
			}
		}()
	}
	<-s.created
	if s.err == nil {
		s.err = fmt.Errorf("%w: standby did not say that it is ready", ErrSandbox)
	}
	return s.err
}

// receiveTrap waits until a standby is ready, and returns its trap, nil for none.
func receiveTrap(socket *os.File) (trap *faults.Handler, err error) {
	given, err := receiveReady(socket)
	for i, f := range given {
		if i == 0 && err == nil {
			trap, err = faults.NewHandler(f)
		}
		f.Close()
	}
	return trap, err
}

// receiveReady reads the one byte with which a standby says that it is ready, and the
// descriptors that come with it.
func receiveReady(socket *os.File) ([]*os.File, error) {
	const maxRights = 1
	conn, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	var b [1]byte
	rights := make([]byte, unix.CmsgSpace(4*maxRights))
	var n, rightsBytes int
	readErr := conn.Read(func(fd uintptr) bool {
		n, rightsBytes, _, _, err = unix.Recvmsg(int(fd), b[:], rights, unix.MSG_CMSG_CLOEXEC|unix.MSG_DONTWAIT)
		return !errors.Is(err, unix.EAGAIN)
	})
	if err = errors.Join(readErr, err); err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	messages, err := unix.ParseSocketControlMessage(rights[:rightsBytes])
	if err != nil {
		return nil, err
	}
	var given []*os.File
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return given, err
		}
		for _, fd := range fds {
			given = append(given, os.NewFile(uintptr(fd), "given"))
		}
	}
	return given, nil
}

// Announce makes the sandbox's addresses known. Its gates hold what comes until
// it is started.
func (s *Standby) Announce() error {
	s.orders.Lock()
	defer s.orders.Unlock()
	_, err := s.standby.Write([]byte{inside.StandbyAnnounce})
	return err
}

// Charges says whether memory for pages is the sandbox's to allocate, by Charge: it has, or may have, a cgroup of its own.
func (s *Standby) Charges() bool { return s.charges }

// Charge has the standby allocate memory for ranges of pages, at most inside.MaxChargeRanges, so that placing pages there
// costs nothing of this process's cgroup. It may be called at the same time as other methods.
func (s *Standby) Charge(ranges []image.Run) error {
	order := make([]byte, 0, 5+len(ranges)*inside.RangeBytes)
	order = append(order, inside.StandbyCharge)
	order = binary.LittleEndian.AppendUint32(order, uint32(len(ranges)))
	for _, r := range ranges {
		order = binary.LittleEndian.AppendUint64(order, r.First*image.PageBytes)
		order = binary.LittleEndian.AppendUint64(order, (r.First+r.Count)*image.PageBytes)
	}
	s.orders.Lock()
	defer s.orders.Unlock()
	s.standby.SetDeadline(time.Now().Add(chargePatience))
	defer s.standby.SetDeadline(time.Time{})
	if _, err := s.standby.Write(order); err != nil {
		return fmt.Errorf("%w: %w", errCharge, err)
	}
	var answer [5]byte
	if _, err := io.ReadFull(s.standby, answer[:]); errors.Is(err, os.ErrDeadlineExceeded) {
		s.standby.Close() // an answer that comes late would be taken for another's
		return fmt.Errorf("%w: the standby does not answer", errCharge)
	} else if err != nil || answer[0] != inside.StandbyCharge {
		return fmt.Errorf("%w: the standby ended", errCharge)
	}
	if number := binary.LittleEndian.Uint32(answer[1:]); number != 0 {
		return fmt.Errorf("%w: %w", errCharge, unix.Errno(number))
	}
	return nil
}

// chargePatience is how long a standby may take to allocate memory: below a limit, the host looks for some that can be freed.
const chargePatience = 30 * time.Second

// errCharge says what most likely keeps a standby from allocating memory.
var errCharge = errors.New("no memory for the sandbox; the memory limit of its cgroup may be too low")

// Placed tells the kernel that every page is in its place. Otherwise call Missing.
func (s *Standby) Placed() error {
	var answer [inside.RequestHeaderBytes]byte
	binary.LittleEndian.PutUint32(answer[:4], inside.AnswerAll)
	_, err := s.pages.Write(answer[:])
	return err
}

// Loaded waits until the kernel is loaded and only has to be started.
func (s *Standby) Loaded(ctx context.Context) (*sandbox.Sandbox, error) {
	select {
	case <-s.created:
		return s.sb, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Warnings are what the bundles ask for in vain. They are known once Loaded has returned the sandbox.
func (s *Standby) Warnings() []string { return s.warnings }

// Start lets the tasks run. From then on the sandbox outlives this process.
func (s *Standby) Start(ctx context.Context) error {
	if s.sb == nil {
		return errors.New("standby is not loaded")
	}
	return s.sb.Start(ctx)
}

// Release gives up what was needed to load. The sandbox runs.
func (s *Standby) Release() { s.close() }

// Discard ends a standby that was not started, for certain.
func (s *Standby) Discard() error {
	s.close()
	s.cancel()
	<-s.created
	if s.sb == nil {
		return nil // Create has cleaned up
	}
	return s.sb.DeleteWhole(context.Background())
}

func (s *Standby) close() {
	s.closeOnce.Do(func() {
		for _, c := range []io.Closer{s.State, s.Metadata, s.pages, s.standby, s.Memory} {
			if f, ok := c.(*os.File); ok && f != nil {
				f.Close()
			}
		}
		if s.trap != nil {
			s.trap.Close()
		}
	})
}
