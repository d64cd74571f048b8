package upstream

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// frames is a record layer without keys: its records have the form of TLS records, and each byte of plaintext is
// inverted. A record of 0 bytes has no data.
type frames struct{ tlsrecord.Layer }

func (frames) Size(p []byte) (int, error) {
	if len(p) < tlsrecord.HeaderSize {
		return 0, nil
	}
	return tlsrecord.HeaderSize + int(p[3])<<8 + int(p[4]), nil
}

func (frames) Open(record []byte) ([]byte, error) {
	data := record[tlsrecord.HeaderSize:]
	if len(data) == 1 {
		return nil, io.EOF
	}
	data = data[:max(0, len(data)-2)]
	for i := range data {
		data[i] ^= 0xff
	}
	return data, nil
}

// frame seals text, which may be empty.
func frame(text []byte) []byte {
	f := []byte{23, 3, 3, byte((len(text) + 2) >> 8), byte(len(text) + 2)}
	for _, c := range text {
		f = append(f, c^0xff)
	}
	return append(f, 0, 0)
}

var endFrame = []byte{23, 3, 3, 0, 1, 0}

// pieces returns a limited number of bytes for each Read.
type pieces struct {
	rest  []byte
	sizes []byte
}

func (s *pieces) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := len(s.rest)
	if len(s.sizes) > 0 {
		n, s.sizes = 1+int(s.sizes[0])*80, append(s.sizes[1:], s.sizes[0])
	}
	n = copy(p, s.rest[:min(n, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

// FuzzReader: for any records, and any pieces in which those are read and used, the reader returns the whole text and
// then the end; a truncated text has no clean end.
func FuzzReader(f *testing.F) {
	f.Add([]byte{1, 200, 0, 0, 3}, []byte{0, 3, 255}, []byte{1, 9}, false, false)
	f.Add([]byte{255, 255, 255}, []byte{255}, []byte{0}, true, false)
	f.Add([]byte{9}, []byte{1}, []byte{7}, true, true)
	f.Fuzz(func(t *testing.T, records, reads, uses []byte, fixed, cut bool) {
		records = records[:min(len(records), 200)]
		var text, wire []byte
		for i, size := range records {
			piece := bytes.Repeat([]byte{byte(i + 1)}, int(size)*64)
			text, wire = append(text, piece...), append(wire, frame(piece)...)
		}
		if !cut {
			wire = append(wire, endFrame...)
		}
		b := &reader{src: &pieces{wire, bytes.Clone(reads)}, layer: frames{}}
		if fixed {
			b.buf, b.fixed = make([]byte, ExchangeMemory), true
		}
		var got []byte
		var err error
		for i := 0; err == nil; i++ {
			use := b.w - b.r // all
			if len(uses) > 0 && use < 4<<10 {
				use = min(use, int(uses[i%len(uses)])*16)
			}
			got = append(got, b.buf[b.r:b.r+use]...)
			b.r += use
			err = b.Fill()
		}
		got = append(got, b.buf[b.r:b.w]...)
		if want := map[bool]error{true: io.ErrUnexpectedEOF, false: io.EOF}[cut]; err != want || !bytes.Equal(got, text) {
			t.Fatalf("%d bytes, %v; want %d, %v", len(got), err, len(text), want)
		}
		if len(b.buf) > 2*(tlsrecord.MaxRecord+8<<10) {
			t.Errorf("a buffer of %d bytes", len(b.buf))
		}
	})
}

// TestReaderIsSmallWhenIdle: after large records, a small one is enough to return the large buffer to the pool, and no
// data is left in either.
func TestReaderIsSmallWhenIdle(t *testing.T) {
	large, small := bytes.Repeat([]byte("x"), tlsrecord.MaxPlaintext), []byte("event")
	r, w := io.Pipe() // delivers each write separately
	b := &reader{src: r, layer: frames{}}
	go func() {
		for _, text := range [][]byte{large, large, small, small} {
			w.Write(frame(text))
		}
		w.Close()
	}()
	var pooled []byte
	for _, want := range [][]byte{large, large, small, small} {
		if err := b.Fill(); err != nil || !bytes.Equal(b.buf[b.r:b.w], want) {
			t.Fatalf("%d bytes, %v; want %d", b.w-b.r, err, len(want))
		}
		if len(b.buf) == bufferSize {
			pooled = b.buf
		}
		b.r = b.w
	}
	b.Fill() // the end
	if len(b.buf) != smallSize || &b.buf[0] != &b.small[0] || pooled == nil {
		t.Errorf("a buffer of %d bytes while idle", len(b.buf))
	}
	b.shrink()
	if !bytes.Equal(b.small[:], make([]byte, smallSize)) || bytes.Contains(pooled, []byte("xxxx")) {
		t.Error("the buffers are not clear")
	}
}

// TestFixedReader: a record that does not fit into secret memory is refused; no other memory is used.
func TestFixedReader(t *testing.T) {
	memory := make([]byte, 1500)
	b := &reader{src: &pieces{rest: frame(make([]byte, 2000))}, layer: frames{}, buf: memory, fixed: true}
	if err := b.Fill(); !errors.Is(err, ErrOversized) || len(b.buf) != 1500 || &b.buf[0] != &memory[0] {
		t.Errorf("%v, a buffer of %d bytes", err, len(b.buf))
	}
}

// TestCutResponse: over TLS only close_notify ends a response that is delimited by the end of the connection, and a
// response that is cut anywhere is incomplete.
func TestCutResponse(t *testing.T) {
	heads := map[string]string{"until close": "", "length": "Content-Length: 21\r\n", "chunked": "Transfer-Encoding: chunked\r\n"}
	bodies := map[string]string{"until close": "the body", "length": "the body", "chunked": "8\r\nthe body\r\n"}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name := range heads {
			head, body := "HTTP/1.1 200 OK\r\n"+heads[name]+"\r\n", bodies[name]
			for what, send := range map[string]func(c *surplusConn){
				"at a record's end": func(c *surplusConn) { c.flush(everything) },
				"in a record":       func(c *surplusConn) { n := len(c.out); io.WriteString(c.stream, "more"); c.flush(n + 9) },
				"in a header":       func(c *surplusConn) { n := len(c.out); io.WriteString(c.stream, "more"); c.flush(n + 2) },
				"close_notify":      func(c *surplusConn) { c.stream.(*tls.Conn).CloseWrite(); c.flush(everything) },
			} {
				_, c := serveSurplus(t, true, version, func(c *surplusConn, _, _ []byte) {
					io.WriteString(c.stream, head)
					io.WriteString(c.stream, body)
					send(c)
					c.Close()
				})
				res, err := c.Do(within(t, soon), &Request{Start: []byte("?"), Length: 1})
				if err != nil {
					t.Fatal(err)
				}
				var got []byte
				for err == nil {
					var piece []byte
					piece, err = res.Next()
					got = append(got, piece...)
				}
				res.Close()
				if whole := name == "until close" && what == "close_notify"; string(got) != "the body" || (err == io.EOF) != whole {
					t.Errorf("%x, %s, cut %s: %q, %v", version, name, what, got, err)
				}
			}
		}
	}
}

// TestRecordSizes: responses in records of one byte and of the maximum size.
func TestRecordSizes(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, size := range []int{1, 100, 1000, 1024, 16 << 10} {
			body := strings.Repeat("0123456789", 400*(1+size/100))
			s, c := serveSurplus(t, true, version, func(c *surplusConn, _, _ []byte) {
				for p := responseOf(body); len(p) > 0; {
					n := min(size, len(p))
					c.stream.Write(p[:n])
					p = p[n:]
					if len(c.out) > 200<<10 {
						c.flush(everything)
					}
				}
				c.flush(everything)
			})
			s.tls.DynamicRecordSizingDisabled = true
			for range 2 {
				res, err := c.Do(within(t, soon), &Request{Start: []byte("?"), Length: 1})
				if got := finish(t, res, err); got != body && got != "answer to ?" {
					t.Errorf("%x, records of %d bytes: %d bytes, want %d", version, size, len(got), len(body))
				}
			}
			if n := s.conns.Load(); n != 1 {
				t.Errorf("%x, records of %d bytes: %d connections, want 1", version, size, n)
			}
		}
	}
}

// TestBufferedBringsAllRecords: records that arrived together are returned without another read.
func TestBufferedBringsAllRecords(t *testing.T) {
	const n = 5
	_, c := serveSurplus(t, true, tls.VersionTLS13, func(c *surplusConn, _, _ []byte) {
		fmt.Fprintf(c.stream, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", 6*n)
		for range n {
			io.WriteString(c.stream, "event;")
		}
		c.flush(everything)
	})
	res, err := c.Do(within(t, soon), &Request{Start: []byte("?"), Length: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Close()
	for i := range n {
		piece, err := res.Next()
		if i > 0 && string(piece) == "" {
			t.Fatal("no event")
		}
		for err == nil {
			var more []byte
			if more, err = res.Buffered(); len(more) == 0 && err == nil {
				break
			}
			piece = append(piece, more...)
		}
		if err == io.EOF {
			if i > 1 { // the kernel may deliver the head alone
				t.Errorf("%d reads for records that came together", i+1)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// TestManyRecords: requests and responses of many records, so that the record numbers must be right.
func TestManyRecords(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
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

// spy records where records with the credential are sealed, and the content of that memory after they were sent.
type spy struct {
	tlsrecord.Layer
	at     *byte
	record []byte
}

func (s *spy) WriteInPlace(buf []byte, n int) error {
	plaintext := bytes.Clone(buf[tlsrecord.HeaderSize : tlsrecord.HeaderSize+n])
	err := s.Layer.WriteInPlace(buf, n)
	s.at, s.record = &buf[0], bytes.Clone(buf[:n+tlsrecord.Overhead])
	if !bytes.Contains(plaintext, []byte(canary)) || bytes.Contains(s.record, []byte(canary)) {
		return errors.New("the record is not the one with the credential, or was not sealed where it lay")
	}
	return err
}

// TestSealedRecordIsCleared: the record with the credential, which can be opened with the session's keys, is never
// outside of secret memory, and is wiped once it has been sent.
func TestSealedRecordIsCleared(t *testing.T) {
	up, c := serve(t, openaitest.Options{TLS: true})
	do(t, c, post("json", "{}"))
	cn := c.pool.conns[0]
	s := &spy{Layer: cn.layer}
	cn.layer = s
	for _, size := range []int{0, 100, 7000, 20_000} {
		do(t, c, post("json", strings.Repeat(" ", size)))
		found := false
		var slots []*secret.Slot
		for range 4 { // all slots
			slot := must(c.key.Slot(within(t, soon)))
			slots = append(slots, slot)
			found = found || &slot.Bytes()[0] == s.at
			if !bytes.Equal(slot.Bytes(), make([]byte, len(slot.Bytes()))) {
				t.Errorf("a body of %d bytes: a slot is not clear", size)
			}
			if size == 20_000 && len(s.record) != len(slot.Bytes()) {
				t.Errorf("a record of %d bytes, want a slot full", len(s.record))
			}
		}
		for _, slot := range slots {
			slot.Release(0)
		}
		if !found {
			t.Errorf("a body of %d bytes: the record was sealed outside of the slots", size)
		}
	}
	if n := up.Conns(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}
