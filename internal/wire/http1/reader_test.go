package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
)

// received is an Input that receives rest in pieces whose lengths repeat cuts, and then err.
type received struct {
	buf, rest, cuts []byte
	turn            int
	err             error
}

func (in *received) Buffered() []byte { return in.buf }
func (in *received) Consume(n int)    { in.buf = in.buf[n:] }

func (in *received) Fill() error {
	if len(in.rest) == 0 {
		return in.err
	}
	n := len(in.rest)
	if len(in.cuts) > 0 {
		n = min(n, int(in.cuts[in.turn%len(in.cuts)])+1)
		in.turn++
	}
	in.buf, in.rest = append(bytes.Clone(in.buf), in.rest[:n]...), in.rest[n:]
	return nil
}

// readMessage is the observable result of reading a response.
type readMessage struct {
	status     int
	data, left string
	err        string
}

func readResponse(t *testing.T, in *received) (m readMessage) {
	head, err := ReadHead(in, 1<<10)
	var r Response
	if err == nil {
		err = r.Parse(head)
	}
	m.status = r.Status
	var b Body
	for b.Begin(r.Length); err == nil; {
		var piece []byte
		piece, err = b.Next(in)
		if len(piece) == 0 && err == nil {
			t.Fatal("neither data nor an error")
		}
		m.data += string(piece)
		if (err == io.EOF) != b.Done() {
			t.Fatalf("%v, and done %t", err, b.Done())
		}
	}
	if b.Done() {
		if piece, err := b.Next(in); len(piece) > 0 || err != io.EOF {
			t.Fatalf("%q, %v behind the body", piece, err)
		}
	}
	m.err, m.left = err.Error(), string(in.buf)+string(in.rest)
	return m
}

func TestReadResponse(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	broken := errors.New("broken")
	for _, c := range []struct {
		what, in string
		end      error
		want     readMessage
	}{
		{"no body", head + "Content-Length: 0\r\n\r\nnext", io.EOF, readMessage{200, "", "next", "EOF"}},
		{"length", head + "Content-Length: 3\r\n\r\nabcnext", io.EOF, readMessage{200, "abc", "next", "EOF"}},
		{"chunks", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\n\r\nnext", io.EOF, readMessage{200, "abc", "next", "EOF"}},
		{"until close", head + "\r\nabc", io.EOF, readMessage{200, "abc", "", "EOF"}},

		{"length, cut", head + "Content-Length: 4\r\n\r\nabc", io.EOF, readMessage{200, "abc", "", "unexpected EOF"}},
		{"chunks, cut", head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", io.EOF, readMessage{200, "abc", "", "unexpected EOF"}},
		{"until close, broken", head + "\r\nabc", broken, readMessage{200, "abc", "", "broken"}},
		{"length, broken", head + "Content-Length: 4\r\n\r\nabc", broken, readMessage{200, "abc", "", "broken"}},
		{"chunks, malformed", head + "Transfer-Encoding: chunked\r\n\r\nx", io.EOF, readMessage{200, "", "x", "a chunk's size is not a number"}},
		{"head, malformed", "\t", io.EOF, readMessage{0, "", "\t", "not an HTTP/1.1 message"}},
		{"head, cut", head + "A: b\r\n", io.EOF, readMessage{0, "", head + "A: b\r\n", "EOF"}},
	} {
		for _, cuts := range [][]byte{nil, {0}, {2, 0, 5}} {
			if got := readResponse(t, &received{rest: []byte(c.in), cuts: cuts, err: c.end}); got != c.want {
				t.Errorf("%s, cuts %v: %+v, want %+v", c.what, cuts, got, c.want)
			}
		}
	}
}

// TestHeadLimit: a head without an end is refused at the limit, not before.
func TestHeadLimit(t *testing.T) {
	const limit = 1 << 10
	for _, c := range []struct {
		size int
		want bool
	}{{limit - 1, true}, {limit, true}, {limit + 2, false}} {
		head := "HTTP/1.1 200 OK\r\nA: "
		head += strings.Repeat("b", c.size-len(head)-4) + "\r\n\r\n"
		in := &received{rest: []byte(head + strings.Repeat("x", limit)), cuts: []byte{0}, err: io.EOF}
		got, err := ReadHead(in, limit)
		if (err == nil) != c.want || err == nil && string(got) != head {
			t.Errorf("%d bytes: %d, %v", c.size, len(got), err)
		}
		if err != nil && (status(err) != 431 || len(in.buf) != limit) {
			t.Errorf("%d bytes: %v after %d", c.size, err, len(in.buf))
		}
	}
}

// FuzzReadResponse: the result does not depend on how the bytes arrive, and equals net/http's.
func FuzzReadResponse(f *testing.F) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcnext",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n0\r\nA: b\r\n\r\nnext",
		"HTTP/1.0 500 \r\n\r\nabc",
		"HTTP/1.1 204 No Content\r\nContent-Length: 3\r\n\r\nabc",
	} {
		f.Add([]byte(in), []byte{0})
		f.Add([]byte(in), []byte{2, 0, 4})
	}
	f.Fuzz(func(t *testing.T, raw, cuts []byte) {
		if len(raw) > 1<<10 { // one in pieces may be refused for its size
			return
		}
		whole := readResponse(t, &received{rest: raw, err: io.EOF})
		pieces := readResponse(t, &received{rest: raw, cuts: cuts, err: io.EOF})
		if whole.err != "EOF" && whole.err != "unexpected EOF" { // the progress depends on the pieces
			whole.data, whole.left, pieces.data, pieces.left = "", "", "", ""
		}
		if pieces != whole {
			t.Errorf("in pieces %+v, in one %+v", pieces, whole)
		}
		if whole.err == "EOF" && whole.status >= 200 {
			compareResponse(t, raw, whole)
		}
	})
}

func compareResponse(t *testing.T, raw []byte, ours readMessage) {
	theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(raw)), nil)
	if err != nil {
		if !badTrailerName(err) {
			t.Errorf("we read %+v, and net/http says: %v", ours, err)
		}
		return
	}
	data, err := io.ReadAll(theirs.Body)
	if err != nil { // see checkChunked
		if !blankBeforeExtension.Match(raw) && !strings.Contains(err.Error(), "too much non-data") {
			t.Errorf("we read %+v, and net/http says: %v", ours, err)
		}
		return
	}
	if theirs.StatusCode != ours.status || string(data) != ours.data {
		t.Errorf("%+v; net/http: %d, %q", ours, theirs.StatusCode, data)
	}
}
