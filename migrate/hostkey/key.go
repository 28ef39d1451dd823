package hostkey

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"strings"
)

// textPrefix begins the text form of a public key.
const textPrefix = "sbxmigrate-ed25519:"

// maxKeyFileBytes bounds every file that this package reads.
const maxKeyFileBytes = 4096

// PublicKey is a host's public key. It is comparable.
type PublicKey [ed25519.PublicKeySize]byte

// String returns the text form that operators exchange: one word, "sbxmigrate-ed25519:" and 43 base64 characters.
func (k PublicKey) String() string {
	return textPrefix + base64.RawStdEncoding.EncodeToString(k[:])
}

// Fingerprint returns the short form that people compare: "SHA256:" and the base64 of the key's SHA-256, as OpenSSH
// writes it.
func (k PublicKey) Fingerprint() string {
	sum := sha256.Sum256(k[:])
	return "SHA256:" + base64.RawStdEncoding.EncodeToString(sum[:])
}

// ParsePublicKey reads what String writes. Space around it is ignored.
func ParsePublicKey(text string) (PublicKey, error) {
	text = strings.TrimSpace(text)
	encoded, ok := strings.CutPrefix(text, textPrefix)
	if !ok {
		return PublicKey{}, fmt.Errorf("%w public key: want %s…", ErrMalformed, textPrefix)
	}
	b, err := base64.RawStdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(b) != ed25519.PublicKeySize || strings.ContainsAny(encoded, "\r\n") {
		return PublicKey{}, fmt.Errorf("%w public key: want 43 base64 characters after %s", ErrMalformed, textPrefix)
	}
	return PublicKey(b), nil
}

// Identity is this host's key pair.
type Identity struct {
	private ed25519.PrivateKey
}

// NewIdentity makes a fresh key pair. It is stored nowhere: see Store.Init.
func NewIdentity() (Identity, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return Identity{}, fmt.Errorf("make host key: %w", err)
	}
	return Identity{private: private}, nil
}

// Public returns the public half.
func (i Identity) Public() PublicKey {
	return PublicKey(i.private.Public().(ed25519.PublicKey))
}

const pemType = "PRIVATE KEY"

func (i Identity) encode() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(i.private)
	if err != nil {
		return nil, fmt.Errorf("encode host key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

func parseIdentity(b []byte) (Identity, error) {
	block, rest := pem.Decode(b)
	if block == nil || block.Type != pemType || len(rest) > 0 {
		return Identity{}, fmt.Errorf("%w host key: want one PEM block of type %s", ErrMalformed, pemType)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return Identity{}, fmt.Errorf("%w host key: %w", ErrMalformed, err)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return Identity{}, fmt.Errorf("%w host key: want Ed25519, have %T", ErrMalformed, key)
	}
	return Identity{private: private}, nil
}
