package migrate

import (
	"errors"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

// A source that has left pages behind does not wait for a target that cannot ask for them any more.
func TestSourceNoticesThatPagesCannotBeAskedFor(t *testing.T) {
	failed := make(chan struct{})
	close(failed)
	s := &source{link: &link{messages: make(chan wire.Message)}, pages: &pageService{server: &server{failed: failed}}}
	if err := s.awaitPrepared(t.Context(), wire.Totals{}); !errors.Is(err, errPagesLost) {
		t.Fatal(err)
	}
}

// What the target says about that goes first.
func TestSourceHearsARefusalAfterItsConnections(t *testing.T) {
	failed := make(chan struct{})
	close(failed)
	messages := make(chan wire.Message, 1)
	messages <- &wire.Refuse{Code: codeLoad, Message: "no"}
	s := &source{link: &link{messages: messages}, pages: &pageService{server: &server{failed: failed}}}
	var refused *RefusedError
	if err := s.awaitPrepared(t.Context(), wire.Totals{}); !errors.As(err, &refused) {
		t.Fatal(err)
	}
}
