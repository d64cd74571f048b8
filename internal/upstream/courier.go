package upstream

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// exchangeTimeout bounds one exchange of a Courier's, from the connection's
// beginning to the answer's end.
const exchangeTimeout = 30 * time.Second

// ErrOversized says that an answer is larger than the memory for it.
var ErrOversized = errors.New("the answer is too large")

// Recipient is a host to which a Courier can go.
type Recipient struct{ dialer *dialer }

// NewRecipient reads all files that it needs, and the proxy environment. Roots
// are as in Config. It connects to nothing.
func NewRecipient(target *Target, roots *x509.CertPool) (*Recipient, error) {
	d, err := newDialer(target, false, roots)
	if err != nil {
		return nil, err
	}
	if d.tls != nil {
		d.tls.ClientSessionCache = nil // the session's tickets are not read (link.go)
	}
	return &Recipient{d}, nil
}

// Port is the only TCP port that is connected to: the recipient's, or the
// forward proxy's.
func (r *Recipient) Port() uint16 {
	addr := r.dialer.target.Addr
	if r.dialer.proxy != nil {
		addr = proxyAddr(r.dialer.proxy)
	}
	_, text, _ := net.SplitHostPort(addr)
	port, _ := strconv.ParseUint(text, 10, 16)
	return uint16(port)
}

// Courier carries single messages that are secret, there and back: neither a
// request nor its answer ever lies in ordinary memory. One exchange at a time.
type Courier struct{ record *secret.Buffer }

// NewCourier maps the courier's own secret memory, about 20 KiB.
func NewCourier(policy secret.Policy) (*Courier, error) {
	b, err := secret.NewBuffer(policy, recordHeader+maxCiphertext)
	if err != nil {
		return nil, err
	}
	return &Courier{b}, nil
}

// Memory tells what the courier's memory is made of, and if that is not
// secret.MemfdSecret, why.
func (c *Courier) Memory() (secret.Kind, error) { return c.record.Memory() }

// Exchange connects to the recipient, by TLS 1.3 unless its URL has the scheme
// http, sends request, which is a whole HTTP/1.1 message that asks for the
// connection to be closed, and reads the answer into answer. Both should be
// secret memory; the caller wipes them. It returns the status and, if that is
// 2xx, the body, which is a part of answer. Redirects are not followed.
//
// It gives up after 30 seconds, or when ctx ends. Errors are of type *Error and
// hold nothing of either message; one for an answer that does not fit is
// ErrOversized.
func (c *Courier) Exchange(ctx context.Context, to *Recipient, request, answer []byte) (status int, body []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout)
	defer cancel()
	defer c.record.Wipe()
	l, err := dialLink(ctx, to.dialer, c.record.Bytes())
	if err != nil {
		return 0, nil, ended(ctx, err)
	}
	defer l.tcp.Close()
	stop := context.AfterFunc(ctx, func() { l.tcp.Close() })
	defer stop()
	if err := l.write(request); err != nil {
		return 0, nil, ended(ctx, fail(Closed, "sending the request: %w", err))
	}
	status, body, err = l.readAnswer(answer)
	if err != nil {
		return 0, nil, ended(ctx, err)
	}
	return status, body, nil
}

// ended lets the end of ctx take precedence over what came of it.
func ended(ctx context.Context, err error) error {
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return fail(Timeout, "there was no answer in time")
	case ctx.Err() != nil:
		return fail(Cancelled, "the exchange was cancelled")
	default:
		return err
	}
}

// readAnswer reads a whole answer into room.
func (l *link) readAnswer(room []byte) (status int, body []byte, err error) {
	var head http1.Response
	n, end, err := l.readAnswerHead(room, &head)
	if err != nil {
		return 0, nil, err
	}
	if head.Status/100 != 2 {
		return head.Status, nil, nil
	}
	switch head.Length {
	case http1.Chunked:
		body, err = l.readChunked(room[end:], n-end)
	case http1.UntilClose:
		body, err = l.readToEnd(room[end:], n-end)
	default:
		body, err = l.readExactly(room[end:], n-end, head.Length)
	}
	if err != nil {
		return 0, nil, err
	}
	return head.Status, body, nil
}

// readAnswerHead reads up to the final answer's head, which is room[:end] then
// of room[:n]; interim ones are dropped (RFC 9110, section 15.2).
func (l *link) readAnswerHead(room []byte, head *http1.Response) (n, end int, err error) {
	for {
		if n, end, err = l.readOneHead(room, n); err != nil {
			return 0, 0, err
		}
		// The parser's errors may quote a field's name: they stay here.
		if head.Parse(room[:end]) != nil || head.Status == 101 {
			return 0, 0, fail(Malformed, "the answer's head is malformed")
		}
		if head.Status >= 200 {
			return n, end, nil
		}
		n = copy(room, room[end:n])
	}
}

// readOneHead reads until room[:n], of which some may be there already, holds a
// head.
func (l *link) readOneHead(room []byte, n int) (int, int, error) {
	for seen := 0; ; {
		end, err := http1.HeadEnd(room[:n], seen)
		if err != nil {
			return 0, 0, fail(Malformed, "the answer's head is malformed")
		}
		if end > 0 {
			return n, end, nil
		}
		seen = n
		if n, err = l.more(room, n); err != nil {
			return 0, 0, err
		}
	}
}

func (l *link) readExactly(room []byte, n int, length int64) ([]byte, error) {
	if length > int64(len(room)) {
		return nil, &Error{Kind: Malformed, Cause: ErrOversized}
	}
	for int64(n) < length {
		var err error
		if n, err = l.more(room, n); err != nil {
			return nil, err
		}
	}
	return room[:length], nil
}

// readChunked decodes each piece where it was read to; the next one takes the
// place behind its data.
func (l *link) readChunked(room []byte, n int) ([]byte, error) {
	var d http1.Decoder
	for from := 0; ; {
		m, _, err := d.Decode(room[from:n])
		if err != nil {
			return nil, fail(Malformed, "the answer's chunks are malformed")
		}
		from += m
		if d.Done() {
			return room[:from], nil
		}
		if n, err = l.more(room, from); err != nil {
			return nil, err
		}
	}
}

// readToEnd reads to the end that the recipient has signed: a connection that
// just ends may be one that somebody has cut.
func (l *link) readToEnd(room []byte, n int) ([]byte, error) {
	for {
		m, err := l.more(room, n)
		if errors.Is(err, errSignedEnd) {
			return room[:n], nil
		}
		if err != nil {
			return nil, err
		}
		n = m
	}
}

// more reads once, behind room[:n].
func (l *link) more(room []byte, n int) (int, error) {
	if n == len(room) {
		return 0, &Error{Kind: Malformed, Cause: ErrOversized}
	}
	m, err := l.read(room[n:])
	switch {
	case errors.Is(err, ErrOversized):
		return 0, &Error{Kind: Malformed, Cause: ErrOversized}
	case err != nil:
		return 0, fail(Closed, "the connection ended before the answer: %w", err)
	}
	return n + m, nil
}
