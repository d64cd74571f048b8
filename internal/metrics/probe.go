package metrics

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
	"unicode"
)

// probeTime is how long the whole of a probe may take.
const probeTime = 5 * time.Second

// Probe asks for path, such as "/healthz", at an address that [Listen] takes. It
// returns nil if the answer is 200, and an error that says the status and the
// reason otherwise. It blocks for 5 seconds at most.
func Probe(addr, path string) error { return probe(addr, path, probeTime) }

func probe(addr, path string, limit time.Duration) error {
	at, err := parse(addr)
	if err != nil {
		return fmt.Errorf("cannot ask %s: %w", addr, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	status, reason, err := at.get(ctx, path)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s%s has not answered in %v; see what the proxy is doing, or what else listens there", addr, path, limit)
	case err != nil:
		return fmt.Errorf("cannot ask %s: %w; see whether the proxy runs with --metrics %s", addr, err, addr)
	case status != http.StatusOK:
		return fmt.Errorf("%s%s answers %d: %s", addr, path, status, reason)
	}
	return nil
}

// get returns the status and the first line of the answer.
func (a address) get(ctx context.Context, path string) (status int, reason string, err error) {
	transport := &http.Transport{ // no proxy from the environment
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, a.network, a.name)
		},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: 8 << 10,
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url(path), nil)
	if err != nil {
		return 0, "", err
	}
	answer, err := transport.RoundTrip(request) // follows no redirect
	if err != nil {
		return 0, "", bare(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, 512))
	line, _, _ := bytes.Cut(body, []byte("\n"))
	return answer.StatusCode, printable(string(line)), err
}

var dialer net.Dialer

func (a address) url(path string) string {
	u := url.URL{Scheme: "http", Host: a.name, Path: path}
	if a.network == "unix" {
		u.Host = "localhost"
	}
	return u.String()
}

// printable keeps whoever listens there from steering the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

// bare takes off what net says around an error: the address once more.
func bare(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
