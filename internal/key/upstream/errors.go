package upstream

import (
	"context"
	"errors"
	"fmt"
	"net"
)

// Kind classifies a failure of an exchange with the upstream.
type Kind int

// The kinds of failure.
const (
	Unreachable Kind = iota + 1 // no connection could be made
	TLSFailed                   // the TLS handshake failed
	Untrusted                   // the peer must not receive the key
	Timeout                     // connecting or the handshake took too long
	Closed                      // the upstream, or the network, closed the connection
	Malformed                   // the response violates HTTP/1.1
	BodyFailed                  // the client did not send the whole body
	Cancelled                   // the caller's context ended
	Internal                    // this process could not send the request, for lack of a key or of memory
)

// Error is the type of every error of this package except those of the set-up.
type Error struct {
	// Kind distinguishes errors for callers.
	Kind Kind
	// Reused reports whether the request was sent on a connection that was used before.
	Reused bool
	// Cause is for the operator. It never contains data of a request.
	Cause error
	// Hint is what the operator can do; "" if there is none.
	Hint string
}

func (e *Error) Error() string { return e.Cause.Error() }
func (e *Error) Unwrap() error { return e.Cause }

func fail(kind Kind, format string, args ...any) *Error {
	return &Error{Kind: kind, Cause: fmt.Errorf(format, args...)}
}

func (e *Error) hint(text string) *Error {
	e.Hint = text
	return e
}

// dialError returns Timeout for a time-out, and otherwise kind.
func dialError(kind Kind, phase string, err error, hint string) *Error {
	var ne net.Error
	if errors.As(err, &ne) && ne.Timeout() {
		kind = Timeout
	}
	return fail(kind, "%s: %w", phase, err).hint(hint)
}

func isKind(err error, kind Kind) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == kind
}

// cancelled returns Cancelled if ctx has ended, and otherwise err.
func cancelled(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fail(Cancelled, "the request was cancelled: %w", context.Cause(ctx))
	}
	return err
}
