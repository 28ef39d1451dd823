package wire

import (
	"encoding/json"
	"strings"
	"unicode/utf8"

	"github.com/sbxmigrate/sbxmigrate/migrate/attempt"
)

// Side is an end of a migration.
type Side uint8

// The sides.
const (
	Source Side = 1
	Target Side = 2
)

// String returns "source" or "target".
func (s Side) String() string {
	if s == Source {
		return "source"
	}
	return "target"
}

// Message is the body of a control message: one of the pointer types below. Their fields' bounds are checked on
// both sides, when a message is sent and when it is received.
type Message interface {
	// check returns an ErrLength or ErrPayload where a field is out of bounds.
	check() error
}

// messageType describes a type of control message.
type messageType struct {
	from Side
	new  func() Message
}

// messageTypes is every control message by the name that it has on the wire.
var messageTypes = map[string]messageType{
	"hello":     {Source, func() Message { return new(Hello) }},
	"bundle":    {Source, func() Message { return new(Bundle) }},
	"plan":      {Source, func() Message { return new(Plan) }},
	"round":     {Source, func() Message { return new(Round) }},
	"freeze":    {Source, func() Message { return new(Freeze) }},
	"handover":  {Source, func() Message { return new(Handover) }},
	"commit":    {Source, func() Message { return new(Commit) }},
	"query":     {Source, func() Message { return new(Query) }},
	"abort":     {Source, func() Message { return new(Abort) }},
	"destroyed": {Source, func() Message { return new(Destroyed) }},

	"welcome":   {Target, func() Message { return new(Welcome) }},
	"findings":  {Target, func() Message { return new(Findings) }},
	"placed":    {Target, func() Message { return new(Placed) }},
	"announced": {Target, func() Message { return new(Announced) }},
	"prepared":  {Target, func() Message { return new(Prepared) }},
	"standing":  {Target, func() Message { return new(Standing) }},
	"refuse":    {Target, func() Message { return new(Refuse) }},
}

// Build says what a side is made of. Kernel state is understood by the same build only, so this is compared before
// anything else.
type Build struct {
	Version      string `json:"version"`      // of this program
	GVisor       string `json:"gvisor"`       // module version
	Architecture string `json:"architecture"` // GOARCH
}

func (b Build) check() error { return checkTexts(b.Version, b.GVisor, b.Architecture) }

// Hello opens an attempt.
type Hello struct {
	Build           Build         `json:"build"`
	Sandbox         string        `json:"sandbox"` // its id
	Epoch           attempt.Epoch `json:"epoch"`   // that the target will own it at
	Mode            string        `json:"mode"`    // precopy, postcopy, hybrid or stop
	DataConnections uint16        `json:"dataConnections"`
}

func (m *Hello) check() error {
	if m.Epoch == 0 || m.Sandbox == "" {
		return failf(CodePayload, "hello has no sandbox or no epoch")
	}
	if m.DataConnections == 0 || m.DataConnections > MaxDataConnections {
		return failf(CodeLength, "hello asks for %d data connections (1 to %d)", m.DataConnections, MaxDataConnections)
	}
	switch m.Mode {
	case "precopy", "postcopy", "hybrid", "stop":
	default:
		return failf(CodePayload, "hello asks for unknown mode %q", abbreviate(m.Mode))
	}
	return firstError(m.Build.check(), checkTexts(m.Sandbox))
}

// Welcome answers Hello: the target knows the build and takes the attempt.
type Welcome struct {
	Build Build `json:"build"`
}

func (m *Welcome) check() error { return m.Build.check() }

// Bundle says, before the plan, that the source would send the sandbox's bundle along. Findings answer it: without a
// fatal one the source opens the data connections and sends it, in TypeBundle frames on the first of them.
type Bundle struct {
	Entries uint64 `json:"entries"` // files and directories
	Bytes   uint64 `json:"bytes"`   // of the files' content
}

func (m *Bundle) check() error {
	if m.Entries == 0 {
		return failf(CodePayload, "bundle has no entries")
	}
	return nil
}

