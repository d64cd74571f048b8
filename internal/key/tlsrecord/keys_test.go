package tlsrecord

import (
	"bytes"
	"crypto/cipher"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
)

var allSuites = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// unhex decodes hexadecimal digits, which may be split into lines.
func unhex(s string) []byte { return must(hex.DecodeString(strings.Join(strings.Fields(s), ""))) }

// traffic returns a traffic secret of the suite's length.
func traffic(suite uint16, b byte) []byte {
	return bytes.Repeat([]byte{b}, suites[suite].hash().Size())
}

// The records after the simple handshake of RFC 8448, section 3.
const (
	clientSecret = "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"
	serverSecret = "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643"
	clientData   = "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4"
	clientAlert  = "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"
	serverTicket = `17030300de3a6b8f90414a97d6959c3487680de5134a2b240e6cffac116e95d41d6af8f6b580dcf3d11d63c758db289a
		015940252f55713e061dc13e078891a38efbcf5753ad8ef170ad3c7353d16d9da773b9ca7f2b9fa1b6c0d4a3d03f75e0
		9c30ba1e62972ac46f75f7b981be63439b2999ce13064615139891d5e4c5b406f16e3fc181a77ca475840025db2f0a77
		f81b5ab05b94c01346755f69232c86519d86cbeeac87aac347d143f9605d64f650db4d023e70e952ca49fe5137121c74
		bc2697687e248746d6df353005f3bce18696129c8153556b3b6c6779b37bf15985684f`
	serverData  = "17030300432e937e11ef4ac740e538ad36005fc4a46932fc3225d05f82aa1b36e30efaf97d90e6dffc602dcb501a59a8fcc49c4bf2e5f0a21c0047c2abf332540dd032e167c2955d"
	serverAlert = "1703030013b58fd67166ebf599d24720cfbe7efa7a8864a9"
)

// rfc8448Payload returns the application data that both sides send.
func rfc8448Payload() []byte {
	p := make([]byte, 50)
	for i := range p {
		p[i] = byte(i)
	}
	return p
}

// TestRFC8448 seals and opens the RFC's records, and ignores its ticket.
func TestRFC8448(t *testing.T) {
	var wire bytes.Buffer
	s := must(newSession(&wire, tls.TLS_AES_128_GCM_SHA256, unhex(clientSecret), unhex(serverSecret)))
	if iv := hex.EncodeToString(s.out.iv[:]); iv != "5b78923dee08579033e523d9" {
		t.Errorf("client IV %s", iv)
	}
	if iv := hex.EncodeToString(s.in.iv[:]); iv != "cf782b88dd83549aadf1e984" {
		t.Errorf("server IV %s", iv)
	}
	if _, err := s.Write(rfc8448Payload()); err != nil {
		t.Fatal(err)
	}
	if err := s.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got := hex.EncodeToString(wire.Bytes()); got != clientData+clientAlert {
		t.Errorf("sent %s, want %s", got, clientData+clientAlert)
	}
	if n, err := s.Write([]byte("more")); n != 0 || !errors.Is(err, io.ErrClosedPipe) || wire.Len() != len(clientData+clientAlert)/2 {
		t.Errorf("a write after close_notify: %d, %v", n, err)
	}
	for _, c := range []struct {
		record string
		data   []byte
		err    error
	}{{serverTicket, nil, nil}, {serverData, rfc8448Payload(), nil}, {serverAlert, nil, io.EOF}} {
		record := unhex(c.record)
		if n, err := s.Size(record); n != len(record) || err != nil {
			t.Errorf("size %d, %v; want %d", n, err, len(record))
		}
		data, err := s.Open(record)
		if err != c.err || !bytes.Equal(data, c.data) {
			t.Errorf("opened %x, %v; want %x, %v", data, err, c.data, c.err)
		}
	}
}

