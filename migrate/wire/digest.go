package wire

import (
	"encoding/binary"
	"encoding/hex"

	"github.com/zeebo/xxh3"
)

// DigestBytes is the size of a Digest.
const DigestBytes = 16

// Digest is an xxh3-128 of a page, or a sum over many. It finds mistakes and damage. It is no defence against
// someone who makes collisions: both ends of a migration are trusted with the memory itself. A guest is not, and can
// make two pages with one digest, so what finds equal or unchanged pages must not rely on it alone.
type Digest [DigestBytes]byte

// String returns 32 hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// DigestOf returns the digest of a page or of any other bytes.
func DigestOf(b []byte) Digest { return xxh3.Hash128(b).Bytes() }

// PageSum is a digest of a set of pages that does not depend on the order in which they come, so that both sides
// can keep it up to date round by round instead of hashing all memory during the stop. The zero PageSum is the sum
// of no pages.
type PageSum struct {
	low, high uint64
}

// Add adds a page of a stream with the digest of its content.
func (s *PageSum) Add(stream uint16, page uint64, content Digest) {
	low, high := pageTerm(stream, page, content)
	s.low, s.high = s.low+low, s.high+high
}

// Remove takes back what Add added: a page that changed is removed with its old digest and added with the new one.
func (s *PageSum) Remove(stream uint16, page uint64, content Digest) {
	low, high := pageTerm(stream, page, content)
	s.low, s.high = s.low-low, s.high-high
}

// Digest returns the sum's value.
func (s *PageSum) Digest() Digest {
	var d Digest
	binary.LittleEndian.PutUint64(d[:8], s.low)
	binary.LittleEndian.PutUint64(d[8:], s.high)
	return d
}

// pageTerm binds a page's content to its place, so that two pages that changed places change the sum.
func pageTerm(stream uint16, page uint64, content Digest) (low, high uint64) {
	var b [DigestBytes + 16]byte
	copy(b[:], content[:])
	binary.LittleEndian.PutUint64(b[16:], page)
	binary.LittleEndian.PutUint64(b[24:], uint64(stream))
	h := xxh3.Hash128(b[:])
	return h.Lo, h.Hi
}

// ParseSum reads a TypeSum payload, which is a Digest.
func ParseSum(payload []byte) (Digest, error) {
	if len(payload) != DigestBytes {
		return Digest{}, failf(CodeLength, "sum frame has %d bytes", len(payload))
	}
	return Digest(payload), nil
}
