package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
	"unicode"

	"github.com/responses-api-proxy/responses-api-proxy/internal/http1"
)

// probeTime is how long the whole of a probe may take.
const probeTime = 5 * time.Second

// Probe sends GET path, such as "/healthz", to an address that [Listen] takes. It
// returns nil if the response is 200, and otherwise an error with the status and
// the reason. It blocks for 5 seconds at most.
func Probe(addr, path string) error { return probe(addr, path, probeTime) }

func probe(addr, path string, limit time.Duration) error {
	at, err := parse(addr)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", addr, err)
	}
	status, reason, err := at.get(path, time.Now().Add(limit))
	if op, ok := errors.AsType[*net.OpError](err); ok {
		err = op.Err // without the address once more
	}
	switch timeout, ok := errors.AsType[net.Error](err); {
	case ok && timeout.Timeout():
		return fmt.Errorf("%s%s has not answered in %v; see what the proxy is doing, or what else listens there", addr, path, limit)
	case err != nil:
		return fmt.Errorf("cannot ask %s: %w; see whether the proxy runs with --metrics %s", addr, err, addr)
	case status != 200:
		return fmt.Errorf("%s%s answers %d: %s", addr, path, status, reason)
	}
	return nil
}

// get returns the status and the beginning of the response's first line. It goes
// to no proxy and follows no redirect.
func (a address) get(path string, deadline time.Time) (status int, reason string, err error) {
	dialer := net.Dialer{Deadline: deadline}
	conn, err := dialer.Dial(a.network, a.name)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path); err != nil {
		return 0, "", err
	}
	text, err := io.ReadAll(io.LimitReader(conn, 16<<10))
	if err != nil {
		return 0, "", err
	}
	end, err := http1.HeadEnd(text, 0)
	if err != nil {
		return 0, "", err
	}
	if end == 0 {
		return 0, "", errors.New("the response is not complete")
	}
	var response http1.Response
	if err := response.Parse(text[:end]); err != nil {
		return 0, "", err
	}
	var body http1.Body
	body.Begin(response.Length)
	content, _, err := body.Take(text[end:])
	line, _, _ := bytes.Cut(content[:min(len(content), 512)], []byte("\n"))
	return response.Status, printable(string(line)), err
}

// printable keeps a foreign listener from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}
