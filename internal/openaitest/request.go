package openaitest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http/httputil"
	"net/textproto"
	"slices"
	"strconv"
	"strings"
)

const (
	maxHead = 1 << 20
	// maxKept is how much of a body a record keeps.
	maxKept = 1 << 20
)

// A Field is one header line, its name as it was sent.
type Field struct{ Name, Value string }

// A Request is the record of one request. Everything but the body is set from
// the start; BodySHA256 and BodyLen are valid after Done or Body.
type Request struct {
	Head           []byte // the exact bytes, blank line included
	Method, Target string
	Fields         []Field
	BodySHA256     [32]byte // of the content: chunked framing is taken off
	BodyLen        int64

	Conn int                  // number of the connection, from 1
	TLS  *tls.ConnectionState // nil without TLS
	ALPN []string             // what the client offered

	length                         int64 // as announced; -1: chunked
	body                           []byte
	bodyErr                        error
	bodyDone, gone, answered, done chan struct{} // gone and answered are closed under the connection's mutex
}

// Get returns the first value of the field name, in any case.
func (r *Request) Get(name string) string {
	if v := r.Values(name); len(v) > 0 {
		return v[0]
	}
	return ""
}

// Values returns all values of the fields with one of the names, in any case.
func (r *Request) Values(names ...string) []string {
	var values []string
	for _, f := range r.Fields {
		if slices.ContainsFunc(names, func(name string) bool { return strings.EqualFold(f.Name, name) }) {
			values = append(values, f.Value)
		}
	}
	return values
}

// Credentials returns every value of every field that carries a credential.
func (r *Request) Credentials() []string {
	return r.Values("Authorization", "Proxy-Authorization", "Api-Key", "X-Api-Key", "X-Goog-Api-Key", "Cookie")
}

// Body waits until the body has been read whole and returns its first 1 MiB.
// When the body breaks off it returns what came before, and an error.
func (r *Request) Body(ctx context.Context) ([]byte, error) {
	select {
	case <-r.bodyDone:
		return r.body, r.bodyErr
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Gone is closed when the peer leaves before the response is complete.
func (r *Request) Gone() <-chan struct{} { return r.gone }

// Answered is closed when the response has been written whole. It stays open
// when the scenario cuts the response or the peer leaves; see Done.
func (r *Request) Answered() <-chan struct{} { return r.answered }

// Done is closed when the server is through with the request, however it ended.
func (r *Request) Done() <-chan struct{} { return r.done }

var errBodyNotRead = errors.New("openaitest: the scenario ended without reading the body")

// settle closes what nothing else will close.
func (r *Request) settle() {
	if !isClosed(r.bodyDone) {
		r.bodyErr = errBodyNotRead
		close(r.bodyDone)
	}
	close(r.done)
}

var (
	errHeadTooLong = errors.New("head longer than 1 MiB")
	errChunk       = errors.New("malformed chunk")
)

// readHead returns everything up to the first blank line. It takes a bare LF
// for a line's end, for parseHead to complain about.
func (c *conn) readHead() (head []byte, err error) {
	for {
		line, err := c.br.ReadSlice('\n')
		whole := len(head) == 0 || head[len(head)-1] == '\n' // what came before
		head = append(head, line...)
		switch {
		case len(head) > maxHead:
			return head, errHeadTooLong
		case errors.Is(err, bufio.ErrBufferFull):
		case err != nil:
			return head, err
		case whole && strings.TrimRight(string(line), "\r\n") == "":
			return head, nil
		}
	}
}

// parseHead returns what it can make of head, and all that is wrong with it. It
// quotes no value: that may be a credential.
func parseHead(head []byte) (*Request, []string) {
	r := &Request{Head: head}
	for _, c := range []*chan struct{}{&r.bodyDone, &r.gone, &r.answered, &r.done} {
		*c = make(chan struct{})
	}
	var faults []string
	complain := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
	lines := strings.Split(strings.TrimSuffix(string(head), "\r\n\r\n"), "\r\n")
	first, _, _ := strings.Cut(lines[0], "\n")
	request := strings.Split(first, " ")
	if len(request) == 3 {
		r.Method, r.Target = request[0], request[1]
		complain(request[2] != "HTTP/1.1", fmt.Sprintf("version %q", request[2]))
	}
	complain(len(request) != 3 || !isToken(r.Method) || r.Target == "" || strings.ContainsFunc(first, isControl),
		fmt.Sprintf("malformed request line %q", first))
	for _, line := range lines[1:] {
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		r.Fields = append(r.Fields, Field{name, value})
		complain(strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t"), "folded header line")
		complain(!ok || !isToken(name), "malformed header name")
		complain(strings.ContainsFunc(value, isControl), "control character in header "+name)
	}
	complain(strings.Contains(strings.Join(lines, ""), "\n"), "bare LF in a head")
	r.checkFraming(complain)
	return r, faults
}

// checkFraming checks what RFC 9112 demands of a head as a whole.
func (r *Request) checkFraming(complain func(bad bool, text string)) {
	lengths, codings := r.Values("Content-Length"), r.Values("Transfer-Encoding")
	complain(len(r.Values("Host")) != 1, "not exactly one Host")
	complain(len(r.Values("Authorization")) > 1, "more than one Authorization")
	complain(len(lengths) > 1, "more than one Content-Length")
	complain(len(lengths) > 0 && len(codings) > 0, "Content-Length and Transfer-Encoding")
	complain(len(codings) > 1 || len(codings) == 1 && !strings.EqualFold(codings[0], "chunked"), "Transfer-Encoding other than chunked")
	if len(codings) > 0 {
		r.length = -1
	} else if len(lengths) > 0 {
		n, err := strconv.ParseUint(lengths[0], 10, 63)
		complain(err != nil, "malformed Content-Length")
		r.length = int64(n)
	}
}

func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(c rune) bool {
		return c <= ' ' || c >= 0x7f || strings.ContainsRune(`"(),/:;<=>?@[\]{}`, c)
	})
}

func isControl(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f }

// readBody hands the content of the request's body to take, piece by piece. Its
// error wraps errChunk if chunked framing is malformed.
func (c *conn) readBody(r *Request, buf []byte, take func([]byte) error) error {
	from := io.LimitReader(c.br, r.length)
	if r.length < 0 {
		from = httputil.NewChunkedReader(c.br)
	}
	var err error
	for n, total := 0, int64(0); err == nil; {
		n, err = from.Read(buf)
		total += int64(n)
		if err == io.EOF && total < r.length {
			err = io.ErrUnexpectedEOF
		}
		if err := take(buf[:n]); err != nil {
			return err
		}
	}
	if err == io.EOF && r.length < 0 {
		if _, err = textproto.NewReader(c.br).ReadMIMEHeader(); err == nil { // the trailers
			return nil
		}
	}
	switch {
	case err == io.EOF && r.length >= 0:
		return nil
	case r.length < 0 && !c.hasLeft():
		return fmt.Errorf("%w: %w", errChunk, err)
	}
	return err
}
