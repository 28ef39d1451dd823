package migrate

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"

	"github.com/sbxmigrate/sbxmigrate/sandbox/dirty/pages"
)

// firstsEntries is how many contents firsts remembers, in 3.5 MiB: those of some 256 MiB of different pages.
const firstsEntries = 1 << 16

// firsts finds, by its content, a page that was sent on a lane since its last barrier. The target places the pages of a lane in order, and
// no page is sent twice between two barriers, so that it still has that content when it handles what the lane sends next.
// (Should that ever not be so, the sums of what both sides have differ, and the attempt is aborted.)
//
// The pages' hashes only say where to look: they are of a public function, and a process in the sandbox can build a page that
// has the hash of another process's. Pages are equal if they have the same tag under a key that no guest knows; see image.Tag.
// To spare memory without equal pages the tags, a content gets one when it comes for the second time, and is found from
// the third time on.
//
// It forgets what another page displaces: what is not found is sent with its content. The zero value is empty.
type firsts struct {
	entries []firstEntry // nil before the first note
	round   uint64       // counts the calls of forget
	mac     cipher.AEAD  // makes tags
	out     [tagBytes]byte
}

const tagBytes = 16

type firstEntry struct {
	hash   pages.Hash
	page   uint64
	round  uint64 // in which it was sent, plus 1; 0 for none
	tagged bool
	tag    [tagBytes]byte
}

// find returns a page that was sent with the content of data, whose hash is h.
func (f *firsts) find(h pages.Hash, data []byte) (page uint64, ok bool) {
	if f.entries == nil {
		return 0, false
	}
	e := f.entry(h)
	if e.hash != h || e.round != f.round+1 || !e.tagged {
		return 0, false
	}
	return e.page, e.tag == f.tag(data)
}

// note says that a page is being sent with the content of data, whose hash is h, and which find did not find.
func (f *firsts) note(h pages.Hash, page uint64, data []byte) {
	if f.entries == nil {
		f.begin()
	}
	e := f.entry(h)
	switch {
	case e.hash != h || e.round != f.round+1:
		*e = firstEntry{hash: h, page: page, round: f.round + 1}
	case !e.tagged:
		e.page, e.tag, e.tagged = page, f.tag(data), true
	}
}

// forget empties it.
func (f *firsts) forget() { f.round++ }

func (f *firsts) entry(h pages.Hash) *firstEntry { return &f.entries[h.Lo%firstsEntries] }

func (f *firsts) begin() {
	f.entries = make([]firstEntry, firstsEntries)
	var key [16]byte
	rand.Read(key[:]) // it never fails
	block, err := aes.NewCipher(key[:])
	if err == nil {
		f.mac, err = cipher.NewGCM(block)
	}
	if err != nil {
		panic("migrate: no AES-GCM with a key of 16 bytes: " + err.Error())
	}
}

// tag returns the tag of a page. The nonce is always the same: nobody sees tags.
func (f *firsts) tag(data []byte) [tagBytes]byte {
	var nonce [12]byte
	return [tagBytes]byte(f.mac.Seal(f.out[:0], nonce[:], nil, data))
}
