package upstream

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tlsrecord"
)

// exchangeTimeout limits one exchange, from connecting to the end of the response.
const exchangeTimeout = 30 * time.Second

// ExchangeMemory is the size of the secret memory that an exchange needs, in bytes: the longest record, after a part of
// a head.
const ExchangeMemory = 8<<10 + tlsrecord.MaxRecord

// ErrOversized means that the response is larger than the memory for it.
var ErrOversized = errors.New("the response is too large")

// Exchange connects to the endpoint, sends request, a complete HTTP/1.1 message with Connection: close, and reads the
// response. All three buffers should be secret memory, so that neither message is ever in ordinary memory. memory has
// ExchangeMemory bytes and is wiped; the caller wipes request and room. Exchange returns the status and, if that is
// 2xx, the content, which is a part of room. It does not follow redirects.
//
// It stops after 30 seconds, or when ctx ends. Errors are of type *Error and contain nothing of either message; the
// error for a response that does not fit is ErrOversized.
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

// receive reads a complete response, with its content into room.
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
		secret.Scrub() // the next read may block
	}
	if err != io.EOF {
		return 0, nil, err
	}
	return r.Head.Status, room[:n], nil
}

// ended returns Timeout or Cancelled if ctx has ended, and removes from other errors what may quote the response.
func ended(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(Timeout, "no response in time")
	case ctx.Err() != nil:
		return fail(Cancelled, "the exchange was cancelled")
	case errors.Is(err, ErrOversized):
		return &Error{Kind: Malformed, Cause: ErrOversized}
	case isKind(err, Malformed):
		return fail(Malformed, "the response is malformed")
	default:
		return err
	}
}
