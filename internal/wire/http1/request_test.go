package http1

import (
	"errors"
	"strings"
	"testing"
)

// start is the beginning of most requests below; blank ends them.
const (
	start = "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n"
	blank = "\r\n"
)

// parse reads one request as a connection does: HeadEnd, then Parse.
func parse(in string) (*Request, error) {
	r := new(Request)
	end, err := HeadEnd([]byte(in), 0)
	if err != nil {
		return r, err
	}
	if end == 0 {
		return r, errors.New("the head is not complete")
	}
	return r, r.Parse([]byte(in[:end]))
}

// status returns the status of the response to err: 200 for no error, and 0 for an error that is not an *Error.
func status(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 200
	case errors.As(err, &e):
		return e.Status
	default:
		return 0
	}
}

// requestPolicy lists requests with the status that they get, 200 if accepted, grouped by the sections of RFC 9112.
var requestPolicy = []struct {
	what   string
	status int
	in     string
}{
	// The request line.
	{"the one request", 200, start + blank},
	{"another method", 200, "BREW /v1/responses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"lower-case method", 200, "post / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"target that routing will refuse", 200, "POST /v1/./responses?x=%00#f HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"absolute form", 200, "POST http://127.0.0.1/v1/responses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"asterisk form", 200, "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"HTTP/1.0", 200, "POST / HTTP/1.0\r\n\r\n"},
	{"HTTP/0.9", 400, "GET /\r\n\r\n"},
	{"HTTP/0.9 by name", 505, "GET / HTTP/0.9\r\n\r\n"},
	{"HTTP/1.2", 505, "GET / HTTP/1.2\r\nHost: a\r\n\r\n"},
	{"HTTP/1.10", 505, "GET / HTTP/1.10\r\nHost: a\r\n\r\n"},
	{"HTTP/3", 505, "GET / HTTP/3\r\nHost: a\r\n\r\n"},
	{"HTTP/2 preface", 505, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
	{"lower-case protocol", 400, "GET / http/1.1\r\nHost: a\r\n\r\n"},
	{"another protocol", 400, "GET / HTTX/1.1\r\nHost: a\r\n\r\n"},
	{"nothing after the target", 400, "GET / \r\nHost: a\r\n\r\n"},
	{"two blanks before the target", 400, "POST  /v1/responses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"two blanks after the target", 400, "POST /v1/responses  HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"four words", 400, "POST /v1/responses x HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"blank at the end", 400, "POST /v1/responses HTTP/1.1 \r\nHost: a\r\n\r\n"},
	{"blank at the start", 400, " POST / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"tabs for blanks", 400, "POST\t/v1/responses\tHTTP/1.1\r\nHost: a\r\n\r\n"},
	{"tab in the target", 400, "POST /v1\t/responses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"no method", 400, "/v1/responses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"no target", 400, "POST HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"empty target", 400, "POST  HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"NUL in the method", 400, "P\x00ST / HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"NUL in the target", 400, "POST /v1/responses\x00 HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"DEL in the target", 400, "POST /\x7f HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"UTF-8 in the target", 400, "POST /v1/r\u00e9sponses HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"byte FF in the target", 400, "POST /\xff HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"bare CR in the target", 400, "POST /\rx HTTP/1.1\r\nHost: a\r\n\r\n"},
	{"bare CR for a line's end", 400, "POST / HTTP/1.1\rHost: a\r\n\r\n"},
	{"two CRs before the LF", 505, "POST / HTTP/1.1\r\r\nHost: a\r\n\r\n"},
	{"blank line first", 400, "\r\n" + start + blank},
	{"TLS ClientHello", 400, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
	{"SSLv2 hello", 400, "\x80\x2e\x01\x03\x01"},
	{"SOCKS 5 greeting", 400, "\x05\x01\x00"},

	// Line ends.
	{"bare LF everywhere", 400, "POST / HTTP/1.1\nHost: a\n\n"},
	{"bare LF after the request line", 400, "POST / HTTP/1.1\nHost: a\r\n\r\n"},
	{"bare LF between headers", 400, start + "A: 1\nB: 2\r\n\r\n"},
	{"bare LF for the blank line", 400, start + "\n"},
	{"bare CR in a value", 400, start + "A: 1\rB: 2\r\n\r\n"},
	{"bare CR at a value's end", 400, start + "A: 1\r\r\n\r\n"},
	{"bare CR in a name", 400, start + "A\rB: 2\r\n\r\n"},
	{"LF at once", 400, "\n"},

	// Header lines.
	{"value with colons and blanks", 200, start + "A: b: c\td\r\n\r\n"},
	{"no blank after the colon", 200, start + "A:b\r\n\r\n"},
	{"blanks and tabs around a value", 200, start + "A:\t b \t\r\n\r\n"},
	{"empty value", 200, start + "A:\r\nB: \r\n\r\n"},
	{"every token character", 200, start + "!#$%&'*+-.^_`|~09azAZ: x\r\n\r\n"},
	{"UTF-8 and byte FF in a value", 200, start + "A: \u00e9\xff\r\n\r\n"},
	{"folded line, blank", 400, start + "A: 1\r\n 2\r\n\r\n"},
	{"folded line, tab", 400, start + "A: 1\r\n\t2\r\n\r\n"},
	{"first line folded", 400, "POST / HTTP/1.1\r\n Host: a\r\n\r\n"},
	{"line of blanks", 400, start + "  \r\n\r\n"},
	{"no colon", 400, start + "Content-Length\r\n\r\n"},
	{"empty name", 400, start + ": x\r\n\r\n"},
	{"blank before the colon", 400, start + "Content-Length : 2\r\n\r\n"},
	{"tab before the colon", 400, start + "Content-Length\t: 2\r\n\r\n"},
	{"blank in a name", 400, start + "Content Length: 2\r\n\r\n"},
	{"bracket in a name", 400, start + "X(A): 2\r\n\r\n"},
	{"UTF-8 in a name", 400, start + "X\u00e9: 2\r\n\r\n"},
	{"Kelvin sign in a name", 400, start + "Cookie\u212a: 2\r\n\r\n"},
	{"NUL in a name", 400, start + "A\x00: 2\r\n\r\n"},
	{"NUL in a value", 400, start + "A: 1\x002\r\n\r\n"},
	{"DEL in a value", 400, start + "A: 1\x7f\r\n\r\n"},
	{"escape in a value", 400, start + "A: \x1b[0m\r\n\r\n"},
	{"vertical tab at a value's end", 400, start + "A: 1\v\r\n\r\n"},

	// Host.
	{"Host in another case", 200, "POST / HTTP/1.1\r\nhOST: a\r\n\r\n"},
	{"Host with an IPv6 address", 200, "POST / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"},
	{"empty Host", 200, "POST / HTTP/1.1\r\nHost:\r\n\r\n"},
	{"no Host", 400, "POST / HTTP/1.1\r\n\r\n"},
	{"no Host in HTTP/1.0", 200, "POST / HTTP/1.0\r\n\r\n"},
	{"two Hosts", 400, start + "Host: b\r\n\r\n"},
	{"two equal Hosts", 400, start + "Host: 127.0.0.1:8080\r\n\r\n"},
	{"two Hosts in HTTP/1.0", 400, "POST / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"},
	{"Host with a path", 400, "POST / HTTP/1.1\r\nHost: a/b\r\n\r\n"},
	{"Host with a blank", 400, "POST / HTTP/1.1\r\nHost: a b\r\n\r\n"},
	{"Host with UTF-8", 400, "POST / HTTP/1.1\r\nHost: \u00e9\r\n\r\n"},

	// Content-Length.
	{"Content-Length", 200, start + "Content-Length: 7\r\n\r\n"},
	{"Content-Length 0", 200, start + "Content-Length: 0\r\n\r\n"},
	{"Content-Length in blanks", 200, start + "Content-Length: \t2 \r\n\r\n"},
	{"Content-Length with a leading 0", 200, start + "Content-Length: 02\r\n\r\n"},
	{"Content-Length +2", 400, start + "Content-Length: +2\r\n\r\n"},
	{"Content-Length -1", 400, start + "Content-Length: -1\r\n\r\n"},
	{"Content-Length -0", 400, start + "Content-Length: -0\r\n\r\n"},
	{"Content-Length 0x2", 400, start + "Content-Length: 0x2\r\n\r\n"},
	{"Content-Length 1_0", 400, start + "Content-Length: 1_0\r\n\r\n"},
	{"Content-Length 2.0", 400, start + "Content-Length: 2.0\r\n\r\n"},
	{"Content-Length 2, 2", 400, start + "Content-Length: 2, 2\r\n\r\n"},
	{"Content-Length 2;", 400, start + "Content-Length: 2;\r\n\r\n"},
	{"Content-Length 2 2", 400, start + "Content-Length: 2 2\r\n\r\n"},
	{"Content-Length in letters", 400, start + "Content-Length: abc\r\n\r\n"},
	{"Content-Length in other digits", 400, start + "Content-Length: \u0662\r\n\r\n"},
	{"empty Content-Length", 400, start + "Content-Length:\r\n\r\n"},
	{"Content-Length of 18 digits", 200, start + "Content-Length: 999999999999999999\r\n\r\n"},
	{"Content-Length of 19 digits", 400, start + "Content-Length: 9223372036854775807\r\n\r\n"},
	{"Content-Length that wraps around", 400, start + "Content-Length: 18446744073709551618\r\n\r\n"},
	{"huge Content-Length", 400, start + "Content-Length: 9999999999999999999999\r\n\r\n"},
	{"two Content-Lengths", 400, start + "Content-Length: 2\r\nContent-Length: 7\r\n\r\n"},
	{"two equal Content-Lengths", 400, start + "Content-Length: 2\r\ncontent-length: 2\r\n\r\n"},

	// Transfer-Encoding.
	{"chunked", 200, start + "Transfer-Encoding: chunked\r\n\r\n"},
	{"CHUNKED", 200, start + "TRANSFER-ENCODING: CHUNKED\r\n\r\n"},
	{"chunked with a Kelvin sign", 501, start + "Transfer-Encoding: chun\u212aed\r\n\r\n"},
	{"identity", 501, start + "Transfer-Encoding: identity\r\n\r\n"},
	{"xchunked", 501, start + "Transfer-Encoding: xchunked\r\n\r\n"},
	{"chunked in quotes", 501, start + "Transfer-Encoding: \"chunked\"\r\n\r\n"},
	{"chunked with a parameter", 501, start + "Transfer-Encoding: chunked;q=1\r\n\r\n"},
	{"chunked and a comma", 501, start + "Transfer-Encoding: chunked,\r\n\r\n"},
	{"vertical tab before chunked", 400, start + "Transfer-Encoding: \vchunked\r\n\r\n"},
	{"gzip, chunked", 501, start + "Transfer-Encoding: gzip, chunked\r\n\r\n"},
	{"chunked, chunked", 501, start + "Transfer-Encoding: chunked, chunked\r\n\r\n"},
	{"empty Transfer-Encoding", 501, start + "Transfer-Encoding:\r\n\r\n"},
	{"two Transfer-Encodings", 400, start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"chunked, then identity", 501, start + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n"},
	{"length, then chunked", 400, start + "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"},
	{"chunked, then length", 400, start + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n"},
	{"chunked and a bad length", 400, start + "Transfer-Encoding: chunked\r\nContent-Length: x\r\n\r\n"},
	{"chunked in HTTP/1.0", 400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},

	// The number of fields.
	{"256 fields", 200, start + strings.Repeat("A:\r\n", 255) + "\r\n"},
	{"257 fields", 431, start + strings.Repeat("A:\r\n", 256) + "\r\n"},
	{"256 options", 200, start + "Connection: " + strings.Repeat("a,", 256) + "\r\n\r\n"},
	{"257 options", 431, start + "Connection: " + strings.Repeat("a,", 257) + "\r\n\r\n"},
	{"257 options in two fields", 431, start + "Connection: " + strings.Repeat("a,", 128) + "\r\nConnection: " + strings.Repeat("a,", 129) + "\r\n\r\n"},

	// Expect.
	{"Expect: 100-continue", 200, start + "Expect: 100-continue\r\n\r\n"},
	{"Expect: 100-Continue", 200, start + "Expect: 100-Continue\r\n\r\n"},
	{"another expectation", 417, start + "Expect: tea\r\n\r\n"},
	{"two expectations", 417, start + "Expect: 100-continue, tea\r\n\r\n"},
	{"empty expectation", 417, start + "Expect:\r\n\r\n"},
}

func TestRequestPolicy(t *testing.T) {
	for _, c := range requestPolicy {
		t.Run(c.what, func(t *testing.T) {
			_, err := parse(c.in)
			if got := status(err); got != c.status {
				t.Errorf("status %d (%v), want %d", got, err, c.status)
			}
			if err != nil && strings.ContainsAny(err.Error(), "\r\n\x00") {
				t.Errorf("control characters in the reason %q", err)
			}
		})
	}
}

// TestReasonIsShort: a reason is logged, so a client must not determine its length.
func TestReasonIsShort(t *testing.T) {
	name := strings.Repeat("n", 64)
	for _, extra := range []string{"", "n", strings.Repeat("n", 100_000)} {
		var r Request
		err := r.Parse([]byte("POST / HTTP/1.1\r\nHost: a\r\n" + name + extra + ": \x01\r\n\r\n"))
		if want := `the value of header "` + name + `" has a control character`; err == nil || err.Error() != want {
			t.Errorf("a name of %d bytes: %.200v, want %s", 64+len(extra), err, want)
		}
	}
}

func TestHeadEndAtEverySplit(t *testing.T) {
	for _, c := range requestPolicy {
		p := []byte(c.in + "BODY\n")
		want, wantErr := HeadEnd(p, 0)
		for cut := range p {
			end, err := HeadEnd(p[:cut], 0)
			if end == 0 && err == nil {
				end, err = HeadEnd(p, cut)
			}
			if end != want || status(err) != status(wantErr) {
				t.Errorf("%s, cut at %d: %d, %v; in one piece %d, %v", c.what, cut, end, err, want, wantErr)
			}
		}
	}
}

func TestHeadEndByteByByte(t *testing.T) {
	head := start + "A: 1\r\n\r\n"
	p := []byte(head + "\r\n\r\nnext")
	for n := 1; n <= len(head); n++ {
		end, err := HeadEnd(p[:n], n-1)
		want := 0
		if n == len(head) {
			want = n
		}
		if end != want || err != nil {
			t.Fatalf("after %d bytes: %d, %v; want %d", n, end, err, want)
		}
	}
}

// TestBlankLine checks that a blank line is a head of its own, which the server skips before a request.
func TestBlankLine(t *testing.T) {
	for in, want := range map[string]int{"\r": 0, "\r\n": 2, "\r\n\r\n": 2, "\r\nPOST": 2} {
		if end, err := HeadEnd([]byte(in), 0); end != want || err != nil {
			t.Errorf("%q: %d, %v; want %d", in, end, err, want)
		}
	}
}

func TestHeadEndRefusesAtOnce(t *testing.T) {
	for _, in := range []string{"\x16", "\x00", " ", "\t", "\n", "\xef", ":", "(", "P\n", "\rX\n"} {
		if _, err := HeadEnd([]byte(in), 0); status(err) != 400 {
			t.Errorf("%q: %v, want status 400 without waiting for more", in, err)
		}
	}
	if _, err := HeadEnd([]byte("\x16\x03\x01"), 0); err == nil || !strings.Contains(err.Error(), "TLS") {
		t.Errorf("a client that speaks TLS is told %v", err)
	}
	for _, in := range []string{"", "P", "POST / HTTP/1.1\r", "POST / HTTP/1.1\r\n", "POST / HTTP/1.1\r\n\r"} {
		if end, err := HeadEnd([]byte(in), 0); end != 0 || err != nil {
			t.Errorf("%q: %d, %v; want to wait for more", in, end, err)
		}
	}
}

func TestRequestParts(t *testing.T) {
	r, err := parse("PoST /a?b#c HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a:\t 2 \r\nX-B:\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if string(r.Method) != "PoST" || string(r.Target) != "/a?b#c" || r.Minor != 1 || r.Length != 12 || !r.Continue || r.Close {
		t.Errorf("%s %s, minor %d, length %d, continue %t, close %t", r.Method, r.Target, r.Minor, r.Length, r.Continue, r.Close)
	}
	var got []string
	for _, f := range r.Fields {
		got = append(got, string(f.Name)+"="+string(f.Value))
	}
	if want := "Host=h X-A=1 x-a=2 X-B= Content-Length=12 Expect=100-continue"; strings.Join(got, " ") != want {
		t.Errorf("fields %v, want %s", got, want)
	}
}

// TestRequestIsReset: a Request is reused for the next one on the connection, and keeps nothing of the previous one.
func TestRequestIsReset(t *testing.T) {
	r, err := parse("POST /first HTTP/1.0\r\nContent-Length: 12\r\nExpect: 100-continue\r\n\r\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Parse([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	if string(r.Method) != "GET" || string(r.Target) != "/" || r.Length != 0 || r.Continue || r.Close || r.Minor != 1 || len(r.Fields) != 1 {
		t.Errorf("something is left of the first request: %+v", r)
	}
}

func TestRequestClose(t *testing.T) {
	for _, c := range []struct {
		version, connection string
		want                bool
	}{
		{"1.1", "", false},
		{"1.1", "Connection: keep-alive\r\n", false},
		{"1.1", "Connection: close\r\n", true},
		{"1.1", "connection: Foo, CLOSE , bar\r\n", true},
		{"1.1", "Connection: close\r\nConnection: keep-alive\r\n", true},
		{"1.1", "Connection: keep-alive, close\r\n", true},
		{"1.1", "Connection: closed, un-close\r\n", false},
		{"1.1", "X-Connection: close\r\n", false},
		{"1.0", "", true},
		{"1.0", "Connection: Keep-Alive\r\n", false},
		{"1.0", "Connection: keep-alive, foo\r\n", false},
		{"1.0", "Connection: keep-alive, close\r\n", true},
		{"1.0", "Connection: close, keep-alive\r\n", true}, // RFC 9112, section 9.3: close takes precedence
	} {
		r, err := parse("POST / HTTP/" + c.version + "\r\nHost: a\r\n" + c.connection + blank)
		if err != nil {
			t.Fatal(err)
		}
		if r.Close != c.want {
			t.Errorf("HTTP/%s %q: Close is %t", c.version, c.connection, r.Close)
		}
	}
}

func TestLengthOfChunked(t *testing.T) {
	r, err := parse(start + "Transfer-Encoding: Chunked\r\n\r\n")
	if err != nil || r.Length != Chunked {
		t.Errorf("length %d, %v", r.Length, err)
	}
	r, err = parse(start + blank)
	if err != nil || r.Length != 0 {
		t.Errorf("without either header: length %d, %v", r.Length, err)
	}
}

func TestTokens(t *testing.T) {
	for in, want := range map[string]string{
		"":                "",
		" , ,, \t":        "",
		"a":               "a",
		" a ,b,\tc d ,, ": "a|b|c d",
	} {
		var got []string
		Tokens([]byte(in), func(m []byte) { got = append(got, string(m)) })
		if strings.Join(got, "|") != want {
			t.Errorf("%q: %q, want %s", in, got, want)
		}
	}
}

func TestIs(t *testing.T) {
	for _, name := range []string{"host", "HOST", "hOsT"} {
		if !Is([]byte(name), "host") {
			t.Errorf("%s is not host", name)
		}
	}
	// H\x0fST and a{b differ from "host" and "a[b" only in bit 5, as letter cases do.
	for name, lower := range map[string]string{"": "host", "hos": "host", "hosts": "host", "h\u00f6st": "host", "H\x0fST": "host", "a{b": "a[b",
		"ho\u017ft": "host", "coo\u212aie": "cookie"} {
		if Is([]byte(name), lower) {
			t.Errorf("%q is %s", name, lower)
		}
	}
}

// codexHead has the length of a head that Codex sends.
const codexHead = "POST /v1/responses HTTP/1.1\r\nhost: 127.0.0.1:41535\r\ncontent-type: application/json\r\n" +
	"accept: text/event-stream\r\nuser-agent: codex_exec/0.169.0 (Debian 12.0.0; x86_64) xterm-256color\r\n" +
	"originator: codex_exec\r\nversion: 0.169.0\r\nsession_id: 0193a5f2-77a0-7a3e-9f6e-3f1d2c4b5a69\r\n" +
	"conversation_id: 0193a5f2-77a0-7a3e-9f6e-3f1d2c4b5a69\r\nopenai-beta: responses=experimental\r\n" +
	"x-codex-turn-metadata: {\"turn_id\":\"1\"}\r\nx-codex-beta-features: none\r\nx-openai-subagent: review\r\n" +
	"accept-encoding: identity\r\nconnection: keep-alive\r\ncontent-length: 39486\r\n\r\n"

func TestParseAllocatesNothing(t *testing.T) {
	head, r := []byte(codexHead), new(Request)
	allocs := testing.AllocsPerRun(100, func() {
		if end, err := HeadEnd(head, 0); err != nil || r.Parse(head[:end]) != nil {
			t.Fatal(err)
		}
	})
	if allocs != 0 {
		t.Errorf("%v allocations per request", allocs)
	}
}

func BenchmarkRequestParse(b *testing.B) {
	head, r := []byte(codexHead), new(Request)
	b.ReportAllocs()
	b.SetBytes(int64(len(head)))
	for b.Loop() {
		end, err := HeadEnd(head, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := r.Parse(head[:end]); err != nil {
			b.Fatal(err)
		}
	}
}
