package tlsrecord

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

func hmacSHA256(key, data []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write(data)
	return h.Sum(nil)
}

// peer is the server's side of a session.
type peer struct{ in, out *keys }

// pair returns a session, its peer, and the buffer that the session writes to.
func pair(suite uint16) (*session, *peer, *bytes.Buffer) {
	wire := &bytes.Buffer{}
	s := must(newSession(wire, suite, traffic(suite, 1), traffic(suite, 2)))
	return s, &peer{must(newKeys(suite, traffic(suite, 1))), must(newKeys(suite, traffic(suite, 2)))}, wire
}

// record seals a record with padding bytes of padding.
func (p *peer) record(text string, contentType byte, padding int) []byte {
	n := len(text) + padding
	buf := make([]byte, n+Overhead)
	copy(buf[HeaderSize:], text)
	if padding > 0 { // its last byte is where the type usually is
		buf[HeaderSize+len(text)], contentType = contentType, 0
	}
	return must(p.out.seal(buf, n, contentType))
}

// next removes one record from wire and opens it.
func (p *peer) next(t *testing.T, wire *bytes.Buffer) (string, byte) {
	t.Helper()
	n, err := new(session).Size(wire.Bytes())
	if n == 0 || n > wire.Len() || err != nil {
		t.Fatalf("no record in %x: %v", wire.Bytes(), err)
	}
	text, contentType, err := p.in.open(wire.Next(n))
	if err != nil {
		t.Fatal(err)
	}
	return string(text), contentType
}

const (
	ticket      = "\x04\x00\x00\x05stuff"
	updateOurs  = "\x18\x00\x00\x01\x00" // the sender's keys only
	updateBoth  = "\x18\x00\x00\x01\x01" // requests the receiver's too
	certRequest = "\x0d\x00\x00\x01\x00"
)

// TestRecordsWithoutData: tickets, empty records, padding and the alert that Java sends are ignored.
func TestRecordsWithoutData(t *testing.T) {
	for _, suite := range allSuites {
		s, p, _ := pair(suite)
		for _, r := range []struct {
			text string
			typ  byte
			want string
		}{
			{ticket, typeHandshake, ""},
			{ticket + ticket, typeHandshake, ""},
			{"\x04\x00\x00\x00", typeHandshake, ""},
			{"", typeApplicationData, ""},
			{"first", typeApplicationData, "first"},
			{"\x01\x5a", typeAlert, ""},
			{"\x00", typeApplicationData, "\x00"},
		} {
			for _, padding := range []int{0, 1, 255} {
				if data, err := s.Open(p.record(r.text, r.typ, padding)); err != nil || string(data) != r.want {
					t.Fatalf("%#x: %q with %d bytes of padding: %q, %v", suite, r.text, padding, data, err)
				}
			}
		}
	}
}

