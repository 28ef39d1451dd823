package attempt

import (
	"errors"
	"strings"
	"testing"
)

func TestParseReadsWhatStringWrites(t *testing.T) {
	id := New()
	got, err := Parse(id.String())
	if err != nil || got != id {
		t.Fatalf("Parse(%q) = %v, %v", id, got, err)
	}
	if other := New(); other == id {
		t.Fatal("two attempts have the same id")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "00", strings.Repeat("0", 32), strings.Repeat("A", 32), strings.Repeat("g", 32), strings.Repeat("a", 33),
	} {
		if _, err := Parse(text); !errors.Is(err, ErrID) {
			t.Errorf("Parse(%q): %v", text, err)
		}
	}
}

func TestZeroIDHasNoText(t *testing.T) {
	if _, err := (ID{}).MarshalText(); !errors.Is(err, ErrID) {
		t.Fatal(err)
	}
}
