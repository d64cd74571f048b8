package tlsrecord

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"math"

	"golang.org/x/crypto/chacha20poly1305"
)

const (
	ivSize  = 12 // for every cipher suite of TLS 1.3, in bytes
	tagSize = 16 // likewise
)

var (
	errBadRecord = errors.New("bad TLS record: it was modified, or the keys differ")
	errNoType    = errors.New("a TLS record contains only padding")
	errOverflow  = errors.New("a TLS record is too long")
	errSequence  = errors.New("the TLS record numbers are exhausted")
)

// suite is a cipher suite of TLS 1.3 (RFC 8446, appendix B.4).
type suite struct {
	hash    func() hash.Hash
	keySize int // in bytes
	aead    func(key []byte) (cipher.AEAD, error)
}

// suites are the cipher suites of TLS 1.3 that crypto/tls supports.
var suites = map[uint16]suite{
	tls.TLS_AES_128_GCM_SHA256:       {sha256.New, 16, newGCM},
	tls.TLS_AES_256_GCM_SHA384:       {sha512.New384, 32, newGCM},
	tls.TLS_CHACHA20_POLY1305_SHA256: {sha256.New, chacha20poly1305.KeySize, chacha20poly1305.New},
}

func newGCM(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, section 7.1). The derived bytes are in the heap; the
// callers clear what they do not keep.
func (s suite) expand(traffic []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := append([]byte{byte(size >> 8), byte(size), byte(len(label))}, label...)
	return hkdf.Expand(s.hash, traffic, string(append(info, 0)), size)
}

// keys protect the records of one direction. They do not keep the traffic secret from which they are derived, only its
// successor: the secret for a key update cannot open any record sealed before it.
type keys struct {
	suite suite
	aead  cipher.AEAD
	iv    [ivSize]byte
	nonce [ivSize]byte // of the latest record; a field, to avoid an allocation for each record
	seq   uint64       // number of the next record
	next  []byte       // traffic secret of the next keys
}

// newKeys derives keys from a traffic secret, which it clears. The secret has the length of the hash (RFC 8446, section
// 7.1): one of another length is not what it was taken for.
func newKeys(id uint16, traffic []byte) (*keys, error) {
	s, ok := suites[id]
	if !ok || len(traffic) != s.hash().Size() {
		clear(traffic)
		return nil, fmt.Errorf("cipher suite %#04x with a traffic secret of %d bytes is not supported", id, len(traffic))
	}
	k := &keys{suite: s, next: traffic}
	return k, k.update()
}

// update replaces the keys with those of the next traffic secret (RFC 8446, sections 7.2 and 7.3). After an error the
// keys must not be used.
func (k *keys) update() error {
	traffic := k.next
	defer clear(traffic)
	key, err := k.suite.expand(traffic, "key", k.suite.keySize)
	if err != nil {
		return err
	}
	defer clear(key)
	iv, err := k.suite.expand(traffic, "iv", ivSize)
	if err != nil {
		return err
	}
	if k.next, err = k.suite.expand(traffic, "traffic upd", len(traffic)); err != nil {
		return err
	}
	// The first record under new keys has number 0 (RFC 8446, section 5.3).
	copy(k.iv[:], iv)
	k.seq = 0
	k.aead, err = k.suite.aead(key)
	return err
}

// number assigns the next record number and computes its nonce (RFC 8446, section 5.3). A number never wraps: two
// records with one nonce reveal the XOR of their plaintexts, and with GCM the authentication key.
func (k *keys) number() error {
	if k.seq == math.MaxUint64 {
		return errSequence
	}
	copy(k.nonce[:], k.iv[:])
	tail := k.nonce[ivSize-8:]
	binary.BigEndian.PutUint64(tail, binary.BigEndian.Uint64(tail)^k.seq)
	k.seq++
	return nil
}

// seal turns buf into a record in place: it writes the header before the n bytes of plaintext at HeaderSize, and
// content type and tag after them. buf must have space for n + Overhead bytes. It returns the record, which has no
// padding, as those of crypto/tls.
func (k *keys) seal(buf []byte, n int, contentType byte) ([]byte, error) {
	if n > MaxPlaintext {
		return nil, errOverflow
	}
	if err := k.number(); err != nil {
		return nil, err
	}
	record := buf[:n+Overhead]
	header, text := record[:HeaderSize], record[HeaderSize:HeaderSize+n+1]
	// The content type follows the plaintext. The header always has the type application_data and the version 3.3, as
	// in TLS 1.2, which middleboxes expect (RFC 8446, section 5.2).
	text[n] = contentType
	header[0], header[1], header[2] = typeApplicationData, 3, 3
	binary.BigEndian.PutUint16(header[3:], uint16(len(text)+tagSize))
	k.aead.Seal(text[:0], k.nonce[:], text, header)
	return record, nil
}

// open opens one complete record in place. It returns the plaintext, a part of record, and its content type.
func (k *keys) open(record []byte) (text []byte, contentType byte, err error) {
	if err := k.number(); err != nil {
		return nil, 0, err
	}
	header, sealed := record[:HeaderSize], record[HeaderSize:]
	// The header is authenticated with the record, so that a modified length is detected.
	text, err = k.aead.Open(sealed[:0], k.nonce[:], sealed, header)
	if err != nil {
		return nil, 0, errBadRecord
	}
	if len(text) > MaxPlaintext+1 { // padding counts (RFC 8446, section 5.4)
		return nil, 0, errOverflow
	}
	// The last byte that is not 0 is the content type; padding follows it.
	n := len(text)
	for n > 0 && text[n-1] == 0 {
		n--
	}
	if n == 0 {
		return nil, 0, errNoType
	}
	return text[:n-1], text[n-1], nil
}
