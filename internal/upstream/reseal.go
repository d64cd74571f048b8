package upstream

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"errors"
	"fmt"
	"hash"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// Resealing: how the key gets into a TLS 1.3 record without crypto/tls.
//
// crypto/tls copies the payload of a TLS 1.3 record into a buffer in the heap
// and seals it there: for a moment, and sometimes for longer, the plaintext can
// be read. So it is given a decoy of the same length, all zeros. On the
// decoy's way to the socket, conn.Write puts the real record in its place,
// sealed straight out of secret memory under the same key and sequence number.
// The decoy never leaves the process, so that on the wire each nonce is used
// once. Before anything is replaced the decoy must open under what we take for
// key and number; if it does not, because the keys were updated or crypto/tls
// has changed, nothing is sent and the connection ends.
const (
	recordHeader    = 5
	typeApplication = 0x17
	tagSize         = 16

	// maxSecretRecord leaves room in a slot for the byte of the inner type.
	maxSecretRecord = secret.SlotSize - 1
)

var decoy [maxSecretRecord]byte

var errResealing = errors.New("the TLS session's keys are not the expected ones")

// sealer seals with the client's first application traffic keys of one
// session.
type sealer struct {
	aead cipher.AEAD
	iv   [12]byte
	seq  uint64 // of the next record; only crypto/tls's writes, which it serializes, touch it
}

// newSealer derives the keys from the traffic secret (RFC 8446, section 7.3).
func newSealer(suite uint16, trafficSecret []byte) (*sealer, error) {
	s := &sealer{}
	var h func() hash.Hash = sha256.New
	size, build := 16, newGCM
	switch suite {
	case tls.TLS_AES_128_GCM_SHA256:
	case tls.TLS_AES_256_GCM_SHA384:
		h, size = sha512.New384, 32
	case tls.TLS_CHACHA20_POLY1305_SHA256:
		size, build = chacha20poly1305.KeySize, chacha20poly1305.New
	default:
		return nil, fmt.Errorf("%w: cipher suite %#x", errResealing, suite)
	}
	key, err := expandLabel(h, trafficSecret, "key", size)
	if err != nil {
		return nil, err
	}
	defer clear(key)
	iv, err := expandLabel(h, trafficSecret, "iv", len(s.iv))
	if err != nil {
		return nil, err
	}
	copy(s.iv[:], iv)
	s.aead, err = build(key)
	return s, err
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expandLabel is HKDF-Expand-Label with an empty context (RFC 8446, section
// 7.1).
func expandLabel(h func() hash.Hash, trafficSecret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(size >> 8), byte(size), byte(len(label))}, label...)
	return hkdf.Expand(h, trafficSecret, string(append(info, 0)), size)
}

// nonce is that of record seq (RFC 8446, section 5.3).
func (s *sealer) nonce() (n [12]byte) {
	n = s.iv
	for i := range 8 {
		n[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	return n
}

// replace appends to dst the record that stands in the decoy's place. plaintext
// ends with the inner content type; it is read once and copied nowhere.
func (s *sealer) replace(dst, decoyRecord, plaintext []byte) ([]byte, error) {
	if len(decoyRecord) != recordHeader+len(plaintext)+tagSize {
		return nil, errResealing
	}
	nonce, header := s.nonce(), decoyRecord[:recordHeader]
	if _, err := s.aead.Open(dst, nonce[:], decoyRecord[recordHeader:], header); err != nil {
		return nil, errResealing
	}
	return s.aead.Seal(append(dst, header...), nonce[:], plaintext, header), nil
}

// count follows the sequence number over the records in p.
func (s *sealer) count(p []byte) {
	for len(p) >= recordHeader {
		s.seq++
		p = p[min(len(p), recordHeader+int(p[3])<<8+int(p[4])):]
	}
}