// TestSealMatchesOpen: for every suite, open returns what seal was given, with its type, and both work in place.
func TestSealMatchesOpen(t *testing.T) {
	for _, suite := range allSuites {
		out, in := must(newKeys(suite, traffic(suite, 1))), must(newKeys(suite, traffic(suite, 1)))
		for _, n := range []int{0, 1, 15, 16, 17, 1000, MaxPlaintext} {
			want := bytes.Repeat([]byte{byte(n), 0}, n)[:n]
			buf := make([]byte, n+Overhead)
			copy(buf[HeaderSize:], want)
			record, err := out.seal(buf, n, typeHandshake)
			if err != nil || &record[0] != &buf[0] || len(record) != len(buf) {
				t.Fatalf("%#x: %d bytes: sealed elsewhere or not at all: %v", suite, n, err)
			}
			if n > 0 && bytes.Contains(record, want) && n > 4 {
				t.Errorf("%#x: the plaintext is in the record", suite)
			}
			text, typ, err := in.open(record)
			if err != nil || typ != typeHandshake || !bytes.Equal(text, want) || n > 0 && &text[0] != &record[HeaderSize] {
				t.Errorf("%#x: opened %d bytes of type %d, %v; want %d", suite, len(text), typ, err, n)
			}
		}
	}
}

// TestNoncesDiffer: each record has its own nonce, before and after an update, and the numbers end before they wrap.
func TestNoncesDiffer(t *testing.T) {
	for _, suite := range allSuites {
		k := must(newKeys(suite, traffic(suite, 1)))
		seen := map[[ivSize]byte]bool{}
		for _, seq := range []uint64{0, 1, 255, 256, 1 << 24, 1 << 32, 1<<56 - 1, math.MaxUint64 - 2} {
			k.seq = seq
			for range 2 {
				if _, err := k.seal(make([]byte, Overhead), 0, typeHandshake); err != nil {
					t.Fatalf("%#x: number %d: %v", suite, seq, err)
				}
				if k.nonce == k.iv != (k.seq == 1) {
					t.Errorf("%#x: number %d: nonce %x of IV %x", suite, k.seq-1, k.nonce, k.iv)
				}
				seen[k.nonce] = true
			}
		}
		if len(seen) != 14 { // 1 and 256 occur twice
			t.Errorf("%#x: %d nonces, want 14", suite, len(seen))
		}
		for range 2 {
			if record, err := k.seal(make([]byte, Overhead), 0, typeHandshake); !errors.Is(err, errSequence) || record != nil {
				t.Errorf("%#x: a record beyond the last number: %v", suite, err)
			}
			if _, _, err := k.open(make([]byte, Overhead)); !errors.Is(err, errSequence) {
				t.Errorf("%#x: opened beyond the last number: %v", suite, err)
			}
		}
		before := *k
		if err := k.update(); err != nil || k.seq != 0 || k.iv == before.iv || bytes.Equal(k.next, before.next) {
			t.Errorf("%#x: the update has changed nothing: %v", suite, err)
		}
	}
}

// TestSecretsAreCleared: no secret remains except what the AEAD itself keeps.
func TestSecretsAreCleared(t *testing.T) {
	for _, suite := range allSuites {
		secret := traffic(suite, 7)
		k := must(newKeys(suite, secret))
		if !bytes.Equal(secret, make([]byte, len(secret))) {
			t.Errorf("%#x: the traffic secret is still there", suite)
		}
		old := k.next
		var key []byte
		k.suite.aead = func(derived []byte) (cipher.AEAD, error) { key = derived; return suites[suite].aead(derived) }
		if err := k.update(); err != nil || !bytes.Equal(old, make([]byte, len(old))) {
			t.Errorf("%#x: the next traffic secret is still there after an update: %v", suite, err)
		}
		if !bytes.Equal(key, make([]byte, suites[suite].keySize)) {
			t.Errorf("%#x: the key that was derived for the cipher is still there: %x", suite, key)
		}
	}
	for id, secret := range map[uint16][]byte{0x1304: traffic(allSuites[0], 1), allSuites[0]: bytes.Repeat([]byte{1}, 48), allSuites[1]: {}} {
		if k, err := newKeys(id, secret); err == nil || k != nil || !bytes.Equal(secret, make([]byte, len(secret))) {
			t.Errorf("%#x with a secret of %d bytes: %v", id, len(secret), err)
		}
	}
}

// TestUpdateFollowsRFC8446: the next traffic secret equals an independent HKDF-Expand-Label.
func TestUpdateFollowsRFC8446(t *testing.T) {
	k := must(newKeys(tls.TLS_AES_128_GCM_SHA256, unhex(clientSecret)))
	// HKDF-Expand-Label(secret, "traffic upd", "", 32) of one block is HMAC-SHA256(secret, info || 0x01).
	want := hmacSHA256(unhex(clientSecret), append([]byte("\x00\x20\x11tls13 traffic upd\x00"), 1))
	if !bytes.Equal(k.next, want) {
		t.Errorf("next traffic secret %x, want %x", k.next, want)
	}
}
