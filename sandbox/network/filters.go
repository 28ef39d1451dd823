package network

import (
	"bytes"
	"context"
	"fmt"
	"reflect"
	"slices"

	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// maxFilterBytes bounds exported filter tables.
const maxFilterBytes = 4 << 20

// ExportFilters returns the guest's packet filter tables, or nil if the guest
// never changed them. The kernel's own state does not hold them. The encoding is
// gVisor's: only the same build reads it, as is true of the kernel's state.
func ExportFilters(s *stack.Stack) ([]byte, error) {
	tables := s.IPTables()
	if !tables.Modified() {
		return nil, nil
	}
	list := make([]stack.Table, 0, 2*stack.NumTables)
	for _, ipv6 := range []bool{false, true} {
		for id := range stack.NumTables {
			table, err := savedTable(tables.GetTable(stack.TableID(id), ipv6))
			if err != nil {
				return nil, fmt.Errorf("export filter tables: %w", err)
			}
			list = append(list, table)
		}
	}
	var buf bytes.Buffer
	if _, err := state.Save(context.Background(), &buf, &list); err != nil {
		return nil, fmt.Errorf("export filter tables: %w", err)
	}
	if buf.Len() > maxFilterBytes {
		return nil, fmt.Errorf("export filter tables: %d bytes, at most %d", buf.Len(), maxFilterBytes)
	}
	return buf.Bytes(), nil
}

// ApplyFilters gives a stack the tables of ExportFilters; nil changes nothing. It
// must be called before a packet passes.
func ApplyFilters(s *stack.Stack, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	if len(data) > maxFilterBytes {
		return fmt.Errorf("apply filter tables: %d bytes, at most %d", len(data), maxFilterBytes)
	}
	var list []stack.Table
	if _, err := state.Load(context.Background(), bytes.NewReader(data), &list); err != nil {
		return fmt.Errorf("apply filter tables: %w", err)
	}
	if len(list) != 2*int(stack.NumTables) {
		return fmt.Errorf("apply filter tables: %d tables, want %d", len(list), 2*int(stack.NumTables))
	}
	for i, table := range list {
		if err := reviveMatchers(table); err != nil {
			return fmt.Errorf("apply filter tables: %w", err)
		}
		s.IPTables().ForceReplaceTable(stack.TableID(i%int(stack.NumTables)), table, i >= int(stack.NumTables))
	}
	return nil
}

// savedTable returns a copy of a table that can be encoded. A rule that cannot is
// named: REJECT refers to the whole stack, and some matchers to what is elsewhere.
func savedTable(t stack.Table) (stack.Table, error) {
	t.Rules = slices.Clone(t.Rules)
	for i := range t.Rules {
		rule := &t.Rules[i]
		target := reflect.TypeOf(rule.Target)
		if target != nil && target.Kind() == reflect.Pointer && !isPlain(target.Elem()) {
			return t, fmt.Errorf("rule %d: target %T cannot be saved", i, rule.Target)
		}
		rule.Matchers = slices.Clone(rule.Matchers)
		for j, m := range rule.Matchers {
			var err error
			if rule.Matchers[j], err = saveMatcher(m); err != nil {
				return t, fmt.Errorf("rule %d: %w", i, err)
			}
		}
	}
	return t, nil
}

// reviveMatchers puts live matchers into a table that was loaded.
func reviveMatchers(t stack.Table) error {
	for i := range t.Rules {
		matchers := t.Rules[i].Matchers
		for j, m := range matchers {
			saved, ok := m.(*savedMatcher)
			if !ok {
				return fmt.Errorf("rule %d: matcher %T was never saved", i, m)
			}
			live, err := saved.live()
			if err != nil {
				return fmt.Errorf("rule %d: %w", i, err)
			}
			matchers[j] = live
		}
	}
	return nil
}