// MemoryFile is a memory file of the sandbox.
type MemoryFile struct {
	Stream uint16 `json:"stream"`
	Pages  uint64 `json:"pages"` // its size; it may grow until the stop
}

// Plan says what would move. The JSON documents are opaque here: they are what an image's config would hold.
type Plan struct {
	Manifest    json.RawMessage `json:"manifest"`    // build, CPU facts, specs, mounts
	Environment json.RawMessage `json:"environment"` // the saved RestoreEnvironment
	Network     json.RawMessage `json:"network"`     // the network identity
	Files       []MemoryFile    `json:"files"`
}

func (m *Plan) check() error {
	if len(m.Files) == 0 || len(m.Files) > MaxStreams {
		return failf(CodeLength, "plan has %d memory files (1 to %d)", len(m.Files), MaxStreams)
	}
	for i, f := range m.Files {
		if f.Stream >= MaxStreams || f.Pages > MaxFilePages || i > 0 && f.Stream <= m.Files[i-1].Stream {
			return failf(CodeLength, "plan has memory file %d with %d pages (streams ascend below %d, at most %d pages)",
				f.Stream, f.Pages, MaxStreams, uint64(MaxFilePages))
		}
	}
	return nil
}

// Finding is a reason why a sandbox cannot or should not move to this target.
type Finding struct {
	Code    string `json:"code"` // stable
	Subject string `json:"subject"`
	Message string `json:"message"`
	Fatal   bool   `json:"fatal"`
}

// Fate is what becomes of a connection on the target.
type Fate struct {
	Connection string `json:"connection"`
	Kept       bool   `json:"kept"`
	Reason     string `json:"reason"`
}

// Findings answers Plan with everything that was found, at once. Without a fatal finding the standby is starting.
type Findings struct {
	Findings []Finding `json:"findings"`
	// Connections are those of the plan, where not all are kept; otherwise none.
	Connections []Fate `json:"connections"`
}

func (m *Findings) check() error {
	if len(m.Findings) > MaxFindings {
		return failf(CodeLength, "%d findings (at most %d)", len(m.Findings), MaxFindings)
	}
	for _, f := range m.Findings {
		if err := checkTexts(f.Code, f.Subject, f.Message); err != nil {
			return err
		}
	}
	if len(m.Connections) > MaxFates {
		return failf(CodeLength, "%d connections (at most %d)", len(m.Connections), MaxFates)
	}
	for _, f := range m.Connections {
		if err := checkTexts(f.Connection, f.Reason); err != nil {
			return err
		}
	}
	return nil
}

// Round says that a round of pre-copy has been sent, up to a barrier of the same number.
type Round struct {
	Number uint64       `json:"number"`
	Files  []MemoryFile `json:"files"` // their sizes by now
}

func (m *Round) check() error { return (&Plan{Files: m.Files}).check() }

// Placed says that everything before a barrier is in its place.
type Placed struct {
	Barrier uint64 `json:"barrier"`
}

func (m *Placed) check() error { return nil }

// Freeze says that the source's tasks are paused and its gate is shut: the target announces itself and queues what
// arrives.
type Freeze struct{}

func (m *Freeze) check() error { return nil }

// Announced answers Freeze: frames that still reach the source are to be handed over.
type Announced struct{}

func (m *Announced) check() error { return nil }

// Totals are what both sides must agree on before a commit.
type Totals struct {
	StateBytes     uint64 `json:"stateBytes"`
	StateDigest    string `json:"stateDigest"`
	MetaBytes      uint64 `json:"metaBytes"`
	MetaDigest     string `json:"metaDigest"`
	CommittedPages uint64 `json:"committedPages"`
	MissingPages   uint64 `json:"missingPages"` // not sent yet: post-copy only
	PagesDigest    string `json:"pagesDigest"`  // PageSum over the committed pages that are not missing
}

func (t Totals) check() error {
	for _, d := range []string{t.StateDigest, t.MetaDigest, t.PagesDigest} {
		if len(d) != 2*DigestBytes || strings.Trim(d, "0123456789abcdef") != "" {
			return failf(CodePayload, "malformed digest %q", abbreviate(d))
		}
	}
	if t.CommittedPages > MaxFilePages || t.MissingPages > t.CommittedPages {
		return failf(CodeLength, "%d pages missing of %d committed", t.MissingPages, t.CommittedPages)
	}
	return nil
}

