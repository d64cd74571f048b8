package http1

import (
	"bytes"
	"strconv"
)

// Response is the head of a response.
type Response struct {
	message
	// Status is the status code, 100 to 999.
	Status int
}

// Parse parses a complete head of a response to a POST, as HeadEnd delimits it, into r. The slices in r are parts of
// head. All errors are of type *Error.
func (r *Response) Parse(head []byte) error {
	line, fields := nextLine(head)
	if err := r.parseLine(line); err != nil {
		return err
	}
	if err := r.parse(fields, UntilClose); err != nil {
		return err
	}
	if r.Status < 200 || r.Status == 204 || r.Status == 304 {
		r.Length = 0 // regardless of the fields (RFC 9112, section 6.3)
	}
	if r.Length == UntilClose {
		r.Close = true
	}
	return nil
}

func (r *Response) parseLine(line []byte) error {
	version, rest, _ := bytes.Cut(line, []byte{' '})
	code, reason, _ := bytes.Cut(rest, []byte{' '})
	status, err := strconv.ParseUint(string(code), 10, 16)
	switch {
	case !r.setVersion(version) || len(code) != 3 || err != nil || status < 100:
		return bad("the status line is not 'HTTP/1.1 NNN reason'")
	case !valueChars.haveAll(reason):
		return bad("the status line has a control character")
	}
	r.Status = int(status)
	return nil
}
