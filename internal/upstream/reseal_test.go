package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/fakeopenai"
)

// record seals plaintext as crypto/tls does.
func record(s *sealer, plaintext []byte) []byte {
	size := len(plaintext) + tagSize
	header := []byte{typeApplication, 3, 3, byte(size >> 8), byte(size)}
	nonce := s.nonce()
	return s.aead.Seal(bytes.Clone(header), nonce[:], plaintext, header)
}

func TestReplace(t *testing.T) {
	for _, suite := range []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256} {
		s := must(newSealer(suite, bytes.Repeat([]byte{7}, 48)))
		s.seq = 1<<40 + 3
		real := append([]byte("the real text"), typeApplication)
		nothing := append(make([]byte, len(real)-1), typeApplication)
		got, err := s.replace(nil, record(s, nothing), real)
		if err != nil || !bytes.Equal(got, record(s, real)) {
			t.Errorf("%#x: the replaced record is not the one that crypto/tls would send: %v", suite, err)
		}
		refuse := func(why string, decoy []byte) {
			t.Helper()
			if got, err := s.replace(nil, decoy, real); !errors.Is(err, errResealing) || got != nil {
				t.Errorf("%#x: %s: %v", suite, why, err)
			}
		}
		refuse("another length", record(s, nothing[1:]))
		tampered := record(s, nothing)
		tampered[9] ^= 1
		refuse("tampered", tampered)
		tampered = record(s, nothing)
		tampered[0] = 22
		refuse("another kind of record", tampered)
		before := record(s, nothing)
		s.seq++
		refuse("another number", before)
		s.iv[3] ^= 1
		refuse("another key", before)
		refuse("no record", nil)
	}
	if _, err := newSealer(0x1305, make([]byte, 32)); !errors.Is(err, errResealing) {
		t.Errorf("an unknown suite: %v", err)
	}
}

func TestCountRecords(t *testing.T) {
	s := &sealer{}
	s.count(bytes.Join([][]byte{{23, 3, 3, 0, 2, 'a', 'b'}, {23, 3, 3, 0, 0}, append([]byte{23, 3, 3, 1, 0}, make([]byte, 256)...)}, nil))
	if s.seq != 3 {
		t.Errorf("%d records, want 3", s.seq)
	}
}

// TestKeysThatChanged: where the session's keys are not what we take them for,
// as after a key update, nothing is sent; the request goes out on another
// connection.
func TestKeysThatChanged(t *testing.T) {
	up, c := serve(t, fakeopenai.Options{TLS: true})
	for range 3 {
		do(t, c, post("json", "{}"))
		c.pool.conns[0].sealer.iv[0] ^= 1
	}
	if up.Count() != 3 || up.Conns() != 3 {
		t.Errorf("%d requests on %d connections, want 3 on 3", up.Count(), up.Conns())
	}
	if f := up.Faults(); len(f) > 0 {
		t.Errorf("the upstream found faults: %q", f)
	}
}

// TestManyRecords: requests of many records before and after, so that the
// numbers must be kept right.
func TestManyRecords(t *testing.T) {
	up, c := serve(t, fakeopenai.Options{TLS: true})
	for _, size := range []int{0, 1, 7000, 8000, 9000, 20000, 64 << 10, 300 << 10, 5} {
		do(t, c, post("json", string(bytes.Repeat([]byte{' '}, size))))
	}
	if n := up.Conns(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestURLThatLeavesNoRoom(t *testing.T) {
	target := must(ParseTarget("https://h/"+string(bytes.Repeat([]byte{'a'}, 8100)), false))
	if _, err := New(Config{Target: target, Key: keyOf(t, canary)}); err == nil {
		t.Error("a URL was accepted that leaves no room for the key")
	}
}

// TestSealedRecordIsCleared: the record with the credential, which whoever has
// the session's key could open, is in no buffer of ours once it has been sent.
func TestSealedRecordIsCleared(t *testing.T) {
	mine := make([]byte, bufferSize)
	before := buffers.New
	buffers.New = func() any { return &mine }
	t.Cleanup(func() { buffers.New = before })
	for buffers.Get().(*[]byte) != &mine { // what other tests have left
	}
	s := must(newSealer(tls.TLS_AES_128_GCM_SHA256, bytes.Repeat([]byte{7}, 32)))
	real := append([]byte("the real text"), typeApplication)
	ours, theirs := pipe(t)
	c := newConn(ours)
	c.sealer, c.real = s, real
	want := record(s, real)
	if _, err := c.Write(record(s, append(make([]byte, len(real)-1), typeApplication))); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(want))
	if _, err := io.ReadFull(theirs, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("sent %x, want %x (%v)", got, want, err)
	}
	if !bytes.Equal(mine, make([]byte, bufferSize)) {
		t.Error("the record lies in the buffer")
	}
}

// pipe is a TCP connection within this process.
func pipe(t *testing.T) (a, b *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { out.Close(); in.Close() })
	return out.(*net.TCPConn), in.(*net.TCPConn)
}
