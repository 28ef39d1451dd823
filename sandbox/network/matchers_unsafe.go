package network

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"unsafe"

	"gvisor.dev/gvisor/pkg/sentry/socket/netfilter"
	"gvisor.dev/gvisor/pkg/state"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

// matcherTypes are the matchers of filter rules that can be saved: plain numbers
// without a reference. Netstack's state does not know them, so their bytes travel.
var matcherTypes = map[string]reflect.Type{
	"tcp":   reflect.TypeFor[netfilter.TCPMatcher](),
	"udp":   reflect.TypeFor[netfilter.UDPMatcher](),
	"mark":  reflect.TypeFor[netfilter.MarkMatcher](),
	"owner": reflect.TypeFor[netfilter.OwnerMatcher](),
}

// savedMatcher stands for a matcher in a table that is being saved.
type savedMatcher struct {
	name   string
	fields []byte
}

// Match implements stack.Matcher. A saved matcher is never part of a live table.
func (*savedMatcher) Match(stack.Hook, *stack.PacketBuffer, string, string) (matches, hotdrop bool) {
	return false, true
}

const matcherStateName = "sbxmigrate/sandbox/network.savedMatcher"

func init() { state.Register((*savedMatcher)(nil)) }

// StateTypeName implements state.Type.
func (*savedMatcher) StateTypeName() string { return matcherStateName }

// StateFields implements state.Type.
func (*savedMatcher) StateFields() []string { return []string{"name", "fields"} }

// StateSave implements state.SaverLoader.
func (m *savedMatcher) StateSave(sink state.Sink) {
	sink.Save(0, &m.name)
	sink.Save(1, &m.fields)
}

// StateLoad implements state.SaverLoader.
func (m *savedMatcher) StateLoad(_ context.Context, source state.Source) {
	source.Load(0, &m.name)
	source.Load(1, &m.fields)
}

// saveMatcher returns what stands for a live matcher.
func saveMatcher(m stack.Matcher) (stack.Matcher, error) {
	v := reflect.ValueOf(m)
	for name, typ := range matcherTypes {
		if v.Kind() == reflect.Pointer && v.Type().Elem() == typ {
			return &savedMatcher{name, slices.Clone(structBytes(v))}, nil
		}
	}
	return nil, fmt.Errorf("matcher %T cannot be saved", m)
}

// live returns the matcher that it stands for.
func (m *savedMatcher) live() (stack.Matcher, error) {
	typ, ok := matcherTypes[m.name]
	if !ok || uintptr(len(m.fields)) != typ.Size() {
		return nil, fmt.Errorf("matcher %q with %d bytes is not known", m.name, len(m.fields))
	}
	v := reflect.New(typ)
	copy(structBytes(v), m.fields)
	return v.Interface().(stack.Matcher), nil
}

// structBytes is the memory of the struct that v points to.
func structBytes(v reflect.Value) []byte {
	return unsafe.Slice((*byte)(v.UnsafePointer()), v.Type().Elem().Size())
}

// isPlain says whether a type is without a reference to anything else but strings.
func isPlain(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Interface, reflect.Pointer, reflect.Map, reflect.Chan, reflect.Func, reflect.Slice, reflect.UnsafePointer:
		return false
	case reflect.Array:
		return isPlain(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			if !isPlain(t.Field(i).Type) {
				return false
			}
		}
	}
	return true
}
