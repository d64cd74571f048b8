package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The fuzz targets compare this package with net/http: net/http must accept everything that this package accepts, with
// the same result. The converse does not hold, because this package is stricter. Exceptions are explained where they
// are made.

// headFaults returns what no accepted head may contain, for any next parser.
func headFaults(head []byte) string {
	text := strings.ReplaceAll(string(head), "\r\n", "")
	if i := strings.IndexAny(text, "\r\n\x00"); i >= 0 {
		return "a bare CR, a bare LF or a NUL in an accepted head"
	}
	return ""
}

// grouped returns fields in the form of net/http: by canonical name, in order.
func grouped(fields []Field) http.Header {
	h := http.Header{}
	for _, f := range fields {
		h.Add(string(f.Name), string(f.Value))
	}
	return h
}

// checkFields compares header fields. net/http removes some fields from its map, and adds one.
func checkFields(t *testing.T, fields []Field, theirs http.Header, length int64, taken ...string) {
	t.Helper()
	ours := grouped(fields)
	if len(ours["Cache-Control"]) == 0 && slices.Contains(ours["Pragma"], "no-cache") {
		delete(theirs, "Cache-Control") // added for HTTP/1.0
	}
	if length == Chunked {
		taken = append(taken, "Trailer")
	}
	for _, name := range append(taken, "Transfer-Encoding") {
		delete(ours, name)
		delete(theirs, name)
	}
	for name, values := range ours {
		if !slices.Equal(values, theirs[name]) {
			t.Errorf("%s: ours %q, net/http's %q", name, values, theirs[name])
		}
	}
	if len(ours) != len(theirs) {
		t.Errorf("ours %q, net/http's %q", ours, theirs)
	}
}

// badTrailerName reports whether net/http refused the names in a Trailer field. This package drops trailers, so their
// names do not matter.
func badTrailerName(err error) bool { return strings.Contains(err.Error(), "bad trailer key") }

// readRequest parses a head with net/http. net/http parses the target as a URL, which this package leaves to the
// routes; so an invalid target is replaced before a second try.
func readRequest(head []byte, r *Request) (*http.Request, string, error) {
	read := func(p []byte) (*http.Request, error) { return http.ReadRequest(bufio.NewReader(bytes.NewReader(p))) }
	target := string(r.Target)
	got, err := read(head)
	var notURL *url.Error
	if errors.As(err, &notURL) {
		at := len(r.Method) + 1
		head = slices.Concat(head[:at], []byte("/"), head[at+len(target):])
		target = "/"
		got, err = read(head)
	}
	return got, target, err
}

func FuzzRequest(f *testing.F) {
	for _, c := range requestPolicy {
		f.Add([]byte(c.in))
	}
	f.Add([]byte(codexHead))
	f.Fuzz(func(t *testing.T, in []byte) {
		end, err := HeadEnd(in, 0)
		if err != nil || end == 0 {
			return
		}
		head, r := in[:end:end], new(Request)
		if err := r.Parse(head); err != nil {
			if status(err) < 400 {
				t.Fatalf("%v is not an *Error with a status", err)
			}
			return
		}
		if fault := headFaults(head); fault != "" {
			t.Error(fault)
		}
		theirs, target, err := readRequest(head, r)
		if err != nil {
			if !badTrailerName(err) {
				t.Errorf("accepted, but net/http says: %v", err)
			}
			return
		}
		checkRequest(t, r, target, theirs)
	})
}

func checkRequest(t *testing.T, r *Request, target string, theirs *http.Request) {
	if string(r.Method) != theirs.Method || target != theirs.RequestURI || r.Minor != theirs.ProtoMinor {
		t.Errorf("%s %s, minor %d; net/http: %s %s, minor %d", r.Method, target, r.Minor, theirs.Method, theirs.RequestURI, theirs.ProtoMinor)
	}
	chunked := len(theirs.TransferEncoding) > 0
	if r.Length != theirs.ContentLength || (r.Length == Chunked) != chunked {
		t.Errorf("length %d; net/http: %d, chunked %t", r.Length, theirs.ContentLength, chunked)
	}
	if r.Close != theirs.Close {
		t.Errorf("close %t; net/http: %t", r.Close, theirs.Close)
	}
	if hosts := grouped(r.Fields)["Host"]; theirs.URL.Host == "" && strings.Join(hosts, "") != theirs.Host {
		t.Errorf("host %q; net/http: %q", hosts, theirs.Host)
	}
	checkFields(t, r.Fields, theirs.Header, r.Length, "Host")
}

func FuzzResponse(f *testing.F) {
	for _, in := range []string{
		"HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200\r\n\r\n",
		"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 7\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\nTrailer: A, B\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n",
		"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n",
		"HTTP/1.1 103 x\r\nLink: y\r\nConnection: close, keep-alive\r\n\r\n",
		"HTTP/1.1 304 x\r\nContent-Length: 10\r\nPragma: no-cache\r\n\r\n",
	} {
		f.Add([]byte(in))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		end, err := HeadEnd(in, 0)
		if err != nil || end == 0 {
			return
		}
		head, r := in[:end:end], new(Response)
		if err := r.Parse(head); err != nil {
			if status(err) < 400 {
				t.Fatalf("%v is not an *Error with a status", err)
			}
			return
		}
		if fault := headFaults(head); fault != "" {
			t.Error(fault)
		}
		theirs, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: "POST"})
		if err != nil {
			if !badTrailerName(err) {
				t.Errorf("accepted, but net/http says: %v", err)
			}
			return
		}
		checkResponse(t, r, theirs)
	})
}

