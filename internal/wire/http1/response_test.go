package http1

import (
	"strings"
	"testing"
)

// parseResponse reads one response as a connection does.
func parseResponse(in string) (*Response, error) {
	r := new(Response)
	end, err := HeadEnd([]byte(in), 0)
	if err != nil {
		return r, err
	}
	if end == 0 {
		return r, bad("the head is not complete")
	}
	return r, r.Parse([]byte(in[:end]))
}

func TestResponsePolicy(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for _, c := range []struct {
		what   string
		accept bool
		in     string
	}{
		{"a response", true, ok + blank},
		{"256 fields", true, ok + strings.Repeat("A:\r\n", 256) + "\r\n"},
		{"257 fields", false, ok + strings.Repeat("A:\r\n", 257) + "\r\n"},
		{"257 options", false, ok + "Connection: " + strings.Repeat("a,", 257) + "\r\n\r\n"},
		{"empty reason", true, "HTTP/1.1 200 \r\n\r\n"},
		{"no reason, no blank", true, "HTTP/1.1 200\r\n\r\n"},
		{"long reason", true, "HTTP/1.1 429 Too Many Requests\r\n\r\n"},
		{"status 999", true, "HTTP/1.1 999 x\r\n\r\n"},
		{"status 100", true, "HTTP/1.1 100 Continue\r\n\r\n"},
		{"HTTP/1.0", true, "HTTP/1.0 200 OK\r\n\r\n"},
		{"status 099", false, "HTTP/1.1 099 x\r\n\r\n"},
		{"status 000", false, "HTTP/1.1 000 x\r\n\r\n"},
		{"status of two digits", false, "HTTP/1.1 20 OK\r\n\r\n"},
		{"status of four digits", false, "HTTP/1.1 2000 OK\r\n\r\n"},
		{"status with a sign", false, "HTTP/1.1 +20 OK\r\n\r\n"},
		{"status in letters", false, "HTTP/1.1 OK! OK\r\n\r\n"},
		{"two blanks before the status", false, "HTTP/1.1  200 OK\r\n\r\n"},
		{"tab before the status", false, "HTTP/1.1\t200 OK\r\n\r\n"},
		{"tab after the status", false, "HTTP/1.1 200\tOK\r\n\r\n"},
		{"HTTP/1.2", false, "HTTP/1.2 200 OK\r\n\r\n"},
		{"HTTP/1.x", false, "HTTP/1.x 200 OK\r\n\r\n"},
		{"HTTP/1./", false, "HTTP/1./ 200 OK\r\n\r\n"},
		{"HTTP/2.0", false, "HTTP/2.0 200 OK\r\n\r\n"},
		{"HTTP/2", false, "HTTP/2 200 OK\r\n\r\n"},
		{"lower case", false, "http/1.1 200 OK\r\n\r\n"},
		{"ICY", false, "ICY 200 OK\r\n\r\n"},
		{"a request", false, start + blank},
		{"empty", false, "\r\n\r\n"},
		{"SSH", false, "SSH-2.0-OpenSSH_9.2\r\n\r\n"},
		{"HTML", false, "<html>\r\n\r\n"},
		{"NUL in the reason", false, "HTTP/1.1 200 O\x00K\r\n\r\n"},
		{"bare CR in the reason", false, "HTTP/1.1 200 O\rK\r\n\r\n"},
		{"bare LF", false, "HTTP/1.1 200 OK\n\n"},
		{"bare LF between headers", false, ok + "A: 1\nB: 2\r\n\r\n"},
		{"bare CR in a value", false, ok + "A: 1\rB: 2\r\n\r\n"},
		{"NUL in a value", false, ok + "A: \x00\r\n\r\n"},
		{"folded line", false, ok + "A: 1\r\n 2\r\n\r\n"},
		{"no colon", false, ok + "A\r\n\r\n"},
		{"empty name", false, ok + ": 1\r\n\r\n"},
		{"blank before the colon", false, ok + "A : 1\r\n\r\n"},
		{"no Host, two Hosts", true, ok + "Host: a\r\nHost: b\r\n\r\n"},
		{"any Expect", true, ok + "Expect: tea\r\n\r\n"},
		{"length", true, ok + "Content-Length: 7\r\n\r\n"},
		{"length +7", false, ok + "Content-Length: +7\r\n\r\n"},
		{"two lengths", false, ok + "Content-Length: 7\r\nContent-Length: 8\r\n\r\n"},
		{"two equal lengths", false, ok + "Content-Length: 7\r\nContent-Length: 7\r\n\r\n"},
		{"length and chunked", false, ok + "Content-Length: 7\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"gzip, chunked", false, ok + "Transfer-Encoding: gzip, chunked\r\n\r\n"},
		{"two codings", false, ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"chunked in HTTP/1.0", false, "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"},
		{"bad length in a 204", false, "HTTP/1.1 204 x\r\nContent-Length: x\r\n\r\n"},
	} {
		t.Run(c.what, func(t *testing.T) {
			_, err := parseResponse(c.in)
			if (err == nil) != c.accept {
				t.Errorf("%v; want accepted: %t", err, c.accept)
			}
			if err != nil && status(err) == 0 {
				t.Errorf("%v is not an *Error", err)
			}
		})
	}
}

func TestResponseFraming(t *testing.T) {
	for _, c := range []struct {
		in     string
		length int64
		close  bool
	}{
		{"HTTP/1.1 200 OK\r\n\r\n", UntilClose, true},
		{"HTTP/1.0 200 OK\r\n\r\n", UntilClose, true},
		{"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", UntilClose, true},
		{"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n", 7, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 0, false},
		{"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\n", 7, true},
		{"HTTP/1.0 200 OK\r\nContent-Length: 7\r\n\r\n", 7, true},
		{"HTTP/1.0 200 OK\r\nContent-Length: 7\r\nConnection: keep-alive\r\n\r\n", 7, false},
		{"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Chunked, false},
		{"HTTP/1.1 100 Continue\r\n\r\n", 0, false},
		{"HTTP/1.1 103 x\r\nContent-Length: 7\r\n\r\n", 0, false},
		{"HTTP/1.1 204 No Content\r\n\r\n", 0, false},
		{"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", 0, false},
		{"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n", 0, false},
		{"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", 0, false},
	} {
		r, err := parseResponse(c.in)
		if err != nil || r.Length != c.length || r.Close != c.close {
			t.Errorf("%q: length %d, close %t, %v; want %d, %t", c.in, r.Length, r.Close, err, c.length, c.close)
		}
	}
}

// TestResponseIsReset: a Response is reused for the next one on the connection.
func TestResponseIsReset(t *testing.T) {
	r, err := parseResponse("HTTP/1.0 529 x\r\nContent-Length: 12\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Parse([]byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if r.Status != 200 || r.Minor != 1 || r.Length != Chunked || r.Close || len(r.Fields) != 1 {
		t.Errorf("fields of the first response remain: %+v", r)
	}
}
