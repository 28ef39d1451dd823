package inside

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"golang.org/x/sys/unix"
)

func TestChargeFor(t *testing.T) {
	order := func(ranges ...[2]uint64) []byte {
		b := binary.LittleEndian.AppendUint32(nil, uint32(len(ranges)))
		for _, r := range ranges {
			b = binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(b, r[0]), r[1])
		}
		return b
	}
	var charged [][2]uint64
	var failure error
	charge := func(start, end uint64) error {
		charged = append(charged, [2]uint64{start, end})
		return failure
	}
	answer := func(input []byte, charge func(uint64, uint64) error) []byte {
		t.Helper()
		var out bytes.Buffer
		chargeFor(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(input), &out}, charge)
		return out.Bytes()
	}
	if got := answer(order([2]uint64{4096, 8192}, [2]uint64{12288, 16384}), charge); !bytes.Equal(got, []byte{'c', 0, 0, 0, 0}) || len(charged) != 2 {
		t.Errorf("answer %x, charged %v", got, charged)
	}
	failure = errors.Join(unix.ENOMEM)
	if got := answer(order([2]uint64{0, 4096}, [2]uint64{8192, 12288}), charge); !bytes.Equal(got, []byte{'c', byte(unix.ENOMEM), 0, 0, 0}) || len(charged) != 3 {
		t.Errorf("answer %x, charged %v", got, charged)
	}
	if got := answer(order([2]uint64{0, 4096}), nil); !bytes.Equal(got, []byte{'c', 0, 0, 0, 0}) {
		t.Errorf("answer where nothing is charged: %x", got)
	}
	for _, bad := range [][]byte{nil, {1, 0}, {1, 0, 0, 0, 7}, {0xff, 0xff, 0xff, 0xff}} {
		if got := answer(bad, charge); len(got) > 0 {
			t.Errorf("%x is answered with %x", bad, got)
		}
	}
}
