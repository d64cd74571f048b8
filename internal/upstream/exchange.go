package upstream

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tlsrecord"
)

// exchangeTimeout bounds one secret exchange, from the connection's beginning to the response's end.
const exchangeTimeout = 30 * time.Second

// ExchangeMemory is the secret memory that an exchange needs, in bytes: for the longest record, behind a head of which a
// part has arrived.
const ExchangeMemory = 8<<10 + tlsrecord.MaxRecord

// ErrOversized is the error of a response that is larger than the memory for it.
var ErrOversized = errors.New("the response is too large")

var errMalformed = errors.New("the response is malformed")

// Exchange connects to the endpoint, sends request, which is a whole HTTP/1.1 message that asks for the connection to be
// closed, and reads the response. All three buffers should be secret memory, so that neither message ever lies in
// ordinary memory: memory has ExchangeMemory bytes and is wiped; the caller wipes request and room. Exchange returns the
// status and, if that is 2xx, the body, which is a part of room. Redirects are not followed.
//
// It gives up after 30 seconds, or when ctx ends. Errors are of type *Error and hold nothing of either message; one for
// a response that does not fit is ErrOversized.
func (e *Endpoint) Exchange(ctx context.Context, memory, request, room []byte) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	defer secret.Wipe(memory)
	c, err := e.dial(ctx)
	if err != nil {
		return 0, nil, ended(ctx, err)
	}
	defer c.close()
	defer context.AfterFunc(ctx, c.close)()
	for len(request) > 0 {
		n := copy(memory[tlsrecord.HeaderSize:][:tlsrecord.MaxPlaintext], request)
		if err := c.sendInPlace(memory, n); err != nil {
			return 0, nil, ended(ctx, fail(Closed, "sending the request: %w", err))
		}
		request = request[n:]
	}
	c.in.buf, c.in.fixed = memory, true
	status, body, err = receive(&Response{c: c, request: &Request{}}, room)
	return status, body, ended(ctx, err)
}

// receive reads a whole response, and its body into room.
func receive(r *Response, room []byte) (status int, body []byte, err error) {
	switch err := r.readHead(); {
	case err != nil:
		return 0, nil, err
	case r.Head.Status/100 != 2:
		return r.Head.Status, nil, nil
	case r.Head.Length > int64(len(room)):
		return 0, nil, ErrOversized
	}
	n := 0
	for err == nil {
		var piece []byte
		if piece, err = r.Next(); len(piece) > len(room)-n {
			return 0, nil, ErrOversized
		}
		n += copy(room[n:], piece)
		secret.Scrub() // the next read may wait
	}
	if err != io.EOF {
		return 0, nil, err
	}
	return r.Head.Status, room[:n], nil
}

// ended lets the end of ctx take precedence over a failure, and takes from err what may quote the response.
func ended(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(Timeout, "there was no response in time")
	case ctx.Err() != nil:
		return fail(Cancelled, "the exchange was cancelled")
	case errors.Is(err, ErrOversized):
		return &Error{Kind: Malformed, Cause: ErrOversized}
	case isKind(err, Malformed):
		return &Error{Kind: Malformed, Cause: errMalformed}
	default:
		return err
	}
}