// TestOpenRefuses: everything else ends the session permanently.
func TestOpenRefuses(t *testing.T) {
	sealed := func(text string, typ byte) func(*peer) []byte {
		return func(p *peer) []byte { return p.record(text, typ, 0) }
	}
	alertError := func(n tls.AlertError) error { return n }
	for what, c := range map[string]struct {
		record func(*peer) []byte
		want   error
	}{
		"another request":      {sealed(certRequest, typeHandshake), errUnexpected},
		"an empty handshake":   {sealed("", typeHandshake), errUnexpected},
		"a long ticket":        {sealed("\x04\x01\x00\x01", typeHandshake), errUnexpected},
		"part of an update":    {sealed(updateOurs[:4], typeHandshake), errUnexpected},
		"part of its head":     {sealed(ticket+updateOurs[:1], typeHandshake), errUnexpected},
		"an empty alert":       {sealed("", typeAlert), errUnexpected},
		"a long alert":         {sealed("\x01\x00\x00", typeAlert), errUnexpected},
		"a fatal alert":        {sealed("\x02\x28", typeAlert), alertError(40)},
		"an unknown type":      {sealed("x", 99), errUnexpected},
		"another close_notify": {sealed("\x01\x00", 99), errUnexpected},
		"change_cipher_spec":   {sealed("\x01", 20), errUnexpected},
		"a long update":        {sealed("\x18\x00\x00\x02\x01\x01", typeHandshake), errUnexpected},
		"an empty update":      {sealed("\x18\x00\x00\x00", typeHandshake), errUnexpected},
		"an unknown update":    {sealed("\x18\x00\x00\x01\x02", typeHandshake), errUnexpected},
		"more after an update": {sealed(updateOurs+ticket, typeHandshake), errUnexpected},
		"an update after more": {sealed(ticket+updateOurs+updateOurs, typeHandshake), errUnexpected},
		"nothing but padding":  {func(p *peer) []byte { return p.record("", 0, 5) }, errNoType},
		"a record left out": {func(p *peer) []byte {
			p.record("x", typeApplicationData, 0)
			return p.record("x", typeApplicationData, 0)
		}, errBadRecord},
		"keys of another":        {func(p *peer) []byte { p.out.update(); return p.record("x", typeApplicationData, 0) }, errBadRecord},
		"the session's own":      {func(p *peer) []byte { p.out = p.in; return p.record("x", typeApplicationData, 0) }, errBadRecord},
		"too short for a type":   {func(p *peer) []byte { return []byte{23, 3, 3, 0, 16, 15: 0, 20: 0} }, errBadRecord},
		"too short for a tag":    {func(p *peer) []byte { return []byte{23, 3, 3, 0, 1, 0} }, errBadRecord},
		"a byte more than 2^14":  {tooLong("\x00\x17"), errOverflow},
		"a byte of padding more": {tooLong("\x17\x00"), errOverflow},
	} {
		for _, suite := range allSuites {
			s, p, _ := pair(suite)
			for range 2 { // every further Open fails
				if data, err := s.Open(c.record(p)); len(data) > 0 || !errors.Is(err, c.want) {
					t.Errorf("%#x: %s: %.20q, %v; want %v", suite, what, data, err, c.want)
				}
			}
			if data, err := s.Open(p.record("x", typeApplicationData, 0)); len(data) > 0 || err == nil || err == io.EOF {
				t.Errorf("%#x: %s: the session continues: %.20q, %v", suite, what, data, err)
			}
		}
	}
}

// TestSplitTickets: tickets are skipped wherever they are split (RFC 8446, section 5.1), and an update that follows one
// in the last record is performed.
func TestSplitTickets(t *testing.T) {
	const tickets = ticket + "\x04\x00\x00\x00" + ticket
	cases := [][]string{strings.Split(tickets, "")}
	for i := range tickets[1:] {
		cases = append(cases, []string{tickets[:i+1], tickets[i+1:] + updateBoth})
	}
	longest := "\x04\x01\x00\x00" + strings.Repeat("x", maxMessage)
	var records []string
	for part := range slices.Chunk([]byte(longest+ticket+updateOurs), MaxPlaintext) {
		records = append(records, string(part))
	}
	for _, records := range append(cases, records) {
		s, p, _ := pair(allSuites[0])
		for i, text := range records {
			if data, err := s.Open(p.record(text, typeHandshake, 0)); len(data) > 0 || err != nil {
				t.Fatalf("record %d of %.99q: %q, %v", i, records, data, err)
			}
		}
		last := records[len(records)-1]
		if strings.HasSuffix(last, updateOurs) || strings.HasSuffix(last, updateBoth) {
			p.out.update()
		}
		if data, err := s.Open(p.record("data", typeApplicationData, 0)); string(data) != "data" || err != nil {
			t.Errorf("after %.99q: %q, %v", records, data, err)
		}
	}
}

// TestInterruptedTicket: nothing but its rest may follow a part of a ticket (RFC 8446, section 5.1).
func TestInterruptedTicket(t *testing.T) {
	for _, part := range []string{ticket[:1], ticket[:4], ticket + ticket[:8]} {
		for what, r := range map[string]struct {
			text string
			typ  byte
		}{
			"data":            {"x", typeApplicationData},
			"no data":         {"", typeApplicationData},
			"close_notify":    {"\x01\x00", typeAlert},
			"Java's alert":    {"\x01\x5a", typeAlert},
			"an empty record": {"", typeHandshake},
		} {
			s, p, _ := pair(allSuites[0])
			if data, err := s.Open(p.record(part, typeHandshake, 0)); len(data) > 0 || err != nil {
				t.Fatalf("%q: %q, %v", part, data, err)
			}
			for range 2 { // every further Open fails
				if data, err := s.Open(p.record(r.text, r.typ, 0)); len(data) > 0 || !errors.Is(err, errUnexpected) {
					t.Errorf("%q, then %s: %q, %v", part, what, data, err)
				}
			}
		}
	}
}

