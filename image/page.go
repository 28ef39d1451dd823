package image

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
)

// FileID numbers a memory file of a sandbox.
type FileID uint32

// A Run is Count pages of a memory file, beginning with page First.
type Run struct {
	First uint64
	Count uint64
}

func (r Run) end() uint64 { return r.First + r.Count }

// checkRun refuses what lies outside a memory file. It also excludes overflow in what follows.
func checkRun(r Run) error {
	if r.First > MaxFilePages || r.Count > MaxFilePages-r.First {
		return failf(CodeTooLarge, "", "pages %d+%d lie beyond %d, the end of the largest memory file", r.First, r.Count, uint64(MaxFilePages))
	}
	return nil
}

// A Tag identifies the content of a page within an image and the images that have it as an ancestor.
//
// It is a GMAC (the GHASH of the page under a random key, masked) and not a faster checksum such as xxh3, because content is
// deduplicated by it and the content is hostile: with a public function a process in the sandbox could build a page
// that collides with one of another process, and would find it in there after the restore. Seeding xxh3 does not help, as
// there are pairs of pages that collide for many seeds. GHASH is a universal hash: to one who does not know the key,
// any two different pages of 4 KiB collide with a probability of at most 257/2^128, so with 2^28 stored pages some pair
// collides with less than 2^-64. A guest cannot see key or tags. Who can read the image can, but has all its memory already.
//
// A tag detects damage. It does not show that nobody changed an image on purpose: SHA-256 digests do that, for whoever
// knows the manifest's digest, and Verify checks them all.
type Tag [tagBytes]byte

const (
	tagBytes    = 16
	tagKeyBytes = 16
)

// tagKey is an image's random key for tags, stored in its page index.
type tagKey [tagKeyBytes]byte

// A tagger computes tags. The scratch space makes one usable by one goroutine at a time.
type tagger struct {
	mac   cipher.AEAD
	nonce []byte
	out   []byte
}

func newTagger(key tagKey) *tagger {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic("image: AES refuses a key of 16 bytes: " + err.Error())
	}
	mac, err := cipher.NewGCM(block)
	if err != nil {
		panic("image: GCM refuses AES: " + err.Error())
	}
	return &tagger{mac: mac, nonce: make([]byte, mac.NonceSize()), out: make([]byte, 0, mac.Overhead())}
}

// tag computes the tag of a page. The nonce is constant: what that gives away is the key, which stands beside the tags.
func (t *tagger) tag(page []byte) Tag {
	return Tag(t.mac.Seal(t.out, t.nonce, nil, page))
}

var zeroPage [PageBytes]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }
