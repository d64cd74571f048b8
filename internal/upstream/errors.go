package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Kind classifies what went wrong on the way to the upstream and back.
type Kind int

// The kinds of failure.
const (
	Unreachable Kind = iota + 1 // no connection could be made
	TLSFailed                   // the connection could not be secured
	Untrusted                   // the other end of the connection must not be sent the key
	Timeout                     // connecting or securing the connection took too long
	Closed                      // the upstream, or the network, ended the connection
	Malformed                   // the response breaks HTTP/1.1
	BodyFailed                  // the client did not deliver the body that it announced
	Cancelled                   // the caller's context ended
	Internal                    // this process could not send the request, for want of a key or of memory
)

// Error is every error of this package but those of its set-up.
type Error struct {
	// Kind is what a caller may branch on.
	Kind Kind
	// Reused reports whether the request went on a connection that had served before.
	Reused bool
	// Cause is for the operator. It never holds anything of a request.
	Cause error
	// Hint is what the operator may do about it; "" if there is nothing to add to the cause.
	Hint string
}

func (e *Error) Error() string { return e.Cause.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func fail(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Cause: fmt.Errorf(format, args...)}
}

// hint adds what the operator may do.
func (e *Error) hint(text string) *Error {
	e.Hint = text
	return e
}

// dialError distinguishes a time-out from the other failures of a phase.
func dialError(kind Kind, phase string, err error, hint string) *Error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		kind = Timeout
	}
	return fail(kind, "%s: %w", phase, err).hint(hint)
}

func isKind(err error, kind Kind) bool {
	var e *Error
	return errors.As(err, &e) && e.Kind == kind
}

// cancelled lets the caller's own end take precedence over what came of it.
func cancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail(Cancelled, "the request was cancelled: %w", context.Cause(ctx))
	}
	return err
}
