// Package audit records in one JSON line per request which user spent the key on what: facts about a request, never its
// content or the response's.
package audit

import "time"

// Entry is what one request came to, or one refusal. Where a text is chosen by a client, by the upstream, or by a
// process's name, it is cut and escaped when it is written.
type Entry struct {
	// Time is when the request's head had been read, or the connection taken.
	Time time.Time
	// Duration is how long it took from then until the last byte of the response was handed to the kernel, or the
	// exchange was given up.
	Duration time.Duration
	// FirstByte is how long it took from then until the first byte of the final response was handed to the kernel; 0 if
	// none was.
	FirstByte time.Duration

	// Caller is who asked.
	Caller Caller

	// Route is the route's name, from a closed set; "" if the target is none of them.
	Route string
	// Status is the response's; 0 if there was none.
	Status int
	// Code says what went wrong, from the closed set of docs/errors.md; "" if nothing did. A response that broke off
	// keeps its status and has a code.
	Code string

	// BytesIn and BytesOut are the bytes of the bodies: what was read from the client, and what was written to it.
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

// Caller is who is at the other end of a connection, as far as the kernel says.
type Caller struct {
	// UID counts if Known is true.
	UID   uint32
	Known bool
	// PID is the process that connected; 0 if the kernel does not say, which is so over TCP. It may have passed the
	// connection on.
	PID int
	// Command is that process's name, of at most 15 bytes; "" if it is not known.
	Command string
	// Unix reports whether the connection came over a unix socket, not over TCP.
	Unix bool
}

// Observer is notified of each exchange with a client. Its methods must not block, and must be safe for concurrent use.
type Observer interface {
	// Begin is called when a request's head has been read, or a connection is about to be refused without one.
	Begin()
	// End is called once for each Begin. e must not be kept.
	End(e *Entry)
}
