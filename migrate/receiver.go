package migrate

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sbxmigrate/sbxmigrate/migrate/agent"
	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
	"github.com/sbxmigrate/sbxmigrate/migrate/handover"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
)

// Receiver takes sandboxes of other hosts in, and goes on with what was under way
// when this host's commands or agent ended.
type Receiver struct {
	Root     sandbox.Root
	Journals string // directory of this host's journals
	// Outputs is the directory for what sandboxes print, a file NAME.log each.
	Outputs string
	// Bundles has the directory of a sandbox's bundle by ID, where it is not what
	// the source says.
	Bundles map[string]string
	// StandIns starts a process that stands on this host for a container besides the
	// first, by the container's ID. Nil: sandboxes that have one are refused.
	StandIns func(containerID string) (StandIn, error)
	// BundleDir is the directory for bundles that are sent along, and MaxBundleBytes what one may have; 0: none is
	// taken.
	BundleDir      string
	MaxBundleBytes uint64
	// OpenTerminal makes a terminal for a process of a sandbox that is arriving. What the process writes goes
	// into log, which is nil for nowhere, and is the terminal's. Without it, sandboxes with terminals are refused.
	OpenTerminal func(sandboxID string, log *os.File) (Terminal, error)
	Identity     hostkey.Identity
	Keys         *hostkey.Store
	Logger       *slog.Logger

	arrived, failed, recovered atomic.Uint64

	bundleLock *os.File // BundleDir, locked; nil before SweepBundles

	mu sync.Mutex
	// sessions are the connections by attempt, and kept the sandboxes that run here while
	// memory is missing. Guarded by mu.
	sessions map[attempt.ID]*session
	kept     map[attempt.ID]*arrival
}

// session is a control connection that is being served.
type session struct {
	peer  string // its key
	end   func() // whatever it waits for, but for what must be finished
	ended chan struct{}
}

// enter makes a connection the one of its attempt. One that the same peer had
// before is of no use to it any more, whatever this host knows of that: it is ended
// first. The context is done when that happens to this one.
func (r *Receiver) enter(ctx context.Context, s *agent.Session) (_ context.Context, leave func()) {
	ctx, cancel := context.WithCancel(ctx)
	own := &session{peer: s.Peer.Key.String(), ended: make(chan struct{}), end: func() {
		cancel()
		s.Conn.Close()
	}}
	id := s.Attempt()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sessions == nil {
		r.sessions = make(map[attempt.ID]*session)
	}
	for old := r.sessions[id]; old != nil && old.peer == own.peer; old = r.sessions[id] {
		old.end()
		r.mu.Unlock()
		<-old.ended
		r.mu.Lock()
	}
	if r.sessions[id] == nil {
		r.sessions[id] = own
	}
	return ctx, func() {
		cancel()
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.sessions[id] == own {
			delete(r.sessions, id)
		}
		close(own.ended)
	}
}

// keepArrival keeps a sandbox that runs here while memory is missing for the next
// connection of its attempt. It returns false where there is no need.
func (r *Receiver) keepArrival(id attempt.ID, a *arrival) bool {
	if a.fetching() == nil {
		return false
	}
	r.dropDecided()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.kept == nil {
		r.kept = make(map[attempt.ID]*arrival)
	}
	r.kept[id] = a
	return true
}

func (r *Receiver) keptArrival(id attempt.ID) *arrival {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.kept[id]
}

// dropDecided drops the kept sandboxes whose attempt is over without another
// connection: an operator has decided about it.
func (r *Receiver) dropDecided() {
	r.mu.Lock()
	kept := maps.Clone(r.kept)
	r.mu.Unlock()
	for id, a := range kept {
		h, err := journal.Read(r.Journals, a.sb.ID)
		if err == nil && !h.Last(id).State.Arriving() {
			r.dropArrival(id)
			a.release()
		}
	}
}

func (r *Receiver) dropArrival(id attempt.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.kept, id)
}

// ReceiverStats counts what happened since the Receiver was made.
type ReceiverStats struct {
	Arrived   uint64 // sandboxes that were started here
	Failed    uint64 // arriving migrations that ended otherwise
	Recovered uint64 // migrations away from here that were ended after their command
}

// Stats returns the counts so far.
func (r *Receiver) Stats() ReceiverStats {
	return ReceiverStats{Arrived: r.arrived.Load(), Failed: r.failed.Load(), Recovered: r.recovered.Load()}
}

// journalPatience is how long a session waits for the journal: the one before it
// may still be ending.
const journalPatience = 5 * time.Second

// openJournal opens a sandbox's journal as soon as it is free.
func openJournal(ctx context.Context, dir, id string) (*journal.Journal, error) {
	return openJournalWithin(ctx, dir, id, journalPatience)
}

func openJournalWithin(ctx context.Context, dir, id string, patience time.Duration) (*journal.Journal, error) {
	const interval = 20 * time.Millisecond
	for deadline := time.Now().Add(patience); ; {
		j, err := journal.Open(dir, id)
		if !errors.Is(err, journal.ErrLocked) || time.Now().After(deadline) {
			return j, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(interval):
		}
	}
}

// Handle serves one control connection. It is an agent.Handler.
func (r *Receiver) Handle(ctx context.Context, s *agent.Session) {
	ctx, leave := r.enter(ctx, s)
	defer leave()
	log := r.Logger.With("attempt", s.Attempt().String(), "peer", s.Peer.Name)
	t := &target{receiver: r, session: s, log: log}
	err := t.run(ctx)
	t.close()
	if t.arrival != nil && t.arrival.Copy() != journal.Absent {
		if !t.rejoined {
			r.arrived.Add(1)
		}
	} else if err != nil {
		r.failed.Add(1)
	}
	if err != nil {
		log.Warn("migration ended", "sandbox", t.id, "error", err)
	}
}

// handoverPeer is who a session's sandbox comes from.
func handoverPeer(s *agent.Session) handover.Peer {
	return handover.Peer{Name: s.Peer.Name, Fingerprint: s.Peer.Key.Fingerprint(), Address: s.Conn.RemoteAddr().String()}
}

// cameBy names an attempt in the record of the sandbox that it brought.
func cameBy(id attempt.ID, peer string) string { return fmt.Sprintf("migration %v from %s", id, peer) }

// survivorOf returns what is left of an attempt's sandbox on this host.
func (r *Receiver) survivorOf(sandboxID string, id attempt.ID) survivor {
	sb, err := r.Root.Open(sandboxID)
	if err != nil || !strings.HasPrefix(sb.RestoredFrom, cameBy(id, "")) {
		return survivor{}
	}
	return survivor{sb}
}

// settleEnded notes that a sandbox that arrived here earlier has ended, so that
// another of its name may come.
func (r *Receiver) settleEnded(j *journal.Journal) error {
	last, ok := j.History().Current()
	if !ok || last.Role != journal.Target || last.State != journal.Complete {
		return nil
	}
	if r.survivorOf(j.Sandbox(), last.Attempt).Copy() == journal.Running {
		return nil
	}
	last.State, last.Time, last.Note = journal.Ended, time.Now(), ""
	return j.Append(last)
}

// refuse ends an attempt with a reason that the peer sees.
func refuse(s *agent.Session, code string, err error) error {
	s.Control.Send(&wire.Refuse{Code: code, Message: firstBytes(err.Error(), wire.MaxTextBytes)})
	return fmt.Errorf("%s: %w", code, err)
}