func checkResponse(t *testing.T, r *Response, theirs *http.Response) {
	if r.Status != theirs.StatusCode || r.Minor != theirs.ProtoMinor {
		t.Errorf("status %d, minor %d; net/http: %d, %d", r.Status, r.Minor, theirs.StatusCode, theirs.ProtoMinor)
	}
	want := theirs.ContentLength
	chunked := len(theirs.TransferEncoding) > 0
	switch {
	case r.Status < 200 || r.Status == 204 || r.Status == 304:
		want, chunked = 0, false // net/http reports the coding, but reads no body
	case want < 0 && !chunked:
		want = UntilClose
	}
	if r.Length != want || (r.Length == Chunked) != chunked {
		t.Errorf("length %d; net/http: %d, chunked %t", r.Length, want, chunked)
	}
	if r.Close != theirs.Close {
		t.Errorf("close %t; net/http: %t", r.Close, theirs.Close)
	}
	if chunkedHead := len(theirs.TransferEncoding) > 0; chunkedHead {
		checkFields(t, r.Fields, theirs.Header, Chunked, "Connection", "Content-Length")
		return
	}
	// net/http removes "Connection: close" from a response.
	checkFields(t, r.Fields, theirs.Header, r.Length, "Connection")
}

// outcome is the observable result of decoding a body.
type outcome struct {
	data   string
	used   int
	done   bool
	failed bool
}

// run decodes body in pieces whose lengths repeat cuts; without cuts in one piece. The bytes after used must stay
// unchanged.
func run(t *testing.T, body, cuts []byte) (o outcome) {
	var d decoder
	p := bytes.Clone(body)
	for i := 0; o.used < len(p) && d.state != ended && !o.failed; i++ {
		piece := p[o.used:]
		if len(cuts) > 0 {
			piece = piece[:min(len(piece), int(cuts[i%len(cuts)])+1)]
		}
		n, used, err := d.Decode(piece)
		o.data += string(piece[:n])
		o.failed = err != nil
		if n > used || used > len(piece) || used < len(piece) && d.state != ended && err == nil {
			t.Fatalf("n %d, used %d of %d, done %t, %v", n, used, len(piece), d.state == ended, err)
		}
		if err != nil && status(err) != 400 {
			t.Fatalf("%v is not an *Error with status 400", err)
		}
		o.used += used
	}
	if !bytes.Equal(p[o.used:], body[o.used:]) {
		t.Fatal("bytes behind the body were changed")
	}
	o.done = d.state == ended
	return o
}

func FuzzDecoder(f *testing.F) {
	for _, in := range []string{
		"0\r\n\r\n",
		"3\r\nabc\r\n0\r\n\r\nPOST / HTTP/1.1\r\n",
		"3;a=\"b\"\r\nabc\r\nA ;x\r\n0123456789\r\n0\r\nA: b\r\nC:\r\n\r\n",
		"3\r\nabcd\r\n",
		"1\r\na\r\n1\r\nb\r\n000000000000000\t\r\n\r\n",
	} {
		f.Add([]byte(in), []byte{})
		f.Add([]byte(in), []byte{0})
		f.Add([]byte(in), []byte{2, 0, 4})
	}
	f.Fuzz(func(t *testing.T, body, cuts []byte) {
		if len(body) > 16<<10 {
			return
		}
		whole := run(t, body, nil)
		if pieces := run(t, body, cuts); pieces != whole {
			t.Errorf("in pieces %+v, in one %+v", pieces, whole)
		}
		if whole.done {
			checkChunked(t, body, whole)
		}
	})
}

// blankBeforeExtension matches what RFC 9112, section 7.1.1, requires a recipient to accept and net/http refuses.
var blankBeforeExtension = regexp.MustCompile(`[0-9A-Fa-f][ \t]+;`)

// checkChunked reads a complete body with net/http, which refuses a body with mostly other bytes than data; this
// package limits each line instead.
func checkChunked(t *testing.T, body []byte, ours outcome) {
	const head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	in := bufio.NewReaderSize(io.MultiReader(strings.NewReader(head), bytes.NewReader(body)), len(head)+len(body)+16)
	response, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(response.Body)
	if err != nil {
		blank := strings.Contains(err.Error(), "invalid byte in chunk length") && blankBeforeExtension.Match(body)
		if !blank && !strings.Contains(err.Error(), "too much non-data") {
			t.Errorf("complete, but net/http says: %v", err)
		}
		return
	}
	if string(data) != ours.data {
		t.Errorf("%q; net/http: %q", ours.data, data)
	}
	rest, err := io.ReadAll(in)
	if err != nil || !bytes.Equal(rest, body[ours.used:]) {
		t.Errorf("left %q; net/http: %q, %v", body[ours.used:], rest, err)
	}
}
