package upstream

import (
	"errors"
	"fmt"
	"net"
	"os"
)

// Kind classifies what went wrong on the way to the upstream and back.
type Kind int

// The kinds of failure.
const (
	// Unreachable: no connection could be made.
	Unreachable Kind = iota + 1
	// TLSFailed: the connection could not be secured.
	TLSFailed
	// Untrusted: the other end of the connection must not be sent the key.
	Untrusted
	// Timeout: connecting or securing the connection took too long.
	Timeout
	// Closed: the upstream, or the network, ended the connection.
	Closed
	// Malformed: the answer breaks HTTP/1.1.
	Malformed
	// BodyFailed: the client did not deliver the body that it announced.
	BodyFailed
	// Cancelled: the caller's context ended.
	Cancelled
	// Internal: this process could not send the request, for want of a key or of memory.
	Internal
)

// Error is every error of this package but those of its set-up.
type Error struct {
	// Kind is what a caller may branch on.
	Kind Kind
	// Reused reports whether the request went on a connection that had served before.
	Reused bool
	// Cause is for the operator. It never holds anything of a request.
	Cause error
}

func (e *Error) Error() string { return e.Cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func fail(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Cause: fmt.Errorf(format, args...)}
}

// dialError distinguishes a time-out from the other failures of a phase.
func dialError(kind Kind, phase string, err error) *Error {
	var ne net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &ne) && ne.Timeout() {
		kind = Timeout
	}
	return fail(kind, "%s: %w", phase, err)
}
