package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"time"
	"unicode"

	"github.com/responses-api-proxy/responses-api-proxy/internal/host/listen"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/http1"
)

// Fetch sends GET path, such as "/healthz", to an address that [listen.ParseAddress] takes. It returns the body if the
// response is 200, and otherwise an error with the status and the reason. What listens there may be another program:
// characters that are not printable are replaced by "?", but for line feeds. It blocks for 5 seconds at most.
func Fetch(addr, path string) ([]byte, error) { return fetch(addr, path, 5*time.Second) }

func fetch(addr, path string, limit time.Duration) ([]byte, error) {
	a, err := listen.ParseAddress(addr)
	if err != nil {
		return nil, fmt.Errorf("cannot ask %s: %w", addr, err)
	}
	status, body, err := get(a, path, time.Now().Add(limit))
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without the address
	}
	body = bytes.Map(printable, body)
	switch timeout, ok := errors.AsType[net.Error](err); {
	case ok && timeout.Timeout():
		return nil, fmt.Errorf("%s%s has not answered in %v; see what the proxy is doing, or what else listens there", addr, path, limit)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("cannot ask %s: %w; ask as root, as the user who started the proxy, or in the proxy's group", addr, err)
	case err != nil:
		return nil, fmt.Errorf("cannot ask %s: %w; see whether the proxy runs with --metrics %s", addr, err, addr)
	case status != 200:
		line, _, _ := bytes.Cut(body[:min(len(body), 512)], []byte("\n"))
		return nil, fmt.Errorf("%s%s answers %d: %s", addr, path, status, line)
	}
	return body, nil
}

// maxResponse is the size of the largest response, in bytes: that of maxUsers and more.
const maxResponse = 1 << 20

// get returns the status and the body of the response. It goes to no proxy and follows no redirect. With HTTP/1.0 the
// body is what comes until the connection ends.
func get(a listen.Address, path string, deadline time.Time) (status int, body []byte, err error) {
	dialer := net.Dialer{Deadline: deadline}
	network, name := a.Network()
	conn, err := dialer.Dial(network, name)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: localhost\r\n\r\n", path); err != nil {
		return 0, nil, err
	}
	text, err := io.ReadAll(io.LimitReader(conn, maxResponse))
	if err != nil {
		return 0, nil, err
	}
	var head http1.Response
	end, err := http1.HeadEnd(text, 0)
	switch {
	case err != nil:
	case end == 0:
		err = io.ErrUnexpectedEOF
	default:
		err = head.Parse(text[:end])
	}
	return head.Status, text[end:], err
}

// printable returns r, or "?" if it could control a terminal other than as a line feed.
func printable(r rune) rune {
	if r == '\n' || unicode.IsPrint(r) {
		return r
	}
	return '?'
}
