package http1

import "bytes"

// Request is the head of a request.
type Request struct {
	message
	// Method and Target are the exact bytes of the request line.
	Method, Target []byte
	// Continue reports whether the client waits for 100 (Continue) before it sends the body.
	Continue bool
}

// Parse parses a complete head, as HeadEnd delimits it, into r. The slices in r are parts of head. All errors are of
// type *Error.
func (r *Request) Parse(head []byte) error {
	line, fields := nextLine(head)
	if err := r.parseLine(line); err != nil {
		return err
	}
	if err := r.parse(fields, 0); err != nil {
		return err
	}
	return r.checkHostAndExpect()
}

func (r *Request) parseLine(line []byte) error {
	method, rest, _ := bytes.Cut(line, []byte{' '})
	last := bytes.LastIndexByte(rest, ' ')
	if !IsToken(method) || last <= 0 || !bytes.HasPrefix(rest[last+1:], []byte("HTTP/")) {
		return bad("the request line is not 'METHOD target HTTP/1.1'")
	}
	r.Method, r.Target = method, rest[:last]
	if !targetChars.haveAll(r.Target) {
		return bad("the request target has a character that must be percent-encoded")
	}
	if !r.setVersion(rest[last+1:]) {
		return refuse(505, "unsupported HTTP version; use HTTP/1.1")
	}
	return nil
}

func (r *Request) checkHostAndExpect() error {
	hosts := 0
	r.Continue = false
	for _, f := range r.Fields {
		switch {
		case Is(f.Name, "host"):
			hosts++
			if !hostChars.haveAll(f.Value) {
				return bad("invalid Host header")
			}
		case Is(f.Name, "expect"):
			if !Is(f.Value, "100-continue") {
				return refuse(417, "unsupported expectation; only 100-continue is supported")
			}
			r.Continue = true
		}
	}
	if hosts > 1 || hosts == 0 && r.Minor == 1 {
		return bad("there must be exactly one Host header (RFC 9112, section 3.2)")
	}
	return nil
}
