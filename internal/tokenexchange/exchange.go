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

	"github.com/responses-api-proxy/responses-api-proxy/internal/jsonscan"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// maxLifetime is a year: what is longer is no lifetime of an access token.
const maxLifetime = 365 * 24 * time.Hour

const accessTokenType = "urn:ietf:params:oauth:token-type:access_token"

// The errors of an exchange other than a status. No caller branches on them; they are here so that none of them can
// hold anything of a token.
var (
	errSubject  = errors.New("workload identity source returned an invalid subject token")
	errIdentity = errors.New("GitHub OIDC returned an invalid token response")
	errAnswer   = errors.New("OpenAI workload identity returned an invalid token response")
	errKind     = errors.New("OpenAI returned an unsupported workload identity token type")
	errExpired  = errors.New("OpenAI returned an expired workload identity token")
	errLifetime = errors.New("OpenAI returned an invalid token lifetime")
	errLength   = fmt.Errorf("OpenAI returned an access token of more than %d characters", secret.MaxSlotToken)
)

// lifetime is for how long an access token serves, and from when.
type lifetime struct {
	length  time.Duration
	expires time.Time
}

// once exchanges tokens and puts the new one into the key's place.
func (x *Exchanger) once(ctx context.Context) (lifetime, error) {
	defer x.memory.Wipe()
	records, rest := x.memory.Bytes()[:upstream.ExchangeMemory], x.memory.Bytes()[upstream.ExchangeMemory:]
	request, answer := rest[:requestSize], rest[requestSize:]
	subject, err := x.subject(ctx, records, request, answer)
	if err != nil {
		return lifetime{}, err
	}
	length := strconv.Itoa(len(x.bodyStart) + len(subject) + len(x.bodyEnd))
	m := join(request, x.tokens.head, []byte(length+"\r\n\r\n"), x.bodyStart, subject, x.bodyEnd)
	secret.Wipe(answer)
	begun := time.Now()
	body, err := x.tokens.ask(ctx, records, m, answer)
	if err != nil {
		return lifetime{}, err
	}
	token, l, err := parseGrant(body, begun)
	if err != nil {
		return lifetime{}, err
	}
	return l, x.install(token, l)
}

// subject brings the identity into secret memory and returns it, which is a part of answer.
func (x *Exchanger) subject(ctx context.Context, records, request, answer []byte) ([]byte, error) {
	if x.cfg.TokenFile != "" {
		return readTokenFile(x.cfg.TokenFile, answer)
	}
	var m []byte
	err := x.cfg.Source.Line(func(line []byte) error {
		m = join(request, x.identity.head, line, []byte("\r\n"))
		return nil
	})
	if err != nil {
		return nil, err
	}
	body, err := x.identity.ask(ctx, records, m, answer)
	if err != nil {
		return nil, err
	}
	value := jsonscan.Field{Name: "value", Kind: jsonscan.String}
	if jsonscan.Fields(body, &value) != nil || !value.Found {
		return nil, errIdentity
	}
	return value.Raw, checkSubject(value.Raw)
}

// join puts a message together in room, for which Exchanger.address has seen that it is large enough. What follows waits
// for the network: the token must not wait in a thread's registers.
func join(room []byte, parts ...[]byte) []byte {
	n := 0
	for _, p := range parts {
		n += copy(room[n:], p)
	}
	secret.Scrub()
	return room[:n]
}

// ask sends a request and returns the body of the response, which is a part of room.
func (p *provider) ask(ctx context.Context, records, request, room []byte) ([]byte, error) {
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

// checkSubject returns an error unless token may be an identity.
func checkSubject(token []byte) error {
	if len(token) > secret.MaxToken || !isToken(token) {
		return errSubject
	}
	return nil
}

// isToken reports whether b is a token that needs no escapes in JSON.
func isToken(b []byte) bool {
	return len(b) > 0 && !slices.ContainsFunc(b, func(c byte) bool { return c <= ' ' || c >= 0x7f || c == '"' || c == '\\' })
}

// readTokenFile reads the file straight into room and returns the token, which may have line ends behind it.
func readTokenFile(path string, room []byte) ([]byte, error) {
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s is not a regular file", path)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read --oidc-token-file: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read --oidc-token-file: %w", err)
	}
	defer f.Close()
	n, err := io.ReadFull(f, room)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("cannot read --oidc-token-file: %w", err)
	}
	token := bytes.TrimRight(room[:n], "\r\n")
	return token, checkSubject(token)
}

// parseGrant takes the access token, which is a part of body, and how long it serves: from before it was asked for, so
// that it is never thought to serve longer than it does (RFC 8693, section 2.2.1; expires_at is OpenAI's own).
func parseGrant(body []byte, begun time.Time) ([]byte, lifetime, error) {
	token := jsonscan.Field{Name: "access_token", Kind: jsonscan.String}
	issued := jsonscan.Field{Name: "issued_token_type", Kind: jsonscan.String}
	kind := jsonscan.Field{Name: "token_type", Kind: jsonscan.String}
	in := jsonscan.Field{Name: "expires_in", Kind: jsonscan.Number}
	at := jsonscan.Field{Name: "expires_at", Kind: jsonscan.Number}
	err := jsonscan.Fields(body, &token, &issued, &kind, &in, &at)
	switch {
	case err != nil, !isToken(token.Raw), !issued.Found, !kind.Found, !in.Found:
		return nil, lifetime{}, errAnswer
	case string(issued.Raw) != accessTokenType, !bytes.EqualFold(kind.Raw, []byte("bearer")):
		return nil, lifetime{}, errKind
	case len(token.Raw) > secret.MaxSlotToken:
		return nil, lifetime{}, errLength
	}
	l, err := parseLifetime(in, at, begun)
	return token.Raw, l, err
}

// parseLifetime lets the earlier of both ends count, of which expires_at depends on this host's clock.
func parseLifetime(in, at jsonscan.Field, begun time.Time) (lifetime, error) {
	seconds, ok := in.Unsigned()
	end, okEnd := at.Unsigned()
	switch {
	case !ok || at.Found && !okEnd:
		return lifetime{}, errAnswer
	case seconds == 0 || at.Found && int64(end) <= begun.Unix():
		return lifetime{}, errExpired
	case seconds > uint64(maxLifetime/time.Second):
		return lifetime{}, errLifetime
	}
	length := time.Duration(seconds) * time.Second
	if at.Found && end < uint64(begun.Add(length).Unix()) {
		length = time.Duration(end-uint64(begun.Unix())) * time.Second
	}
	return lifetime{length: length, expires: begun.Add(length)}, nil
}
