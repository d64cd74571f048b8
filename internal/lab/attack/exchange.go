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

	"github.com/responses-api-proxy/responses-api-proxy/internal/serve/apierror"
)

const (
	// timeout is the maximum time for a response; a proxy that refuses a request does so at once.
	timeout = 3 * time.Second
	// smuggledWait is how long to wait after a response for another one, which would be to a smuggled request.
	smuggledWait = 100 * time.Millisecond
	// maxResponse is the maximum number of bytes of a response that are read.
	maxResponse = 64 << 10
)

var (
	errNoResponse = errors.New("no response")
	errNotHTTP    = errors.New("the response is not HTTP/1.1")
)

// A response is what was received, or the reason why nothing was; nil and no error mean that the connection was closed
// without a response.
type response struct {
	*http.Response
	body []byte
	err  error
}

// send sends raw bytes on a new connection and returns the response; with all, also the responses to smuggled requests.
func (t *target) send(raw string, all bool) []response {
	c, err := t.dial()
	if err != nil {
		return []response{{err: err}}
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(timeout))
	io.WriteString(c, raw) // the proxy may close the connection early; its response gives the reason
	method, _, _ := strings.Cut(raw, " ")
	r := bufio.NewReader(c)
	responses := []response{receive(r, method)}
	for all && responses[len(responses)-1].Response != nil {
		c.SetDeadline(time.Now().Add(smuggledWait))
		next := receive(r, method)
		if next.Response == nil {
			break
		}
		responses = append(responses, next)
	}
	return responses
}

// receive reads one final response.
func receive(r *bufio.Reader, method string) response {
	for {
		if _, err := r.Peek(1); err != nil {
			return response{err: silence(err)}
		}
		res, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			return response{err: errNotHTTP}
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			body, _ := io.ReadAll(io.LimitReader(res.Body, maxResponse)) // an incomplete body is evaluated as far as it was received
			return response{Response: res, body: body}
		}
	}
}

// silence distinguishes a closed connection from one that times out.
func silence(err error) error {
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() {
		return errNoResponse
	}
	return nil
}

// verdict returns the worst verdict of the responses to an attack.
func verdict(responses []response) (result, string) {
	worst, detail := pass, ""
	for _, a := range responses {
		if r, text := a.verdict(); detail == "" || r == fail {
			worst, detail = r, text
		}
	}
	return worst, detail
}

// verdict distinguishes a refusal by the proxy from any sign that the request was accepted.
func (a response) verdict() (result, string) {
	if a.Response == nil {
		switch {
		case errors.Is(a.err, errNoResponse):
			return info, "no response; apparently not forwarded"
		case errors.Is(a.err, errNotHTTP):
			return info, a.err.Error()
		case a.err != nil:
			return skipped, "cannot connect: " + a.err.Error()
		}
		return pass, "connection closed"
	}
	code := a.code()
	switch {
	case a.fromUpstream():
		return fail, fmt.Sprintf("forwarded: the upstream responded with %d", a.StatusCode)
	case a.StatusCode < 400:
		return fail, fmt.Sprintf("responded with %d", a.StatusCode)
	case a.Header.Get("Access-Control-Allow-Origin") != "":
		return fail, fmt.Sprintf("%d, but pages may read it", a.StatusCode)
	case code == "user_not_allowed": // independent of the request
		return skipped, "unknown: this user may not call; run verify as one who may"
	case code == "too_many_connections":
		return skipped, "too many connections of this user are open"
	case ownCodes[code] && !acceptedCodes[code] && !strings.HasPrefix(code, "upstream_"):
		return pass, fmt.Sprintf("%d %s", a.StatusCode, code)
	case ownCodes[code]:
		return fail, fmt.Sprintf("accepted: %d %s", a.StatusCode, code)
	case code != "":
		return fail, fmt.Sprintf("%d with another server's error: forwarded", a.StatusCode)
	case a.StatusCode >= 500 && a.StatusCode != http.StatusNotImplemented && a.StatusCode != http.StatusHTTPVersionNotSupported:
		return fail, fmt.Sprintf("accepted: %d, as when the upstream cannot be reached", a.StatusCode)
	}
	return pass, fmt.Sprintf("%d", a.StatusCode)
}

// ownCodes are the codes of the proxy's own responses.
var ownCodes = func() map[string]bool {
	m := map[string]bool{}
	apierror.Codes(func(code apierror.Code, _ int) { m[string(code)] = true })
	return m
}()

// acceptedCodes are codes of the proxy that only an accepted request gets; all codes with the prefix "upstream_" are
// too.
var acceptedCodes = map[string]bool{
	"rate_limited": true, "too_many_requests": true, "budget_exhausted": true,
	"body_too_large": true, "incomplete_body": true, "internal_error": true, "response_not_found": true,
}

// code returns the code of an error in OpenAI's format: "" for another format, "?" for a missing or unusual code.
func (a response) code() string {
	var e struct {
		Error *struct{ Code any } `json:"error"`
	}
	if json.Unmarshal(a.body, &e) != nil || e.Error == nil {
		return ""
	}
	if code, _ := e.Error.Code.(string); ownCodes[code] {
		return code
	}
	return "?"
}

// fromUpstream reports whether OpenAI, or a server in front of it, sent the response.
func (a response) fromUpstream() bool {
	for name := range a.Header {
		if name == "X-Request-Id" || name == "Cf-Ray" || strings.HasPrefix(name, "Openai-") {
			return true
		}
	}
	return false
}

// contains reports whether the response contains secret.
func (a response) contains(secret []byte) bool {
	var head bytes.Buffer
	a.Header.Write(&head)
	return bytes.Contains(head.Bytes(), secret) || bytes.Contains(a.body, secret)
}
