package restoreenv

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Errors of a Supply.
var (
	// ErrNotSupplied says that a device was asked for that nothing is there for,
	// or not any more.
	ErrNotSupplied = errors.New("no resource for device")
	// ErrNotConsumed says that resources are left that no device asked for.
	ErrNotConsumed = errors.New("resources left over")
	// ErrSuppliedTwice says that a device has a resource already.
	ErrSuppliedTwice = errors.New("second resource for device")
)

// Supply hands out one resource, such as a descriptor, for each device of each
// container, once. The zero value is empty. It owns nothing: who takes a
// resource owns it, and who filled the supply those that are left.
type Supply[R any] struct {
	left map[supplyKey]R
}

type supplyKey struct{ container, device string }

func (k supplyKey) String() string { return fmt.Sprintf("%q of container %q", k.device, k.container) }

// Add puts in the resource of one device.
func (s *Supply[R]) Add(container, device string, resource R) error {
	key := supplyKey{container, device}
	if _, taken := s.left[key]; taken {
		return fmt.Errorf("%w %s", ErrSuppliedTwice, key)
	}
	if s.left == nil {
		s.left = make(map[supplyKey]R)
	}
	s.left[key] = resource
	return nil
}

// Take hands out the resource of one device.
func (s *Supply[R]) Take(container, device string) (R, error) {
	key := supplyKey{container, device}
	resource, ok := s.left[key]
	if !ok {
		return resource, fmt.Errorf("%w %s", ErrNotSupplied, key)
	}
	delete(s.left, key)
	return resource, nil
}

// Consumed returns an error that names every resource that nobody took.
func (s *Supply[R]) Consumed() error {
	if len(s.left) == 0 {
		return nil
	}
	keys := make([]supplyKey, 0, len(s.left))
	for key := range s.left {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b supplyKey) int {
		return cmp.Or(cmp.Compare(a.container, b.container), cmp.Compare(a.device, b.device))
	})
	names := make([]string, len(keys))
	for i, key := range keys {
		names[i] = key.String()
	}
	return fmt.Errorf("%w: %s", ErrNotConsumed, strings.Join(names, ", "))
}
