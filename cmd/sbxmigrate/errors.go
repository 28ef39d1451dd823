package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sbxmigrate/sbxmigrate/checkpoint"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate"
	"github.com/sbxmigrate/sbxmigrate/migrate/hostkey"
	"github.com/sbxmigrate/sbxmigrate/migrate/journal"
	"github.com/sbxmigrate/sbxmigrate/sandbox"
	"github.com/sbxmigrate/sbxmigrate/sandbox/control"
)

// Errors that only the command line knows.
var (
	errUsage       = errors.New("wrong usage")
	errInterrupted = errors.New("interrupted")
	errUnfit       = errors.New("this host lacks what sandboxes need")
)

// usageError says what is wrong with the command line.
func usageError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", errUsage, fmt.Sprintf(format, args...))
}

// exitStatus is the status of a process inside, on its way to becoming ours.
// It is not a failure of ours, and nothing is printed.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// ownFailure is the exit status of run, exec and wait where sbxmigrate itself
// failed: those three exit with the status of a process inside otherwise.
const ownFailure = 255

// An errorClass is how one kind of error is shown.
type errorClass struct {
	is      func(error) bool
	code    string // stable: never reused, whatever the message says
	status  int    // exit status
	meaning string
	hint    string // what to do next; empty where the message says it
}

// errorClasses is the switch from errors to codes and exit statuses: the first
// class that matches counts. docs/errors.md shows the same table.
func errorClasses() []errorClass {
	return []errorClass{
		{is(errUsage), "E_USAGE", 2, "the command line cannot be understood", "see --help"},
		{is(errInterrupted), "E_INTERRUPTED", 130, "a signal ended the command; it cleaned up", ""},
		{is(sandbox.ErrBadID), "E_ID", 2, "the ID cannot name a sandbox", ""},
		{is(sandbox.ErrNotFound), "E_NOT_FOUND", 3, "no sandbox has this ID here", "see the list command; another --root has other sandboxes"},
		{is(sandbox.ErrExists), "E_EXISTS", 4, "the ID is taken", ""},
		{is(sandbox.ErrState), "E_STATE", 5, "the sandbox is in another state than the command needs", ""},
		{is(control.ErrTimeout), "E_TIMEOUT", 8, "the sandbox is there and did not answer in time", "its kernel may be stuck; kill ID KILL and delete --force work even then"},
		{is(control.ErrUnreachable), "E_UNREACHABLE", 8, "the sandbox process does not answer, or is gone", "see its log: sbxmigrate logs ID"},
		{is(sandbox.ErrBundle), "E_BUNDLE", 6, "the bundle cannot be run as it is", ""},
		{is(sandbox.ErrBoot), "E_BOOT", 7, "the sandbox process did not come up", "see what this host lacks: sbxmigrate doctor"},
		{isRemote, "E_INSIDE", 9, "the sandbox's kernel refused the request", ""},
		{is(checkpoint.ErrRefused), "E_REFUSED", 12, "the saved sandbox does not fit this host", "the findings say what to change; plan shows them without restoring"},
		{is(checkpoint.ErrUnsavable), "E_UNSAVABLE", 13, "the sandbox has something now that cannot be saved", "it goes on as before"},
		{isImage(image.CodeDiskFull), "E_DISK_FULL", 14, "no space is left where the image goes", "free space or choose another directory; nothing of the image was kept, and the sandbox goes on"},
		{isImage(image.CodeDamaged, image.CodeMissingBlob, image.CodeIncomplete, image.CodeNoPage), "E_IMAGE_DAMAGED", 15, "the image's bytes are not those that were written", "take it from another copy, or checkpoint again"},
		{isImage(image.CodeNotStore, image.CodeNotFound, image.CodeReference, image.CodeNotCheckpoint), "E_IMAGE", 16, "no such image", ""},
		{isImage(image.CodeSchema, image.CodeBuild, image.CodeArch, image.CodeCPU), "E_IMAGE_FOREIGN", 17, "the image was written for another build, format or CPU", "restore with the build that saved it"},
		{isImage(), "E_IMAGE_IO", 18, "the image could not be read or written", ""},
		{is(checkpoint.ErrSandbox), "E_SANDBOX", 19, "the sandbox process broke the protocol or went away", "see its log: sbxmigrate logs ID"},
		{is(migrate.ErrUnresolved), "E_UNRESOLVED", 20, "the sandbox was handed over, and it is not known how that ended; it stays paused here", "this host's agent goes on with it: keep sbxmigrate agent running on both"},
		{is(migrate.ErrRefused), "E_TARGET_REFUSED", 21, "the target does not take the sandbox, which runs on here", ""},
		{is(migrate.ErrNotConverged), "E_NOT_CONVERGED", 22, "memory changes faster than it can be sent; the sandbox runs on here", "allow a longer --max-downtime, --throttle, or --on-timeout stop"},
		{isMigrating, "E_MIGRATING", 23, "another command or the agent is migrating this sandbox", "this host's agent ends an attempt whose command is gone"},
		{is(migrate.ErrArriving), "E_ARRIVING", 30, "the sandbox came by a migration that is not complete: memory of it is still on the other host", "wait until that migration is complete; see the migrations command"},
		{is(migrate.ErrTooLate), "E_TOO_LATE", 26, "the sandbox is handed over; it cannot be cancelled any more", "see the migrations command"},
		{is(migrate.ErrCancelled), "E_CANCELLED", 27, "somebody cancelled the migration; the sandbox runs on here", ""},
		{is(migrate.ErrNotMigrating), "E_NOT_MIGRATING", 28, "no command on this host migrates the sandbox", "see the migrations command"},
		{is(journal.ErrIllegal), "E_NOTHING_TO_RESOLVE", 29, "there is nothing to decide about this sandbox's migration", "see the migrations command"},
		{isKey, "E_KEY", 24, "this host's key, or trust in the other one's, is missing", "see the key command"},
		{is(sandbox.ErrMigrated), "E_MIGRATED", 25, "the sandbox lives on another host now", "delete removes what is left of it here"},
		{is(errUnfit), "E_HOST", 10, "doctor found something essential missing", ""},
		{is(fs.ErrPermission), "E_PERMISSION", 11, "the host forbids what the command needs", "run it as root"},
		{anyError, "E_FAILED", 1, "anything else; the message says what", ""},
	}
}

