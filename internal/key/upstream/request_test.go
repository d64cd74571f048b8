package upstream

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/socket"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// readBody is a body that arrives in these pieces. The last one comes together with err.
type readBody struct {
	pieces []string
	err    error
}

func (b *readBody) Read(p []byte) (n int, err error) {
	n = copy(p, b.pieces[0])
	if b.pieces[0] = b.pieces[0][n:]; b.pieces[0] == "" {
		b.pieces = b.pieces[1:]
	}
	if len(b.pieces) == 0 {
		b.pieces, err = []string{""}, b.err
	}
	return n, err
}

func (*readBody) Interrupt() {}

// TestBodies: what is sent of a body after its beginning, which has arrived with the head. Of a body that the client
// has not sent to its end, bytes are missing, or the last chunk.
func TestBodies(t *testing.T) {
	reset := errors.New("reset")
	long := strings.Repeat("x", copySize)
	first := copySize - chunkSpace - len("\r\n") // of long, in hexadecimal 0x7ff4
	for what, c := range map[string]struct {
		start  string
		length int64
		rest   readBody
		want   string
		err    error
	}{
		"whole":            {"ab", 6, readBody{[]string{"c", "def"}, io.EOF}, "cdef", nil},
		"more":             {"ab", 6, readBody{[]string{"cdefGET /"}, io.EOF}, "cdef", nil},
		"reset at the end": {"ab", 6, readBody{[]string{"c", "def"}, reset}, "cdef", nil},
		"ended early":      {"ab", 6, readBody{[]string{"c", "de"}, io.EOF}, "cde", io.EOF},
		"reset":            {"ab", 6, readBody{[]string{"c", "de"}, reset}, "cde", reset},
		"none":             {"", 6, readBody{[]string{""}, reset}, "", reset},

		"chunks":           {"ab", http1.Chunked, readBody{[]string{"c", "def"}, io.EOF}, "\r\n1\r\nc\r\n3\r\ndef\r\n0\r\n\r\n", nil},
		"a separate end":   {"ab", http1.Chunked, readBody{[]string{"c", ""}, io.EOF}, "\r\n1\r\nc\r\n0\r\n\r\n", nil},
		"all later":        {"", http1.Chunked, readBody{[]string{"c"}, io.EOF}, "1\r\nc\r\n0\r\n\r\n", nil},
		"a long chunk":     {"", http1.Chunked, readBody{[]string{long}, io.EOF}, "7ff4\r\n" + long[:first] + "\r\nc\r\n" + long[first:] + "\r\n0\r\n\r\n", nil},
		"reset in chunks":  {"ab", http1.Chunked, readBody{[]string{"c", "def"}, reset}, "\r\n1\r\nc\r\n3\r\ndef\r\n", reset},
		"nothing in chunk": {"", http1.Chunked, readBody{[]string{""}, reset}, "", reset},
	} {
		l := must(net.Listen("tcp4", "127.0.0.1:0"))
		ours := must(net.Dial("tcp4", l.Addr().String())).(*net.TCPConn)
		theirs := must(l.Accept())
		l.Close()
		r := &Request{Start: []byte(c.start), Rest: &c.rest, Length: c.length}
		err := (&conn{TCPConn: ours, socket: socket.New(ours)}).sendRest(r, nil)
		ours.Close()
		got, readErr := io.ReadAll(theirs)
		theirs.Close()
		if string(got) != c.want || readErr != nil || !errors.Is(err, c.err) || (c.err != nil) != errors.Is(err, errBody) {
			t.Errorf("%s: sent %.99q, %v, %v; want %.99q, %v", what, got, readErr, err, c.want, c.err)
		}
	}
}

// TestHeads: the framing of a request's body, after its fields.
func TestHeads(t *testing.T) {
	for _, c := range []struct {
		r    Request
		want string
	}{
		{Request{Length: 2, Start: []byte("{}")}, "content-length: 2\r\n\r\n"},
		{Request{Method: "POST"}, "content-length: 0\r\n\r\n"},
		{Request{Length: http1.Chunked}, "transfer-encoding: chunked\r\n\r\n"},
		{Request{Length: http1.Chunked, Start: []byte("0123456789abcdef")}, "transfer-encoding: chunked\r\n\r\n10\r\n"},
		{Request{Method: "GET"}, "\r\n"},
		{Request{Method: "DELETE"}, "\r\n"},
		{Request{Method: "GET", Upgrade: true}, "connection: Upgrade\r\nupgrade: websocket\r\n\r\n"},
	} {
		c.r.Fields = []http1.Field{{Name: []byte("A"), Value: []byte("b")}, {Name: []byte("C")}}
		if got := string(c.r.appendFields(nil)); got != "A: b\r\nC: \r\n"+c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}
