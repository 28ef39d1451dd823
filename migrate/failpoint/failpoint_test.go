package failpoint

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestHereWaitsWhereItIsArmed(t *testing.T) {
	directory = t.TempDir()
	defer func() { directory = "" }()
	armed := filepath.Join(directory, SourceBegun)
	if err := os.WriteFile(armed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Here(TargetOwner) // not armed: returns
	done := make(chan struct{})
	go func() {
		Here(SourceBegun)
		close(done)
	}()
	for {
		if _, err := os.Stat(armed + ".reached"); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	select {
	case <-done:
		t.Fatal("it did not wait")
	default:
	}
	if err := os.Remove(armed + ".reached"); err != nil {
		t.Fatal(err)
	}
	<-done
	Here(SourceBegun) // once only
}

func TestDelayIsTakenOnce(t *testing.T) {
	directory = t.TempDir()
	defer func() { directory = "" }()
	Delay(JournalSync) // not armed: returns
	armed := filepath.Join(directory, JournalSync)
	const delay = 20 * time.Millisecond
	if err := os.WriteFile(armed, []byte(delay.String()+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	Delay(JournalSync)
	if took := time.Since(began); took < delay {
		t.Errorf("it took %v, want at least %v", took, delay)
	}
	if _, err := os.Stat(armed + ".reached"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(armed); err == nil {
		t.Error("it would slow again")
	}
}
