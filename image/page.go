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

// A Tag identifies the content of a page, or of a frame, under a key.
//
// It is a GMAC (the GHASH of the content under a random key, masked) and not a faster checksum such as xxh3, because content is
// deduplicated by it and the content is hostile: with a public function a process in the sandbox could build a page
// that collides with one of another process, and would find it in there after the restore. Seeding xxh3 does not help, as
// there are pairs of pages that collide for many seeds. GHASH is a universal hash: to one who does not know the key,
// any two different pages of 4 KiB collide with a probability of at most 257/2^128, so among 2^28 pages some pair
// collides with less than 2^-64. A guest sees neither key nor tags.
//
// Each writer makes a key. It keeps the tags of pages to itself and stores those of frames, with the key, in the page index:
// there they detect damage. They do not show that nobody changed an image on purpose: SHA-256 digests do that, for whoever knows the
// manifest's digest, and Verify checks them all.
type Tag [tagBytes]byte

const (
	tagBytes    = 16
	tagKeyBytes = 16
)

// tagKey is a random key for tags.
type tagKey [tagKeyBytes]byte

// mac returns the function that makes tags under a key. Any number of goroutines may use it.
func (k tagKey) mac() cipher.AEAD {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic("image: AES refuses a key of 16 bytes: " + err.Error())
	}
	mac, err := cipher.NewGCM(block)
	if err != nil {
		panic("image: GCM refuses AES: " + err.Error())
	}
	return mac
}

// A tagger has the memory that computing tags takes, for one goroutine at a time.
type tagger struct {
	nonce [12]byte // always zero: what that gives away is the key, which stands beside the tags
	out   [tagBytes]byte
	tags  [FramePages * tagBytes]byte
}

// tag computes the tag of a page.
func (t *tagger) tag(mac cipher.AEAD, data []byte) Tag {
	return Tag(mac.Seal(t.out[:0], t.nonce[:], nil, data))
}

// frameTag computes the tag of a frame from its pages: it is the tag of their tags.
func (t *tagger) frameTag(mac cipher.AEAD, pages []byte) Tag {
	tags := t.tags[:0]
	for ; len(pages) > 0; pages = pages[PageBytes:] {
		tag := t.tag(mac, pages[:PageBytes])
		tags = append(tags, tag[:]...)
	}
	return t.tag(mac, tags)
}

var zeroPage [PageBytes]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }
