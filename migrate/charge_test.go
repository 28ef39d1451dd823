package migrate

import (
	"errors"
	"slices"
	"testing"

	"github.com/sbxmigrate/sbxmigrate/checkpoint/inside"
	"github.com/sbxmigrate/sbxmigrate/image"
	"github.com/sbxmigrate/sbxmigrate/migrate/wire"
)

func TestCharger(t *testing.T) {
	var got []image.Run
	var failure error
	c := newCharger(true, func(runs []image.Run) error {
		if len(runs) > inside.MaxChargeRanges {
			t.Errorf("%d ranges at once", len(runs))
		}
		got = append(got, runs...)
		return failure
	})
	place := func(records ...wire.PageRecord) []image.Run {
		t.Helper()
		got = nil
		if err := c.place(records); !errors.Is(err, failure) {
			t.Fatal(err)
		}
		return got
	}
	data := func(page, count uint64) wire.PageRecord {
		return wire.PageRecord{Kind: wire.RecordData, Page: page, Count: count}
	}
	want := func(got []image.Run, want ...image.Run) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Errorf("allocated %v, want %v", got, want)
		}
	}
	want(place(data(10, 5), data(15, 1), wire.PageRecord{Kind: wire.RecordZero, Page: 16, Count: 4}, data(30, 2)), image.Run{First: 10, Count: 6}, image.Run{First: 30, Count: 2})
	want(place(data(10, 6), data(30, 1))) // again: it has memory
	want(place(data(8, 10)), image.Run{First: 8, Count: 2}, image.Run{First: 16, Count: 2})
	c.punched(12, 14)
	want(place(data(10, 6)), image.Run{First: 12, Count: 2})
	var many []wire.PageRecord
	for page := uint64(1000); page < 1000+4*inside.MaxChargeRanges; page += 2 {
		many = append(many, data(page, 1))
	}
	if n := len(place(many...)); n != 2*inside.MaxChargeRanges {
		t.Errorf("%d ranges, want %d", n, 2*inside.MaxChargeRanges)
	}
	failure = errors.New("no memory")
	place(data(5000, 1))
	failure = nil
	want(place(data(5000, 1)), image.Run{First: 5000, Count: 1}) // it did not get any before

	none := newCharger(false, nil)
	if err := none.place(many); err != nil {
		t.Error(err)
	}
	none.punched(0, 10)
}