// tooLong seals a record of permitted size whose plaintext, with type and padding, is too long by one byte: end follows
// 2^14 bytes.
func tooLong(end string) func(*peer) []byte {
	return func(p *peer) []byte {
		p.out.number()
		header := []byte{typeApplicationData, 3, 3, 0x40, 18}
		text := append(make([]byte, MaxPlaintext), end...)
		return p.out.aead.Seal(bytes.Clone(header), p.out.nonce[:], text, header)
	}
}

// TestIdleRecords: their consecutive number is limited, and data resets it.
func TestIdleRecords(t *testing.T) {
	for what, record := range map[string]func(*peer) []byte{
		"empty":   func(p *peer) []byte { return p.record("", typeApplicationData, 0) },
		"tickets": func(p *peer) []byte { return p.record(ticket, typeHandshake, 0) },
		"updates": func(p *peer) []byte { defer p.out.update(); return p.record(updateBoth, typeHandshake, 0) },
	} {
		s, p, _ := pair(allSuites[0])
		for range 2 {
			for range maxIdleRecords {
				if _, err := s.Open(record(p)); err != nil {
					t.Fatalf("%s: %v", what, err)
				}
			}
			if data, err := s.Open(p.record("x", typeApplicationData, 0)); err != nil || string(data) != "x" {
				t.Fatalf("%s: %q, %v", what, data, err)
			}
		}
		var err error
		for range maxIdleRecords + 1 {
			_, err = s.Open(record(p))
		}
		if !errors.Is(err, errIdle) {
			t.Errorf("%s: %v after %d records without data", what, err, maxIdleRecords+1)
		}
	}
}

// TestAfterCloseNotify: nothing after the end is opened.
func TestAfterCloseNotify(t *testing.T) {
	s, p, _ := pair(allSuites[0])
	for _, r := range [][]byte{p.record("\x01\x00", typeAlert, 0), p.record("x", typeApplicationData, 0)} {
		if data, err := s.Open(r); len(data) > 0 || err != io.EOF {
			t.Errorf("%q, %v; want io.EOF", data, err)
		}
	}
}

// TestKeyUpdate: the peer's keys change at once, the client's only if requested, once, and before the next data.
func TestKeyUpdate(t *testing.T) {
	for _, suite := range allSuites {
		s, p, wire := pair(suite)
		open := func(text string, typ byte, want string) {
			t.Helper()
			if data, err := s.Open(p.record(text, typ, 0)); err != nil || string(data) != want {
				t.Fatalf("%#x: %q: %q, %v", suite, text, data, err)
			}
		}
		sends := func(text string, typ byte) {
			t.Helper()
			if got, gotType := p.next(t, wire); got != text || gotType != typ {
				t.Errorf("%#x: sent %q of type %d, want %q", suite, got, gotType, text)
			}
		}
		s.Write([]byte("before"))
		sends("before", typeApplicationData)
		open(updateOurs, typeHandshake, "")
		p.out.update()
		open("data", typeApplicationData, "data")
		s.Write([]byte("same keys"))
		sends("same keys", typeApplicationData)
		for range 2 { // two requests, one update
			open(ticket+updateBoth, typeHandshake, "")
			p.out.update()
		}
		open("data", typeApplicationData, "data")
		if wire.Len() > 0 {
			t.Errorf("%#x: sent %x before any data", suite, wire.Bytes())
		}
		s.Write([]byte("after"))
		sends(updateOurs, typeHandshake)
		p.in.update()
		sends("after", typeApplicationData)
		s.Write([]byte("once"))
		sends("once", typeApplicationData)
		if wire.Len() > 0 {
			t.Errorf("%#x: sent %x as well", suite, wire.Bytes())
		}
	}
}

