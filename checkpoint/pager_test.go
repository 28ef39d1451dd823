package checkpoint

import (
	"errors"
	"io"
	"testing"
)

// A kernel that ends with an answer unread has ended, as any other.
func TestPagerOfAKernelThatEnds(t *testing.T) {
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	p := &Pager{socket: ours, memory: theirs}
	defer p.Close()
	if err := p.Answer(1); err != nil {
		t.Fatal(err)
	}
	theirs.Close()
	if _, err := p.Next(); !errors.Is(err, io.EOF) {
		t.Errorf("the end of a kernel that has not read an answer is %v, want EOF", err)
	}
}
