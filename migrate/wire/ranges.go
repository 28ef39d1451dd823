package wire

import (
	"encoding/binary"
)

// Range is the pages [Page, Page+Count) of a memory file.
type Range struct {
	Page  uint64
	Count uint64
}

// End returns the page after the range.
func (r Range) End() uint64 { return r.Page + r.Count }

const rangeBytes = 16

// AppendRanges appends the payload of a TypePunch, TypeCommitted, TypeMissing or TypeRequest frame to b. It takes at
// most MaxFrameRanges ranges.
func AppendRanges(b []byte, ranges []Range) []byte {
	for _, r := range ranges {
		b = binary.LittleEndian.AppendUint64(b, r.Page)
		b = binary.LittleEndian.AppendUint64(b, r.Count)
	}
	return b
}

// ParseRanges appends the ranges of a TypePunch, TypeCommitted or TypeMissing payload to ranges. They must ascend
// and be apart, also from the last of those already in ranges, so a list keeps its order over all its frames.
func ParseRanges(ranges []Range, payload []byte, filePages uint64) ([]Range, error) {
	start := len(ranges)
	out, err := parseRanges(ranges, payload, filePages)
	if err != nil {
		return ranges, err
	}
	for i := max(start, 1); i < len(out); i++ {
		if out[i].Page < out[i-1].End() {
			return ranges, failf(CodePayload, "ranges do not ascend: page %d after page %d", out[i].Page, out[i-1].End())
		}
	}
	return out, nil
}

// ParseRequest appends the ranges of a TypeRequest payload to ranges, in the order of their urgency.
func ParseRequest(ranges []Range, payload []byte, filePages uint64) ([]Range, error) {
	return parseRanges(ranges, payload, filePages)
}

func parseRanges(ranges []Range, payload []byte, filePages uint64) ([]Range, error) {
	n := len(payload) / rangeBytes
	if len(payload)%rangeBytes != 0 || n > MaxFrameRanges {
		return ranges, failf(CodeLength, "%d bytes of ranges (at most %d ranges of %d bytes)", len(payload), MaxFrameRanges, rangeBytes)
	}
	start := len(ranges)
	for b := payload; len(b) > 0; b = b[rangeBytes:] {
		r := Range{Page: binary.LittleEndian.Uint64(b), Count: binary.LittleEndian.Uint64(b[8:])}
		if !inFile(r.Page, r.Count, min(filePages, MaxFilePages)) {
			return ranges[:start], failf(CodeLength, "range names %d pages at page %d of a file with %d", r.Count, r.Page, filePages)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}