// TestOwnKeyUpdate: the client's keys change before the limit of the cipher suite.
func TestOwnKeyUpdate(t *testing.T) {
	s, p, wire := pair(allSuites[0])
	s.out.seq, p.in.seq = updateAfter-1, updateAfter-1
	s.Write([]byte("last"))
	s.Write([]byte("first"))
	for _, want := range []string{"last", updateOurs, "first"} {
		got, _ := p.next(t, wire)
		if got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
		if got == updateOurs {
			p.in.update()
		}
	}
}

// TestWrite: messages of all sizes are sent in records of maximum size.
func TestWrite(t *testing.T) {
	for _, suite := range allSuites {
		s, p, wire := pair(suite)
		for _, n := range []int{0, 1, MaxPlaintext, MaxPlaintext + 1, 3*MaxPlaintext + 7} {
			want := bytes.Repeat([]byte("0123456789"), n/10+1)[:n]
			if m, err := s.Write(want); m != n || err != nil {
				t.Errorf("%#x: wrote %d, %v; want %d", suite, m, err, n)
			}
			var got []byte
			for wire.Len() > 0 {
				text, _ := p.next(t, wire)
				got = append(got, text...)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%#x: %d bytes were sent, want %d", suite, len(got), n)
			}
		}
	}
}

// TestWriteInPlace: the record replaces the plaintext before it is written, and nothing after the record changes.
func TestWriteInPlace(t *testing.T) {
	for _, suite := range allSuites {
		buf := bytes.Repeat([]byte{0xee}, 200)
		var seen []byte
		w := writerFunc(func(p []byte) (int, error) {
			seen = bytes.Clone(p)
			if &p[0] != &buf[0] || bytes.Contains(buf, []byte("the key")) {
				t.Errorf("%#x: sealed elsewhere, or not at all: %q", suite, buf)
			}
			return len(p), nil
		})
		s := must(newSession(w, suite, traffic(suite, 1), traffic(suite, 2)))
		n := copy(buf[HeaderSize:], "the key")
		if err := s.WriteInPlace(buf, n); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(buf[n+Overhead:], bytes.Repeat([]byte{0xee}, len(buf)-n-Overhead)) {
			t.Errorf("%#x: wrote beyond the record: %x", suite, buf)
		}
		if text, typ, err := must(newKeys(suite, traffic(suite, 1))).open(seen); err != nil || string(text) != "the key" || typ != typeApplicationData {
			t.Errorf("%#x: %q, %d, %v", suite, text, typ, err)
		}
		if err := s.WriteInPlace(make([]byte, MaxPlaintext+1+Overhead), MaxPlaintext+1); !errors.Is(err, errOverflow) {
			t.Errorf("%#x: a record that is too long: %v", suite, err)
		}
	}
}

