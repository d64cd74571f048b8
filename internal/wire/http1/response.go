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
	const form = "HTTP/1.x NNN"
	if len(line) < len(form) || !bytes.HasPrefix(line, []byte("HTTP/1.")) || line[8] != ' ' || len(line) > len(form) && line[len(form)] != ' ' {
		return bad("the status line is not 'HTTP/1.1 NNN reason'")
	}
	if r.Minor = int(line[7] - '0'); r.Minor > 1 || line[7] < '0' {
		return bad("unsupported HTTP version")
	}
	if !valueChars.haveAll(line[len(form)-3:]) {
		return bad("the status line has a control character")
	}
	status, err := strconv.ParseUint(string(line[9:12]), 10, 16)
	if err != nil || status < 100 {
		return bad("the status code is not a number from 100 to 999")
	}
	r.Status = int(status)
	return nil
}
