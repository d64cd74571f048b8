package attack

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"
)

const (
	groupTricks = "Hostile upstream (a fake one)"
	groupEcho   = "Upstream that returns the key (a fake one)"
)

// leaveTimeout is the maximum time until the upstream must see that a client disconnected: until then the response
// costs tokens.
const leaveTimeout = 2 * time.Second

// hostileUpstreamAttempts are what a hostile or faulty upstream may do to the proxy and its clients, except echoes.
// They are first, so that the key has been used before the memory is searched.
func hostileUpstreamAttempts(t *target) []attempt {
	if t.up == nil {
		return nil
	}
	var list []attempt
	add := func(name, proves string, try func() (result, string)) {
		list = append(list, attempt{groupTricks, name, proves, try})
	}
	for _, r := range []struct {
		name   string
		status int
		to     string
	}{
		{"301 elsewhere", http.StatusMovedPermanently, t.up.elsewhere()},
		{"307 elsewhere", http.StatusTemporaryRedirect, t.up.elsewhere()},
		{"308 elsewhere", http.StatusPermanentRedirect, t.up.elsewhere()},
		{"307 to another name", http.StatusTemporaryRedirect, strings.Replace("http://"+t.up.address()+"/elsewhere", "127.0.0.1", "localhost", 1)},
		{"307 in a chain", http.StatusTemporaryRedirect, "/hop"},
	} {
		add(r.name, "key and body go to the upstream and nowhere else", func() (result, string) { return t.redirected(r.status, r.to) })
	}
	for _, c := range []struct{ name, scenario, connection string }{
		{"cut while chunked", "cutchunk", "keep-alive"},
		{"cut, last request", "cutchunk", "close"},
		{"cut before its length", "cutcl", "keep-alive"},
	} {
		add(c.name, "clients detect an incomplete response", func() (result, string) { return t.cutOff(c.scenario, c.connection) })
	}
	add("client leaves, waiting", "no tokens are spent without a client", func() (result, string) { return t.leave("silent") })
	add("client leaves, reading", "no tokens are spent without a client", func() (result, string) { return t.leave("headthensilent") })
	return list
}

// echoAttempts let the upstream return the key. They follow the search of the memory, because the upstream's data is in
// the proxy's buffers.
func echoAttempts(t *target) []attempt {
	if t.up == nil {
		return nil
	}
	list := []attempt{
		{groupEcho, "echo in headers", "no header passes the key to clients", t.echoedInHeaders},
		{groupEcho, "echo in the body", "", t.echoedInBody},
	}
	if t.pid == 0 {
		return list
	}
	return append(list, attempt{groupEcho, "memory after echoes", "the echoes left no copy", t.echoedInMemory})
}

// proper returns a valid request of a client.
func (t *target) proper(fields ...string) string {
	const body = `{"model":"none","input":"` + canaryText + `"}`
	fields = append(fields, "Host: "+t.host(), "Content-Type: application/json", fmt.Sprintf("Content-Length: %d", len(body)))
	return head("POST", "/v1/responses", fields...) + body
}

// perform sends a valid request to the upstream, which responds by a scenario. It returns an error if the request did
// not reach the upstream.
func (t *target) perform(scenario string) (a response, misdirected []seenRequest, err error) {
	t.up.setScenario(scenario)
	defer t.up.setScenario(refuse)
	a = t.send(t.proper(), false)[0]
	misdirected, arrived := t.up.sights()
	if arrived == 0 {
		_, text := a.verdict()
		return a, misdirected, errors.New("did not reach the upstream: " + text)
	}
	return a, misdirected, nil
}

// redirected responds with a redirect. The proxy must neither follow it nor pass it to its client.
func (t *target) redirected(status int, to string) (result, string) {
	a, misdirected, err := t.perform(fmt.Sprintf("redirect status=%d to=%s", status, to))
	switch {
	case len(misdirected) > 0:
		return fail, followed(misdirected)
	case err != nil:
		return skipped, err.Error()
	case a.Response == nil:
		_, text := a.verdict()
		return pass, "not followed; " + text
	case a.StatusCode < 400 || a.Header.Get("Location") != "":
		return fail, fmt.Sprintf("passed on to the client: %d", a.StatusCode)
	case ownCodes[a.code()]:
		return pass, fmt.Sprintf("not followed: %d %s", a.StatusCode, a.code())
	}
	return pass, fmt.Sprintf("not followed: %d", a.StatusCode)
}

