package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/launch"
	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

const (
	// limit is the maximum time for everything but the build.
	limit = time.Minute

	// The shown response has as many lines as fit the screen, with pauses between them that a reader can see; deltaSize
	// makes the fake upstream's text one sentence.
	deltas     = 6
	deltaPause = 80 * time.Millisecond
	deltaSize  = 276

	// crowd is the number of clients that send a request at once before the search.
	crowd = 50

	// question is the content of every request.
	question = `{"model":"gpt-5","stream":true,"input":"What does every typist write?"}`
)

// A stage is the state that the demo's steps share.
type stage struct {
	out      io.Writer
	err      error // the first error of a write to out
	key      string
	dir      string // temporary
	upstream *openaitest.Server
}

func (s *stage) printf(format string, args ...any) {
	if s.err == nil {
		_, s.err = fmt.Fprintf(s.out, format, args...)
	}
}

// run shows everything, and returns the first error.
func (s *stage) run(ctx context.Context, proxy string) (err error) {
	if s.dir, err = os.MkdirTemp("", "responses-api-proxy-demo-"); err != nil {
		return err
	}
	defer os.RemoveAll(s.dir)
	s.printf("An OpenAI API key that every client can use and none can read\n")
	if proxy == "" {
		proxy, err = s.build(ctx)
	} else {
		proxy, err = filepath.Abs(proxy)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("it took longer than %v", limit))
	defer cancel()
	// TLS, as at OpenAI; requests without the key are rejected.
	if s.upstream, err = openaitest.Start(openaitest.Options{TLS: true, Key: s.key, Default: "sse n=5 d=20ms"}); err != nil {
		return err
	}
	defer s.upstream.Close()
	if err := os.WriteFile(s.caFile(), s.upstream.CAPEM(), 0o600); err != nil {
		return err
	}
	info := filepath.Join(s.dir, "proxy.json")
	ours, err := s.start(ctx, "the proxy", info, proxy, "--upstream-url", s.upstream.URL(), "--server-info", info, "--drain-timeout", "1s")
	if err != nil {
		return err
	}
	defer ours.Close()
	if err := s.showStream(ctx, ours); err != nil {
		return fmt.Errorf("streaming through the proxy: %w", err)
	}
	if runtime.GOOS != "linux" {
		s.printf("\nThe search of a process's memory is available on Linux only.\n")
		return nil
	}
	return s.showSearch(ctx, ours)
}

func (s *stage) caFile() string { return filepath.Join(s.dir, "ca.pem") }

// start runs a proxy with the key on standard input, which ends with the demo, and waits until it listens.
func (s *stage) start(ctx context.Context, name, info string, command ...string) (*launch.Proxy, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(launch.Environment(), "SSL_CERT_FILE="+s.caFile())
	p, err := launch.Start(ctx, cmd, []byte(s.key), info, false)
	var ended *launch.EndedError
	switch {
	case errors.As(err, &ended):
		first, _, _ := strings.Cut(ended.Output, "\n")
		return nil, fmt.Errorf("%s ended during start-up (%v): %s", name, ended.Err, first)
	case err != nil:
		return nil, fmt.Errorf("cannot start %s: %w", name, err)
	}
	return p, nil
}

// showStream prints a response as it arrives.
func (s *stage) showStream(ctx context.Context, p *launch.Proxy) error {
	s.printf("\nThe proxy has a made-up key of %d characters, and a fake OpenAI upstream behind\n"+
		"it, over TLS. A client without a key asks, and reads the response as it streams:\n", len(s.key))
	s.upstream.Script(fmt.Sprintf("sse n=%d s=%d d=%v", deltas, deltaSize, deltaPause))
	start := time.Now()
	var seen []arrival
	err := s.ask(ctx, p, func(a arrival) {
		seen = append(seen, a)
		s.printf("%s", a.line(start))
	})
	if err != nil {
		return err
	}
	if err := checkStream(seen); err != nil {
		return err
	}
	s.printf("  ✓ read while it was still being written; the upstream saw the right key\n")
	return nil
}

// An arrival is one piece of text with the times at which it was sent and received.
type arrival struct {
	text     string
	sent, at time.Time
}

// line returns the line that the demo prints for a.
func (a arrival) line(start time.Time) string {
	late := float64(a.at.Sub(a.sent)) / float64(time.Millisecond)
	return fmt.Sprintf("  %5.2f s  %-43.43s  %6.2f ms after sending\n", a.at.Sub(start).Seconds(), strings.TrimSpace(a.text), late)
}

// checkStream distinguishes a stream from a response that was collected first. Single events may be late on a slow
// machine.
func checkStream(seen []arrival) error {
	if len(seen) != deltas {
		return fmt.Errorf("%d events arrived, not %d", len(seen), deltas)
	}
	if first, last := seen[0], seen[deltas-1]; first.at.After(last.sent) {
		return errors.New("the first event arrived only after the last was sent")
	}
	return nil
}

// ask sends the question, without any key, on a new connection, and passes each piece of text to got as it arrives. It
// returns an error unless the response is complete and does not contain the key.
func (s *stage) ask(ctx context.Context, p *launch.Proxy, got func(arrival)) error {
	c := &http.Client{Transport: &http.Transport{}}
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "POST", fmt.Sprintf("http://127.0.0.1:%d/v1/responses", p.Port), strings.NewReader(question))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the response is %s", res.Status)
	}
	if strings.Contains(fmt.Sprint(res.Header), s.key) {
		return errors.New("the response's head contains the key")
	}
	return s.readEvents(res.Body, got)
}

// readEvents reads server-sent events up to the end of the body.
func (s *stage) readEvents(body io.Reader, got func(arrival)) error {
	whole := false
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(s.key)) {
			return errors.New("the response contains the key")
		}
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		at := time.Now()
		var e struct {
			Type, Delta string
			T           int64 // when the upstream sent it
		}
		if err := json.Unmarshal(data, &e); err != nil {
			return fmt.Errorf("an event that is not JSON: %w", err)
		}
		if e.Type == "response.output_text.delta" {
			got(arrival{text: e.Delta, sent: time.Unix(0, e.T), at: at})
		}
		whole = whole || e.Type == "response.completed"
	}
	if lines.Err() == nil && !whole {
		return errors.New("the response is incomplete")
	}
	return lines.Err()
}

// load sends the requests of a crowd of clients at once.
func (s *stage) load(ctx context.Context, p *launch.Proxy) (err error) {
	results := make(chan error)
	for range crowd {
		go func() { results <- s.ask(ctx, p, func(arrival) {}) }()
	}
	for range crowd {
		err = cmp.Or(err, <-results)
	}
	return err
}

// newKey returns a random key of the length that OpenAI's have.
func newKey() string {
	return "sk-demo-" + rand.Text() + rand.Text() + rand.Text() + rand.Text()
}
