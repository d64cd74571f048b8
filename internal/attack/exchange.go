package attack

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/apierror"
)

const (
	// patience is how long an answer may take; a proxy that refuses does so
	// at once.
	patience = 3 * time.Second
	// quiet is how long after an answer another one is waited for, which would
	// be to a request smuggled behind the first.
	quiet = 100 * time.Millisecond
	// maxAnswer is how much of an answer is read.
	maxAnswer = 64 << 10
)

var (
	errHangs   = errors.New("no answer")
	errNotHTTP = errors.New("the answer is not HTTP/1.1")
)

// An answer is what came back, or why nothing did; nil and no error means that
// the connection was closed without an answer.
type answer struct {
	*http.Response
	body []byte
	err  error
}

// send sends raw bytes on a connection of their own and returns the answer;
// with all, also those to what may have been smuggled in behind it.
func (t *target) send(raw string, all bool) []answer {
	c, err := t.dial()
	if err != nil {
		return []answer{{err: err}}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, raw) // the proxy may hang up before the end; its answer says why
	method, _, _ := strings.Cut(raw, " ")
	r := bufio.NewReader(c)
	answers := []answer{receive(r, method)}
	for all && answers[len(answers)-1].Response != nil {
		c.SetDeadline(time.Now().Add(quiet))
		next := receive(r, method)
		if next.Response == nil {
			break
		}
		answers = append(answers, next)
	}
	return answers
}

// receive reads one final answer.
func receive(r *bufio.Reader, method string) answer {
	for {
		if _, err := r.Peek(1); err != nil {
			return answer{err: silence(err)}
		}
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return answer{err: errNotHTTP}
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(io.LimitReader(res.Body, maxAnswer)) // judged as far as it came
			return answer{Response: res, body: body}
		}
	}
}

// silence tells a connection that was closed from one that hangs.
func silence(err error) error {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return errHangs
	}
	return nil
}

// verdict returns what the answers to an attack mean; the worst counts.
func verdict(answers []answer) (result, string) {
	worst, detail := safe, ""
	for _, a := range answers {
		if r, text := a.verdict(); detail == "" || r == broken {
			worst, detail = r, text
		}
	}
	return worst, detail
}

// verdict distinguishes a refusal of the proxy from anything that shows that the request
// was let in.
func (a answer) verdict() (result, string) {
	if a.Response == nil {
		switch {
		case errors.Is(a.err, errHangs):
			return info, "hangs without an answer, as far as can be seen not forwarded"
		case errors.Is(a.err, errNotHTTP):
			return info, a.err.Error()
		case a.err != nil:
			return skipped, "cannot connect: " + a.err.Error()
		}
		return safe, "connection closed"
	}
	code := a.code()
	switch {
	case a.fromUpstream():
		return broken, fmt.Sprintf("forwarded: the upstream answered %d", a.StatusCode)
	case a.StatusCode < 400:
		return broken, fmt.Sprintf("answered with %d", a.StatusCode)
	case a.Header.Get("Access-Control-Allow-Origin") != "":
		return broken, fmt.Sprintf("%d, but pages may read it", a.StatusCode)
	case code == "user_not_allowed": // which says nothing about what was asked for
		return skipped, "not told: this user may not call; run it as one who may"
	case code == "too_many_connections":
		return skipped, "too many connections of this user are open"
	case ours[code] && !letIn[code] && !strings.HasPrefix(code, "upstream_"):
		return safe, fmt.Sprintf("%d %s", a.StatusCode, code)
	case ours[code]:
		return broken, fmt.Sprintf("let in: %d %s", a.StatusCode, code)
	case code != "":
		return broken, fmt.Sprintf("%d with an error that is not the proxy's own: forwarded", a.StatusCode)
	case a.StatusCode >= 500 && a.StatusCode != http.StatusNotImplemented && a.StatusCode != http.StatusHTTPVersionNotSupported:
		return broken, fmt.Sprintf("let in: %d, as when the upstream cannot be reached", a.StatusCode)
	}
	return safe, fmt.Sprintf("%d", a.StatusCode)
}

// ours are the codes that the proxy itself answers with.
var ours = func() map[string]bool {
	m := map[string]bool{}
	apierror.Codes(func(code apierror.Code, _ int) { m[string(code)] = true })
	return m
}()

// letIn are codes of the proxy that only a request gets that was accepted; all
// that begin with "upstream_" belong to them.
var letIn = map[string]bool{
	"rate_limited": true, "too_many_requests": true, "budget_exhausted": true,
	"body_too_large": true, "incomplete_body": true, "internal_error": true, "response_not_found": true,
}

// code returns the code of an error in OpenAI's shape: "" if it has another
// shape, "?" if it has no code or a strange one.
func (a answer) code() string {
	var e struct {
		Error *struct{ Code any } `json:"error"`
	}
	if json.Unmarshal(a.body, &e) != nil || e.Error == nil {
		return ""
	}
	if code, _ := e.Error.Code.(string); ours[code] {
		return code
	}
	return "?"
}

// fromUpstream tells whether OpenAI, or what stands before it, has answered.
func (a answer) fromUpstream() bool {
	for name := range a.Header {
		if name == "X-Request-Id" || name == "Cf-Ray" || strings.HasPrefix(name, "Openai-") {
			return true
		}
	}
	return false
}

// contains tells whether the answer gives secret away.
func (a answer) contains(secret []byte) bool {
	var head bytes.Buffer
	a.Header.Write(&head)
	return bytes.Contains(head.Bytes(), secret) || bytes.Contains(a.body, secret)
}
