package sandbox

import (
	"context"
	"fmt"
	"path/filepath"
)

// MigratedAnnotation is the annotation by which State says where a sandbox that
// migrated lives now.
const MigratedAnnotation = "org.sbxmigrate.migrated-to"

// MarkMigrated notes that the sandbox lives on another host from now on, before
// its processes here are ended. Deleting it then leaves alone what belongs to the
// address that went with it: the host's own addresses are not given back, and
// poststop hooks do not run.
func (s *Sandbox) MarkMigrated(to string) error {
	unlock, err := s.lock(context.Background()) // a move that is over is noted whoever has gone
	if err != nil {
		return err
	}
	defer unlock()
	s.MigratedTo = to
	return s.save()
}

// migratedError says where the sandbox is, as an ErrMigrated, if it migrated.
// The record may have changed since the sandbox was opened.
func (s *Sandbox) migratedError() error {
	var now Record
	if err := readJSON(filepath.Join(s.dir, recordName), &now); err != nil || now.MigratedTo == "" {
		return nil
	}
	s.MigratedTo = now.MigratedTo
	return fmt.Errorf("sandbox %q: %w: %s", s.ID, ErrMigrated, now.MigratedTo)
}