// Terminal is a terminal of the saved kernel.
type Terminal struct {
	Session string          `json:"session"` // the kernel's name for the streams that it is among
	State   json.RawMessage `json:"state"`   // its modes and window size, opaque here
}

// Handover says that everything that the target needs to start has been sent.
type Handover struct {
	Totals Totals        `json:"totals"`
	Epoch  attempt.Epoch `json:"epoch"`
	// Terminals are those that the saved kernel still has, as they are now.
	Terminals []Terminal `json:"terminals"`
	// Connections are those that end with the move, with the numbers that they stopped at, opaque here; null for none.
	Connections json.RawMessage `json:"connections"`
}

func (m *Handover) check() error {
	if len(m.Terminals) > MaxTerminals {
		return failf(CodeLength, "%d terminals (at most %d)", len(m.Terminals), MaxTerminals)
	}
	for _, t := range m.Terminals {
		if err := checkTexts(t.Session); err != nil {
			return err
		}
	}
	return firstError(m.Totals.check(), checkEpoch(m.Epoch))
}

// Prepared answers Handover: loaded, verified, and only a commit away from running.
type Prepared struct {
	Totals          Totals `json:"totals"`
	LoadNanoseconds int64  `json:"loadNanoseconds"` // of the phase load, on the target's clock
}

func (m *Prepared) check() error {
	return firstError(m.Totals.check(), checkNanoseconds(m.LoadNanoseconds))
}

// Commit hands the sandbox over. It is sent only after the source's journal durably says so.
type Commit struct {
	Epoch attempt.Epoch `json:"epoch"`
}

func (m *Commit) check() error { return checkEpoch(m.Epoch) }

// Query asks how the attempt stands.
type Query struct {
	Epoch attempt.Epoch `json:"epoch"`
}

func (m *Query) check() error { return checkEpoch(m.Epoch) }

// Standing answers Commit and Query, and is sent again when it changes.
type Standing struct {
	Standing         attempt.Standing `json:"standing"`
	Epoch            attempt.Epoch    `json:"epoch"`
	PagesMissing     uint64           `json:"pagesMissing"`
	StartNanoseconds int64            `json:"startNanoseconds"` // from the commit's arrival until tasks ran; 0 before
}

func (m *Standing) check() error {
	if !m.Standing.Answerable() {
		return failf(CodePayload, "unknown standing %q", abbreviate(string(m.Standing)))
	}
	return firstError(checkEpoch(m.Epoch), checkNanoseconds(m.StartNanoseconds))
}

// Abort ends an attempt before its commit.
type Abort struct {
	Reason string `json:"reason"`
}

func (m *Abort) check() error { return checkTexts(m.Reason) }

// Destroyed says that the source's copy is gone, after Complete.
type Destroyed struct{}

func (m *Destroyed) check() error { return nil }

// Refuse ends an attempt that the target does not go on with, before its commit.
type Refuse struct {
	Code    string `json:"code"` // stable
	Message string `json:"message"`
}

func (m *Refuse) check() error { return checkTexts(m.Code, m.Message) }

func checkTexts(texts ...string) error {
	for _, t := range texts {
		if len(t) > MaxTextBytes {
			return failf(CodeLength, "text of %d bytes (at most %d)", len(t), MaxTextBytes)
		}
		if !utf8.ValidString(t) {
			return failf(CodePayload, "text is not UTF-8")
		}
	}
	return nil
}

func checkEpoch(e attempt.Epoch) error {
	if e == 0 {
		return failf(CodePayload, "message has no epoch")
	}
	return nil
}

func checkNanoseconds(n int64) error {
	if n < 0 {
		return failf(CodePayload, "negative time")
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// abbreviate keeps what a peer sent from filling a log.
func abbreviate(s string) string {
	const most = 40
	if len(s) > most {
		return s[:most] + "…"
	}
	return s
}