func is(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// isImage matches errors of package image with one of the codes, or with any.
func isImage(codes ...image.Code) func(error) bool {
	return func(err error) bool {
		var e *image.Error
		return errors.As(err, &e) && (len(codes) == 0 || slices.Contains(codes, e.Code))
	}
}

// isMigrating matches what a migration finds of another one.
func isMigrating(err error) bool {
	return errors.Is(err, journal.ErrLocked) || errors.Is(err, journal.ErrOpenAttempt)
}

// isKey matches errors of package hostkey that the operator puts right by keys.
func isKey(err error) bool {
	for _, target := range []error{
		hostkey.ErrNoKey, hostkey.ErrExists, hostkey.ErrExposed, hostkey.ErrMalformed, hostkey.ErrNameTaken, hostkey.ErrKeyTaken,
		hostkey.ErrOwnKey, hostkey.ErrNoPeer, hostkey.ErrUntrusted, hostkey.ErrRefusedByPeer,
	} {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

func isRemote(err error) bool {
	var remote *control.RemoteError
	return errors.As(err, &remote)
}

func anyError(error) bool { return true }

// classify finds err's class.
func classify(err error) errorClass {
	for _, class := range errorClasses() {
		if class.is(err) {
			return class
		}
	}
	panic("the last class matches every error")
}

// finish reports how a command ended and returns the status to exit with.
func (c *cli) finish(cmd *cobra.Command, err error) int {
	defer c.closeLog()
	var status exitStatus
	switch {
	case err == nil:
		return 0
	case errors.As(err, &status):
		return int(status)
	}
	class := classify(err)
	c.showError(err, class, asksJSON(cmd))
	if cmd.Annotations[annotationStatus] == passesStatus {
		return ownFailure
	}
	return class.status
}

func asksJSON(cmd *cobra.Command) bool {
	flag := cmd.Flags().Lookup("json")
	return flag != nil && flag.Value.String() == "true"
}

// Commands annotated so exit with the status of a process inside.
const (
	annotationStatus = "status"
	passesStatus     = "passes"
)

func passStatus() map[string]string { return map[string]string{annotationStatus: passesStatus} }

// exitStatusTemplate follows every command's help.
func exitStatusTemplate() string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nExit status:\n{{if eq (index .Annotations %q) %q}}", annotationStatus, passesStatus)
	fmt.Fprintf(&b, "    N  that of the process inside, 128+N after signal N\n  %3d  sbxmigrate itself failed\n", ownFailure)
	b.WriteString("{{else}}    0  done\n")
	classes := errorClasses()
	slices.SortStableFunc(classes, func(a, b errorClass) int { return cmp.Compare(a.status, b.status) })
	for _, class := range classes {
		fmt.Fprintf(&b, "  %3d  %s: %s\n", class.status, class.code, class.meaning)
	}
	b.WriteString("{{end}}")
	return b.String()
}