// followed describes which server the proxy contacted, and what it sent there.
func followed(misdirected []seenRequest) string {
	key, body := false, false
	for _, x := range misdirected {
		key, body = key || x.key, body || x.body
	}
	taken := "without key and body"
	switch {
	case key && body:
		taken = "with the key and the body"
	case key:
		taken = "with the key"
	case body:
		taken = "with the body"
	}
	text := fmt.Sprintf("followed %s: %s", taken, misdirected[0].what)
	if n := len(misdirected); n > 1 {
		text += fmt.Sprintf(" and %d more", n-1)
	}
	return text
}

func (t *target) echoedInHeaders() (result, string) {
	a, _, err := t.perform("echo")
	var fields []string
	for name, values := range a.header() {
		if strings.Contains(strings.Join(values, "\n"), string(t.key)) {
			fields = append(fields, name)
		}
	}
	slices.Sort(fields)
	switch {
	case len(fields) > 0:
		return fail, "the key is in the response's " + strings.Join(fields, " and ")
	case err != nil:
		return skipped, err.Error()
	case a.Response == nil:
		_, text := a.verdict()
		return pass, text
	}
	return pass, fmt.Sprintf("Authorization and Set-Cookie dropped; %d", a.StatusCode)
}

// header returns the response's header, if there is one.
func (a response) header() http.Header {
	if a.Response == nil {
		return nil
	}
	return a.Header
}

// echoedInBody is for information: a body is passed unchanged, whatever the upstream writes in it.
func (t *target) echoedInBody() (result, string) {
	a, _, err := t.perform("echo")
	switch {
	case err != nil:
		return skipped, err.Error()
	case bytes.Contains(a.body, t.key):
		return info, "passed: an upstream has the key and can return it; no proxy can prevent that"
	}
	return info, "not passed"
}

// cutOff checks that an incomplete response does not appear complete.
func (t *target) cutOff(scenario, connection string) (result, string) {
	t.up.setScenario(scenario)
	defer t.up.setScenario(refuse)
	c, err := t.dial()
	if err != nil {
		return response{err: err}.verdict()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	io.WriteString(c, t.proper("Connection: "+connection)) // a failure shows in the response
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: "POST"})
	_, arrived := t.up.sights()
	switch {
	case arrived == 0:
		return skipped, "did not reach the upstream"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail, "no response"
	case err != nil:
		return pass, "connection closed without a response"
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxResponse))
	return truncationVerdict(res.StatusCode, len(body), err)
}

// truncationVerdict evaluates how reading n bytes of a body ended.
func truncationVerdict(status, n int, err error) (result, string) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fail, fmt.Sprintf("no end after %d bytes", n)
	case err != nil:
		return pass, fmt.Sprintf("aborted for the client too, after %d bytes", n)
	case status >= 500:
		return pass, fmt.Sprintf("responded with %d", status)
	}
	return fail, fmt.Sprintf("appears complete: %d and %d bytes", status, n)
}

// leave disconnects from the proxy, before a response or within one, and waits until the proxy disconnects from the
// upstream.
func (t *target) leave(scenario string) (result, string) {
	t.up.setScenario(scenario)
	defer t.up.setScenario(refuse)
	before := t.up.upstream.Count()
	c, err := t.dial()
	if err != nil {
		return response{err: err}.verdict()
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	io.WriteString(c, t.proper()) // a failure shows as a request that does not arrive
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	requests, err := t.up.upstream.Await(ctx, before+1)
	if err != nil {
		return skipped, "did not reach the upstream"
	}
	note := ""
	if scenario == "headthensilent" {
		c.SetDeadline(time.Now().Add(time.Second))
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			note = "; nothing was passed on within 1s"
		}
	}
	c.Close()
	since := time.Now()
	select {
	case <-requests[before].Gone():
		return pass, fmt.Sprintf("upstream disconnected after %d ms", time.Since(since).Milliseconds()) + note
	case <-time.After(leaveTimeout):
		return fail, fmt.Sprintf("upstream request still open after %s", leaveTimeout) + note
	}
}
