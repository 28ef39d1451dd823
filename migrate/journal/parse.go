package journal

import "bytes"

// parsed is the content of a journal's file.
type parsed struct {
	records []Record
	sum     uint32 // of the last good block
	torn    bool   // a tail was dropped
}

// parse reads a journal's file. It drops a torn tail and refuses everything else that is wrong.
func parse(path, sandbox string, b []byte) (parsed, error) {
	damaged := func(block int, reason string) error {
		return &CorruptError{Path: path, Block: block, Reason: reason}
	}
	if len(b) > maxFileBytes {
		return parsed{}, damaged(MaxRecords+1, "file is larger than any journal")
	}
	if len(b) < blockBytes {
		return parsed{}, damaged(0, "header is cut short") // published whole, by a rename
	}
	body, sum, reason := unseal(b[:blockBytes], 0)
	if reason != "" {
		return parsed{}, damaged(0, reason)
	}
	if string(body) != formatLine+sandbox {
		return parsed{}, damaged(0, "header names another format or sandbox")
	}
	out := parsed{sum: sum}
	for n := 1; n*blockBytes < len(b); n++ {
		block := b[n*blockBytes:]
		if torn(block) {
			out.torn = true
			return out, nil
		}
		block = block[:blockBytes]
		body, sum, reason := unseal(block, out.sum)
		if reason != "" {
			return parsed{}, damaged(n, reason)
		}
		record, err := decodeRecord(body)
		if err != nil {
			return parsed{}, damaged(n, err.Error())
		}
		out.records, out.sum = append(out.records, record), sum
	}
	return out, nil
}

// torn says whether rest, the file from one block on, is the tail of a write that did not end.
func torn(rest []byte) bool {
	if len(rest) < blockBytes {
		return true
	}
	if len(rest) > blockBytes {
		return false
	}
	var zeros [sectorBytes]byte
	return bytes.Equal(rest[:sectorBytes], zeros[:]) || bytes.Equal(rest[sectorBytes:], zeros[:])
}
