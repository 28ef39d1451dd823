package wire

import (
	"errors"
	"reflect"
	"testing"
)

func TestPacketIsReadAsItWasWritten(t *testing.T) {
	for _, p := range []Packet{
		{Data: []byte{1}},
		{Outbound: true, ChecksumValid: true, NeedsChecksum: true, SegmentationType: 2, ChecksumOffset: 16, HeaderBytes: 66,
			NetworkBytes: 20, MSSBytes: 1448, MaxBytes: 65536, Data: make([]byte, MaxPacketBytes)},
	} {
		got, err := ParsePacket(AppendPacket(nil, p))
		if err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%+v was read as %+v: %v", p, got, err)
		}
	}
}

func TestPacketRefuses(t *testing.T) {
	good := AppendPacket(nil, Packet{Data: []byte{1}})
	for name, c := range map[string]struct {
		payload []byte
		want    error
	}{
		"empty":    {nil, ErrLength},
		"no data":  {good[:packetHeaderBytes], ErrLength},
		"too long": {make([]byte, packetHeaderBytes+MaxPacketBytes+1), ErrLength},
		"flags":    {append([]byte{8}, good[1:]...), ErrPayload},
	} {
		if _, err := ParsePacket(c.payload); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func FuzzParsePacket(f *testing.F) {
	f.Add(AppendPacket(nil, Packet{Outbound: true, Data: []byte("x")}))
	f.Fuzz(func(t *testing.T, payload []byte) {
		p, err := ParsePacket(payload)
		if err != nil {
			return
		}
		if again := AppendPacket(nil, p); string(again) != string(payload) {
			t.Errorf("%x was read and written as %x", payload, again)
		}
	})
}
