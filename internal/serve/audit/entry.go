// Package audit records in one line of JSON per request which user spent the key on what. It records facts about a
// request, never the content of the request or its response.
package audit

import "time"

// Entry describes one completed or rejected request. A client, the upstream or a process's name may determine the
// texts: AppendJSON cuts and escapes them. A text is "" if there was none.
type Entry struct {
	// Time is when the request's head was read, or found to be malformed, or the connection refused. Duration ends when the last byte of the
	// response was passed to the kernel, or the exchange was aborted; FirstByte with the first byte of the final response,
	// and is 0 without one.
	Time                time.Time
	Duration, FirstByte time.Duration
	Caller              Caller
	// Route is the route's name, from a closed set. Code is the error code, from the closed set of docs/errors.md. Status
	// is the response's status code, or 0. A response that was aborted has both a status and a code.
	Route, Code string
	Status      int
	// BytesIn and BytesOut are the sizes of the bodies: read from the client, and written to it.
	BytesIn, BytesOut int64
	// Streamed reports whether the response was an event stream, and Model is the model that it names.
	Streamed bool
	Model    string
	// Tokens reports whether the response contained InputTokens and OutputTokens.
	Tokens                    bool
	InputTokens, OutputTokens int64
	// RequestID is the upstream's x-request-id.
	RequestID string
	// Upstream reports whether the request was sent upstream, or should have been; Reused whether it used an existing
	// connection.
	Upstream, Reused bool
}

// Caller is the user and process at the other end of a connection, as far as the kernel reports them.
type Caller struct {
	// UID is valid only if Known is true.
	UID   uint32
	Known bool
	// Groups are the user's groups, PID is the process that connected, which may have passed the connection on, and
	// Command its name, of at most 15 bytes. They are known over a unix socket only.
	Groups  []uint32
	PID     int
	Command string
	// Unix reports whether the connection came over a unix socket. Over TCP the client may be a browser.
	Unix bool
}
