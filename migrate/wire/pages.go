package wire

import (
	"encoding/binary"
)

// RecordKind says what a page record does.
type RecordKind uint8

// The kinds. See TypePages.
const (
	RecordData      RecordKind = 1
	RecordZero      RecordKind = 2
	RecordDuplicate RecordKind = 3
)

const (
	recordBytes          = 16 // header of every record
	duplicateRecordBytes = recordBytes + 8
)

// PageRecord is one record of a TypePages payload.
type PageRecord struct {
	Kind  RecordKind
	Page  uint64 // the first page
	Count uint64 // pages, at least 1
	From  uint64 // RecordDuplicate: the first page to copy
	Data  []byte // RecordData: Count pages, inside the payload
}

// End returns the page after the record's.
func (r PageRecord) End() uint64 { return r.Page + r.Count }

// PageBatch builds the payload of a TypePages frame. The zero PageBatch is ready; Reset makes it ready again with
// the same memory.
type PageBatch struct {
	payload []byte
}

// Reset empties the batch. Slices that Data returned are not valid any longer.
func (b *PageBatch) Reset() { b.payload = b.payload[:0] }

// Payload returns the payload built so far, for WriteFrame. It is valid until the next call on b.
func (b *PageBatch) Payload() []byte { return b.payload }

// Empty says whether there is nothing to send.
func (b *PageBatch) Empty() bool { return len(b.payload) == 0 }

// Room returns how many data pages still fit, given that they come in one record.
func (b *PageBatch) Room() uint64 {
	left := MaxPayloadBytes - len(b.payload) - recordBytes
	return uint64(max(0, left)) / PageBytes
}

// Data adds count pages and returns the memory that the caller fills with their content, so that they are read from
// the memory file into their place. It returns nil where the batch has no Room: send it first.
func (b *PageBatch) Data(page, count uint64) []byte {
	if count == 0 || count > b.Room() {
		return nil
	}
	b.header(RecordData, page, count)
	start := len(b.payload)
	b.payload = b.payload[:start+int(count)*PageBytes]
	return b.payload[start:]
}

// Zero adds count pages of zeros. It reports whether there was room.
func (b *PageBatch) Zero(page, count uint64) bool {
	if len(b.payload)+recordBytes > MaxPayloadBytes {
		return false
	}
	b.header(RecordZero, page, count)
	return true
}

// Duplicate makes count pages copies of those beginning at from. It reports whether there was room.
func (b *PageBatch) Duplicate(page, count, from uint64) bool {
	if len(b.payload)+duplicateRecordBytes > MaxPayloadBytes {
		return false
	}
	b.header(RecordDuplicate, page, count)
	b.payload = binary.LittleEndian.AppendUint64(b.payload, from)
	return true
}

func (b *PageBatch) header(kind RecordKind, page, count uint64) {
	if b.payload == nil {
		b.payload = make([]byte, 0, MaxPayloadBytes) // so that Data never has to move it
	}
	b.payload = append(b.payload, byte(kind), 0, 0, 0)
	b.payload = binary.LittleEndian.AppendUint32(b.payload, uint32(count))
	b.payload = binary.LittleEndian.AppendUint64(b.payload, page)
}

// ParsePages appends the records of a TypePages payload to records, which may be nil or reused. Nothing is returned
// where any record is wrong, so that a bad frame is applied not at all. filePages is the size of the memory file, in
// pages, as the plan has it.
func ParsePages(records []PageRecord, payload []byte, filePages uint64) ([]PageRecord, error) {
	start := len(records)
	for rest := payload; len(rest) > 0; {
		record, n, err := parsePageRecord(rest, min(filePages, MaxFilePages))
		if err != nil {
			return records[:start], err
		}
		records = append(records, record)
		rest = rest[n:]
	}
	if len(records) == start {
		return records, failf(CodePayload, "pages frame is empty")
	}
	return records, nil
}

// parsePageRecord reads the record at the start of b and returns its size.
func parsePageRecord(b []byte, filePages uint64) (PageRecord, int, error) {
	if len(b) < recordBytes {
		return PageRecord{}, 0, failf(CodePayload, "page record is cut off")
	}
	r := PageRecord{
		Kind:  RecordKind(b[0]),
		Count: uint64(binary.LittleEndian.Uint32(b[4:])),
		Page:  binary.LittleEndian.Uint64(b[8:]),
	}
	if b[1]|b[2]|b[3] != 0 {
		return r, 0, failf(CodePayload, "page record has unknown flags")
	}
	if !inFile(r.Page, r.Count, filePages) {
		return r, 0, failf(CodeLength, "page record names %d pages at page %d of a file with %d", r.Count, r.Page, filePages)
	}
	switch r.Kind {
	case RecordZero:
		return r, recordBytes, nil
	case RecordData:
		// In pages first: the product could overflow.
		if r.Count > uint64(len(b)-recordBytes)/PageBytes {
			return r, 0, failf(CodeLength, "page record claims %d pages and has %d bytes", r.Count, len(b)-recordBytes)
		}
		end := recordBytes + int(r.Count)*PageBytes
		r.Data = b[recordBytes:end:end]
		return r, end, nil
	case RecordDuplicate:
		if len(b) < duplicateRecordBytes {
			return r, 0, failf(CodePayload, "duplicate record is cut off")
		}
		r.From = binary.LittleEndian.Uint64(b[recordBytes:])
		if r.Count > MaxBatchPages {
			return r, 0, failf(CodeLength, "duplicate record has %d pages, limit is %d", r.Count, MaxBatchPages)
		}
		if !inFile(r.From, r.Count, filePages) {
			return r, 0, failf(CodeLength, "duplicate record copies %d pages from page %d of a file with %d", r.Count, r.From, filePages)
		}
		if r.From < r.Page+r.Count && r.Page < r.From+r.Count {
			return r, 0, failf(CodePayload, "duplicate record copies pages onto themselves")
		}
		return r, duplicateRecordBytes, nil
	}
	return r, 0, failf(CodeType, "page record has unknown kind %d", r.Kind)
}

// inFile says whether [page, page+count) is a range of at least one page inside a file. It cannot overflow.
func inFile(page, count, filePages uint64) bool {
	return count >= 1 && count <= filePages && page <= filePages-count
}
