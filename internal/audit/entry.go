// Package audit records in one JSON line per request which user spent the key on what: facts about a request, never its
// content or the response's.
package audit

import "time"

// Entry describes one completed or rejected request. Texts may be chosen by a client, by the upstream or by a process's
// name: they are cut and escaped when they are written.
type Entry struct {
	// Time is when the request's head had been read, or the connection accepted.
	Time time.Time
	// Duration ends when the last byte of the response was handed to the kernel, or the exchange was given up; FirstByte
	// when the first byte of the final response was, and is 0 if none was. Both begin at Time.
	Duration, FirstByte time.Duration

	Caller Caller

	// Route is the route's name, from a closed set; "" if the target is none of them.
	Route string
	// Status is the response's; 0 if there was none.
	Status int
	// Code says what went wrong, from the closed set of docs/errors.md; "" if nothing did. A response that broke off
	// keeps its status and has a code.
	Code string

	// BytesIn and BytesOut are the bytes of the bodies: read from the client, and written to it.
	BytesIn, BytesOut int64
	// Streamed reports whether the response was a stream of events.
	Streamed bool

	// Model is the one that the response names; "" if it does not.
	Model string
	// Tokens reports whether the response has InputTokens and OutputTokens.
	Tokens                    bool
	InputTokens, OutputTokens int64

	// RequestID is the upstream's x-request-id; "" if there was none.
	RequestID string
	// Upstream reports whether the request went to the upstream, or should have; Reused whether it went on a connection
	// that had served before.
	Upstream, Reused bool
}

// Caller is the user and the process at the other end of a connection, as far as the kernel reports them.
type Caller struct {
	// UID counts only if Known is true.
	UID   uint32
	Known bool
	// Groups are the user's. They, PID and Command are known over a unix socket only.
	Groups []uint32
	// PID is the process that connected, which may have passed the connection on; 0 if it is not known.
	PID int
	// Command is that process's name, of at most 15 bytes; "" if it is not known.
	Command string
	// Unix reports whether the connection came over a unix socket. Over TCP a browser may be behind it.
	Unix bool
}

// Observer is notified of each exchange with a client. Its methods must not block, and must be safe for concurrent use.
type Observer interface {
	// Begin is called when a request's head has been read, or a connection is about to be refused without one.
	Begin()
	// End is called once for each Begin. e must not be kept.
	End(e *Entry)
}
