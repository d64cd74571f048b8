package tokenexchange

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
	"github.com/responses-api-proxy/responses-api-proxy/internal/wire/jsonscan"
)

// maxLifetime is a year: a longer lifetime is a mistake.
const maxLifetime = 365 * 24 * time.Hour

const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// The errors of an exchange other than a status. No caller distinguishes them; they are constants so that none can
// contain a part of a token.
var (
	errSubject  = errors.New("workload identity source returned an invalid subject token")
	errIdentity = errors.New("GitHub OIDC returned an invalid token response")
	errResponse = errors.New("OpenAI workload identity returned an invalid token response")
	errKind     = errors.New("OpenAI returned an unsupported workload identity token type")
	errExpired  = errors.New("OpenAI returned an expired workload identity token")
	errLifetime = errors.New("OpenAI returned an invalid token lifetime")
	errLength   = fmt.Errorf("OpenAI returned an access token of more than %d characters", secret.MaxSlotToken)
)

// once performs one exchange and installs the new token as the key. It returns when the token expires.
func (x *Exchanger) once(ctx context.Context) (expires time.Time, err error) {
	defer secret.Wipe(x.memory.Bytes())
	records, rest := x.memory.Bytes()[:upstream.ExchangeMemory], x.memory.Bytes()[upstream.ExchangeMemory:]
	request, response := rest[:requestSize], rest[requestSize:]
	subject, err := x.subject(ctx, records, request, response)
	switch {
	case err != nil:
		return expires, err
	case len(subject) > secret.MaxToken || !isToken(subject):
		return expires, errSubject
	}
	length := strconv.Itoa(len(x.bodyStart) + len(subject) + len(x.bodyEnd))
	m := join(request, x.tokens.head, []byte(length+"\r\n\r\n"), x.bodyStart, subject, x.bodyEnd)
	secret.Wipe(response)
	begun := time.Now()
	body, err := x.tokens.roundTrip(ctx, records, m, response)
	if err != nil {
		return expires, err
	}
	token, expires, err := parseGrant(body, begun)
	if err == nil {
		err = x.install(token, expires)
	}
	return expires, err
}

// subject reads the identity into secret memory and returns it as a part of response.
func (x *Exchanger) subject(ctx context.Context, records, request, response []byte) ([]byte, error) {
	if x.cfg.TokenFile != "" {
		token, err := readFile(x.cfg.TokenFile, response)
		if err != nil {
			return nil, fmt.Errorf("cannot read --oidc-token-file: %w", err)
		}
		return bytes.TrimRight(token, "\r\n"), nil
	}
	var m []byte
	err := x.cfg.Source.Line(func(line []byte) error {
		m = join(request, x.identity.head, line, []byte("\r\n"))
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err := x.identity.roundTrip(ctx, records, m, response)
	if err != nil {
		return nil, err
	}
	value := jsonscan.Field{Name: "value", Kind: jsonscan.String}
	if jsonscan.Fields(body, &value) != nil || value.Raw == nil {
		return nil, errIdentity
	}
	return value.Raw, nil
}

// join assembles a message in room, for which Exchanger.address checked the size. It scrubs the vector registers,
// because the caller then blocks on the network and a signal would copy the thread's registers to ordinary memory.
func join(room []byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += copy(room[n:], p)
	}
	secret.Scrub()
	return room[:n]
}

// roundTrip sends a request and returns the content of the response, a part of room.
func (p *provider) roundTrip(ctx context.Context, records, request, room []byte) ([]byte, error) {
	status, body, err := p.endpoint.Exchange(ctx, records, request, room)
	switch {
	case errors.Is(err, upstream.ErrOversized):
		return nil, fmt.Errorf("%s returned an oversized token response", p.name)
	case err != nil:
		return nil, fmt.Errorf("%s token request failed: %w", p.name, err)
	case status/100 != 2:
		return nil, fmt.Errorf("%s token request rejected (HTTP %d)", p.name, status)
	}
	return body, nil
}

// isToken reports whether b is a token that JSON represents without escapes.
func isToken(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' })
}

// readFile reads a regular file, up to the length of room, directly into room.
func readFile(path string, room []byte) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	n, err := io.ReadFull(f, room)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = nil
	}
	return room[:n], err
}

// parseGrant returns the access token, a part of body, and when it expires. Its lifetime counts from before the
// request, so that it never ends after the token's own (RFC 8693, section 2.2.1; expires_at is an extension of
// OpenAI's).
func parseGrant(body []byte, begun time.Time) (value []byte, expires time.Time, err error) {
	token := jsonscan.Field{Name: "access_token", Kind: jsonscan.String}
	issued := jsonscan.Field{Name: "issued_token_type", Kind: jsonscan.String}
	kind := jsonscan.Field{Name: "token_type", Kind: jsonscan.String}
	in := jsonscan.Field{Name: "expires_in", Kind: jsonscan.Number}
	at := jsonscan.Field{Name: "expires_at", Kind: jsonscan.Number}
	err = jsonscan.Fields(body, &token, &issued, &kind, &in, &at)
	switch {
	case err != nil, !isToken(token.Raw), issued.Raw == nil, kind.Raw == nil, in.Raw == nil:
		return nil, expires, errResponse
	case string(issued.Raw) != accessTokenType, !bytes.EqualFold(kind.Raw, []byte("bearer")):
		return nil, expires, errKind
	case len(token.Raw) > secret.MaxSlotToken:
		return nil, expires, errLength
	}
	lifetime, err := parseLifetime(in, at, begun)
	return token.Raw, begun.Add(lifetime), err
}

// parseLifetime uses the earlier of both ends; that of expires_at depends on this host's clock.
func parseLifetime(in, at jsonscan.Field, begun time.Time) (time.Duration, error) {
	seconds, ok := in.Unsigned()
	end, okEnd := at.Unsigned()
	switch {
	case !ok || at.Raw != nil && !okEnd:
		return 0, errResponse
	case seconds == 0 || at.Raw != nil && int64(end) <= begun.Unix():
		return 0, errExpired
	case seconds > uint64(maxLifetime/time.Second):
		return 0, errLifetime
	}
	if at.Raw != nil {
		seconds = min(seconds, end-uint64(begun.Unix()))
	}
	return time.Duration(seconds) * time.Second, nil
}