type writerFunc func(p []byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestWriteFails: after a failed write nothing is sealed: the peer could not open it, and its number would be used
// twice.
func TestWriteFails(t *testing.T) {
	broken := errors.New("broken")
	for _, due := range []bool{false, true} { // the first record is a key update
		calls := 0
		s := must(newSession(writerFunc(func(p []byte) (int, error) { calls++; return 3, broken }), allSuites[0], traffic(allSuites[0], 1), traffic(allSuites[0], 2)))
		s.updateDue.Store(due)
		for range 2 {
			if n, err := s.Write([]byte("text")); n != 0 || err != broken {
				t.Errorf("%d, %v", n, err)
			}
			s.updateDue.Store(true)
			if err := s.CloseWrite(); err != broken {
				t.Errorf("close_notify: %v", err)
			}
		}
		if calls != 1 || s.out.seq != 1 {
			t.Errorf("an update due: %t: %d writes, %d numbers used; want 1 each", due, calls, s.out.seq)
		}
	}
}

// TestSize: a record of another type, or of an invalid size, is refused before it is read.
func TestSize(t *testing.T) {
	for _, c := range []struct {
		header string
		want   int
		ok     bool
	}{
		{"", 0, true},
		{"\x17\x03\x03\x00", 0, true},
		{"\x17\x03\x03\x00\x11", 22, true},
		{"\x17\x03\x03\x41\x00 and more", MaxRecord, true},
		{"\x17\x03\x03\x00\x00", 0, false},
		{"\x17\x03\x03\x41\x01", 0, false},
		{"\x17\x03\x03\xff\xff", 0, false},
		{"\x15\x03\x03\x00\x20", 0, false}, // plaintext alert
		{"\x14\x03\x03\x00\x20", 0, false},
		{"\x16\x03\x03\x00\x20", 0, false},
		{"HTTP/1.1 400", 0, false},
	} {
		if n, err := new(session).Size([]byte(c.header)); n != c.want || (err == nil) != c.ok || err != nil && !errors.Is(err, errHeader) {
			t.Errorf("%q: %d, %v", c.header, n, err)
		}
	}
}

// unfinished returns the handshake message at the end of p that is not complete.
func unfinished(p []byte) []byte {
	for len(p) >= 4 {
		size := 4 + int(p[1])<<16 + int(p[2])<<8 + int(p[3])
		if len(p) < size {
			break
		}
		p = p[size:]
	}
	return p
}

// FuzzOpen: for records of any type and padding, open returns the data that was sealed before the first forbidden
// record, and a modified record does not open. Of an incomplete message, which must be a ticket, the session counts the
// bytes as a reader would that keeps them all, and nothing else may follow it.
func FuzzOpen(f *testing.F) {
	f.Add([]byte("\x17\x00\x03abc\x16\x04\x05\x18\x00\x00\x01\x01\x17\x01\x01z"), uint16(0), uint8(0))
	f.Add([]byte("\x17\x00\x03abc\x15\x00\x02\x01\x00"), uint16(9), uint8(1))
	f.Add([]byte("\x16\x00\x04\x04\x00\x00\x02\x16\x00\x02xy\x17\x09\x01z"), uint16(300), uint8(2))
	f.Add([]byte("\x16\x00\x03\x04\x00\x00\x16\x01\x09\x03abc\x18\x00\x00\x01\x01\x17\x09\x01z"), uint16(7), uint8(1))
	f.Add([]byte("\x16\x00\x05\x04\x00\x00\x02x\x17\x00\x01z"), uint16(300), uint8(2))
	f.Fuzz(func(t *testing.T, script []byte, flip uint16, suite uint8) {
		s, p, _ := pair(allSuites[int(suite)%len(allSuites)])
		var want, got, message []byte
		for len(script) >= 3 {
			typ, padding, n := script[0], int(script[1]), min(int(script[2]), len(script)-3)
			text := string(script[3 : 3+n])
			script = script[3+n:]
			if typ == 0 { // padding: the type is the last byte before it
				continue
			}
			data, err := s.Open(p.record(text, typ, padding))
			if err != nil {
				if len(data) > 0 {
					t.Fatal("data beside an error")
				}
				break
			}
			switch {
			case typ == typeHandshake:
				message = unfinished(append(message, text...))
			case len(message) > 0:
				t.Fatalf("%q of type %d is opened after %q", text, typ, message)
			case typ == typeApplicationData:
				want = append(want, text...)
			}
			got = append(got, data...)
			rest := unfinished(append(bytes.Clone(message), make([]byte, s.skip)...))
			if len(message) > 0 && message[0] != newSessionTicket || len(rest) != s.headSize || s.skip > maxMessage {
				t.Fatalf("after %q %d bytes are awaited, and %d are kept", message, s.skip, s.headSize)
			}
			if typ == typeHandshake && s.in.seq == 0 {
				p.out.update()
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatalf("opened %q, sealed %q", got, want)
		}
		record := p.record("text", typeApplicationData, 0)
		bit := int(flip) % (8 * len(record))
		record[bit/8] ^= 1 << (bit % 8)
		if n, err := s.Size(record); err != nil || n != len(record) {
			return // detected before it is opened
		}
		if data, err := s.Open(record); len(data) > 0 || err == nil {
			t.Fatalf("a record with bit %d changed opens: %q", bit, data)
		}
	})
}

// BenchmarkWriteInPlace seals a record of 2 KiB; the write itself costs nothing.
func BenchmarkWriteInPlace(b *testing.B) {
	for _, suite := range allSuites {
		b.Run(tls.CipherSuiteName(suite), func(b *testing.B) {
			s := must(newSession(io.Discard, suite, traffic(suite, 1), traffic(suite, 2)))
			buf := make([]byte, 2048+Overhead)
			b.ReportAllocs()
			for b.Loop() {
				if err := s.WriteInPlace(buf, 2048); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
