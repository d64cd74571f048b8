package openaitest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const maxHead = 1 << 20

var (
	errHeadTooLong = errors.New("head longer than 1 MiB")
	errChunk       = errors.New("malformed chunk")
)

// readHead returns everything up to the first blank line. It takes a bare LF
// for a line's end, for parseHead to complain about.
func (c *conn) readHead() ([]byte, error) {
	var head []byte
	for start := 0; ; {
		more, whole, err := c.in.line(head)
		if err != nil {
			return nil, err
		}
		if head = more; len(head) > maxHead {
			return nil, errHeadTooLong
		}
		if !whole {
			continue
		}
		if len(bytes.TrimRight(head[start:], "\r\n")) == 0 {
			return head, nil
		}
		start = len(head)
	}
}

// parseHead returns what it can make of head, and all that is wrong with it.
func parseHead(head []byte) (*Request, []string) {
	r := newRequest(head)
	var faults []string
	first := true
	for line := range bytes.Lines(head) {
		text, ok := strings.CutSuffix(string(line), "\r\n")
		if !ok {
			faults = append(faults, "bare LF in a head")
			text = strings.TrimSuffix(text, "\n")
		}
		var fault string
		switch {
		case first:
			fault = r.parseRequestLine(text)
		case text != "":
			fault = r.parseField(text)
		}
		if fault != "" {
			faults = append(faults, fault)
		}
		first = false
	}
	return r, append(faults, r.check()...)
}

func (r *Request) parseRequestLine(line string) string {
	parts := strings.Split(line, " ")
	if len(parts) != 3 || !isToken(parts[0]) || parts[1] == "" || !isText(line) {
		return fmt.Sprintf("malformed request line %q", line)
	}
	r.Method, r.Target = parts[0], parts[1]
	if parts[2] != "HTTP/1.1" {
		return fmt.Sprintf("version %q", parts[2])
	}
	return ""
}

// parseField quotes no value in its complaints: it may be a credential.
func (r *Request) parseField(line string) string {
	name, value, ok := strings.Cut(line, ":")
	if line[0] == ' ' || line[0] == '\t' {
		return "folded header line"
	}
	if !ok || !isToken(name) {
		return "malformed header name"
	}
	value = strings.Trim(value, " \t")
	r.Fields = append(r.Fields, Field{name, value})
	if !isText(value) {
		return fmt.Sprintf("control character in header %s", name)
	}
	return ""
}

// check looks at what RFC 9112 demands of a head as a whole.
func (r *Request) check() []string {
	var faults []string
	complain := func(bad bool, text string) {
		if bad {
			faults = append(faults, text)
		}
	}
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
	return faults
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && !strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) {
			return false
		}
	}
	return s != ""
}

func isText(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' && c != '\t' || c == 0x7f })
}

// bodyReader returns the content of the request's body.
func (c *conn) bodyReader(r *Request) io.Reader {
	if r.length < 0 {
		return &chunkReader{in: c.in}
	}
	return &sizedReader{in: c.in, left: r.length}
}

// A sizedReader tells a body that broke off from one that ended.
type sizedReader struct {
	in   *inbox
	left int64
}

func (b *sizedReader) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// A chunkReader takes the framing off a chunked body. Its grammar is strict:
// the error for anything else wraps errChunk.
type chunkReader struct {
	in   *inbox
	left int64
	open bool // a chunk was read, its closing CRLF was not
	end  bool
}

func (b *chunkReader) Read(p []byte) (int, error) {
	if b.left == 0 && !b.end {
		if err := b.next(); err != nil {
			return 0, err
		}
	}
	if b.end {
		return 0, io.EOF
	}
	n, err := b.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, broken(err)
}

func broken(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next reads what stands between the content of two chunks.
func (b *chunkReader) next() error {
	if b.open {
		if line, err := b.line(); err != nil || line != "" {
			return chunkError(err, "no CRLF after it")
		}
	}
	b.open = true
	line, err := b.line()
	if err != nil {
		return err
	}
	size, _, _ := strings.Cut(line, ";")
	n, err := strconv.ParseUint(size, 16, 62)
	if err != nil || len(size) > 0 && size[0] == '+' {
		return chunkError(nil, "bad size")
	}
	b.left, b.end = int64(n), n == 0
	if b.end {
		return b.trailers()
	}
	return nil
}

func (b *chunkReader) trailers() error {
	for {
		line, err := b.line()
		if err != nil || line == "" {
			return err
		}
		if name, _, ok := strings.Cut(line, ":"); !ok || !isToken(name) {
			return chunkError(nil, "bad trailer")
		}
	}
}

func chunkError(err error, what string) error {
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: %s", errChunk, what)
}

func (b *chunkReader) line() (string, error) {
	var line []byte
	for whole := false; !whole; {
		var err error
		if line, whole, err = b.in.line(line); err != nil {
			return "", broken(err)
		}
		if len(line) > 4096 {
			return "", chunkError(nil, "line too long")
		}
	}
	text, ok := strings.CutSuffix(string(line), "\r\n")
	if !ok {
		return "", chunkError(nil, "bare LF")
	}
	return text, nil
}
