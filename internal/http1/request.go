package http1

import "bytes"

// Request is the head of a request.
type Request struct {
	message
	// Method and Target are the exact bytes of the request line.
	Method, Target []byte
	// Continue tells that the sender waits for 100 Continue before its body.
	Continue bool
}

// Parse reads a whole head, as HeadEnd delimits it, into r; r's fields keep
// pointing into head. Its errors are all of type *Error.
func (r *Request) Parse(head []byte) error {
	line, rest := nextLine(head)
	if err := r.parseLine(line); err != nil {
		return err
	}
	if err := r.parseFields(rest); err != nil {
		return err
	}
	if err := r.frame(0); err != nil {
		return err
	}
	return r.checkHostAndExpect()
}

func (r *Request) parseLine(line []byte) error {
	first, last := bytes.IndexByte(line, ' '), bytes.LastIndexByte(line, ' ')
	if first < 0 || first == last {
		return bad("the request line is not 'METHOD target HTTP/1.1'")
	}
	r.Method, r.Target = line[:first], line[first+1:last]
	if !IsToken(r.Method) || len(r.Target) == 0 {
		return bad("the request line is not 'METHOD target HTTP/1.1'")
	}
	for _, c := range r.Target {
		if c <= ' ' || c >= 0x7f {
			return bad("the request target has a character that must be percent-encoded")
		}
	}
	return r.parseVersion(line[last+1:])
}

func (r *Request) parseVersion(version []byte) error {
	switch {
	case string(version) == "HTTP/1.1":
		r.Minor = 1
	case string(version) == "HTTP/1.0":
		r.Minor = 0
	case bytes.HasPrefix(version, []byte("HTTP/")):
		return &Error{Status: 505, Reason: "only HTTP/1.1 and HTTP/1.0 are spoken here"}
	default:
		return bad("the request line is not 'METHOD target HTTP/1.1'")
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
			if !validHost(f.Value) {
				return bad("the Host header is not a host")
			}
		case Is(f.Name, "expect"):
			if !Is(f.Value, "100-continue") {
				return &Error{Status: 417, Reason: "the only expectation that can be met is 100-continue"}
			}
			r.Continue = true
		}
	}
	if hosts > 1 || hosts == 0 && r.Minor == 1 {
		return bad("there must be exactly one Host header (RFC 9112, section 3.2)")
	}
	return nil
}

// validHost tells whether every character may stand in a host and port.
func validHost(value []byte) bool {
	for _, c := range value {
		if !tokenChar[c] && bytes.IndexByte([]byte("()*+,;=:[]@%"), c) < 0 || c == '#' || c == '^' || c == '`' || c == '|' {
			return false
		}
	}
	return true
}
