package network

import (
	"bytes"
	"context"
	"fmt"

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
			list = append(list, tables.GetTable(stack.TableID(id), ipv6))
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
		s.IPTables().ForceReplaceTable(stack.TableID(i%int(stack.NumTables)), table, i >= int(stack.NumTables))
	}
	return nil
}
