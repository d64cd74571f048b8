package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// question is what every client asks.
const question = `{"model":"gpt-5","stream":true,"input":"What does every typist write?"}`

// An arrival is one piece of text and its journey.
type arrival struct {
	text     string
	sent, at time.Time
}

// newClient returns a client with its own connections that goes nowhere but
// where it is told to.
func newClient() *http.Client { return &http.Client{Transport: &http.Transport{}} }

// ask sends the question, without any key, and hands each piece of text to got
// as it comes. It fails unless the answer is whole and does not hold the key.
func (st *stage) ask(ctx context.Context, c *http.Client, url string, got func(arrival)) error {
	defer c.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(question))
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
		return fmt.Errorf("the answer is %s", res.Status)
	}
	if strings.Contains(fmt.Sprint(res.Header), st.key) {
		return errors.New("the answer's head gives the key away")
	}
	return st.readEvents(res.Body, got)
}

// readEvents reads server-sent events up to the end of the body.
func (st *stage) readEvents(body io.Reader, got func(arrival)) error {
	whole := false
	lines := bufio.NewScanner(body)
	for lines.Scan() {
		if bytes.Contains(lines.Bytes(), []byte(st.key)) {
			return errors.New("the answer gives the key away")
		}
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data: "))
		if !ok {
			continue
		}
		a, kind, err := parseEvent(data)
		if err != nil {
			return err
		}
		if kind == "response.output_text.delta" {
			got(a)
		}
		whole = whole || kind == "response.completed"
	}
	if err := lines.Err(); err != nil {
		return err
	}
	if !whole {
		return errors.New("the answer is not whole")
	}
	return nil
}

// parseEvent returns a delta with the time at which the stand-in says that it
// sent it, and the event's kind.
func parseEvent(data []byte) (arrival, string, error) {
	at := time.Now()
	var e struct {
		Type, Delta string
		T           int64
	}
	if err := json.Unmarshal(data, &e); err != nil {
		return arrival{}, "", fmt.Errorf("an event that is not JSON: %w", err)
	}
	return arrival{text: e.Delta, sent: time.Unix(0, e.T), at: at}, e.Type, nil
}

// load lets a crowd of clients ask at once, and forgets their answers.
func (st *stage) load(ctx context.Context, p *child) error {
	results := make(chan error)
	for range crowd {
		go func() { results <- st.ask(ctx, newClient(), p.url(), func(arrival) {}) }()
	}
	var failed []error
	for range crowd {
		if err := <-results; err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		return fmt.Errorf("%d of %d clients of %s got no answer: %w", len(failed), crowd, p.name, failed[0])
	}
	return nil
}
