package tokenexchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
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
	errSubject    = errors.New("workload identity source returned an invalid subject token")
	errIdentity   = errors.New("GitHub OIDC returned an invalid token response")
	errIdentityXL = errors.New("GitHub OIDC returned an oversized token response")
	errAnswer     = errors.New("OpenAI workload identity returned an invalid token response")
	errAnswerXL   = errors.New("OpenAI workload identity returned an oversized token response")
	errKind       = errors.New("OpenAI returned an unsupported workload identity token type")
	errExpired    = errors.New("OpenAI returned an expired workload identity token")
	errLifetime   = errors.New("OpenAI returned an invalid token lifetime")
	errRoom       = fmt.Errorf("OpenAI returned an access token of more than %d characters", secret.MaxSlotToken)
)

// lifetime is for how long an access token serves, and from when.
type lifetime struct {
	length  time.Duration
	expires time.Time
}

// once exchanges tokens and puts the new one into the key's place.
func (x *Exchanger) once(ctx context.Context) (lifetime, error) {
	defer x.memory.Wipe()
	memory := x.memory.Bytes()
	records, request, answer := memory[:upstream.ExchangeMemory], memory[upstream.ExchangeMemory:][:requestSize], memory[upstream.ExchangeMemory+requestSize:]
	subject, err := x.subject(ctx, records, request, answer)
	if err != nil {
		return lifetime{}, err
	}
	m := x.parts.exchangeRequest(request, subject)
	secret.Wipe(answer)
	begun := time.Now()
	status, body, err := x.tokens.Exchange(ctx, records, m, answer)
	switch {
	case errors.Is(err, upstream.ErrOversized):
		return lifetime{}, errAnswerXL
	case err != nil:
		return lifetime{}, fmt.Errorf("OpenAI workload identity token request failed: %w", err)
	case status/100 != 2:
		return lifetime{}, fmt.Errorf("OpenAI workload identity token request rejected (HTTP %d)", status)
	}
	token, l, err := parseGrant(body, begun)
	if err != nil {
		return lifetime{}, err
	}
	return l, x.install(token, l)
}

// subject brings the identity into secret memory and returns it, which is a part of answer.
func (x *Exchanger) subject(ctx context.Context, records, request, answer []byte) ([]byte, error) {
	if x.identity == nil {
		return readTokenFile(x.cfg.TokenFile, answer)
	}
	m := message{room: request}
	m.add(x.parts.identityHead)
	if err := x.cfg.Source.Line(func(line []byte) error { m.addBytes(line); return nil }); err != nil {
		return nil, err
	}
	m.add("\r\n")
	status, body, err := x.identity.Exchange(ctx, records, m.bytes(), answer)
	switch {
	case errors.Is(err, upstream.ErrOversized):
		return nil, errIdentityXL
	case err != nil:
		return nil, fmt.Errorf("GitHub OIDC token request failed: %w", err)
	case status/100 != 2:
		return nil, fmt.Errorf("GitHub OIDC token request rejected (HTTP %d)", status)
	}
	value := jsonscan.Field{Name: "value", Kind: jsonscan.String}
	if jsonscan.Fields(body, &value) != nil || !value.Found {
		return nil, errIdentity
	}
	return value.Raw, checkSubject(value.Raw)
}

// checkSubject wants a token that needs no escapes in JSON.
func checkSubject(token []byte) error {
	if len(token) == 0 || len(token) > secret.MaxToken {
		return errSubject
	}
	for _, c := range token {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return errSubject
		}
	}
	return nil
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
	for n > 0 && (room[n-1] == '\n' || room[n-1] == '\r') {
		n--
	}
	return room[:n], checkSubject(room[:n])
}

// exchangeRequest puts the second request together in room.
func (p *parts) exchangeRequest(room, subject []byte) []byte {
	m := message{room: room}
	m.add(p.exchangeHead)
	m.add(strconv.Itoa(len(p.exchangeOpen) + len(subject) + len(p.bodyRest)))
	m.add("\r\n\r\n" + p.exchangeOpen)
	m.addBytes(subject)
	m.add(p.bodyRest)
	return m.bytes()
}

// message is put together in room, for which Exchanger.address has seen that it is large enough.
type message struct {
	room []byte
	n    int
}

func (m *message) add(s string)  { m.n += copy(m.room[m.n:], s) }
func (m *message) bytes() []byte { return m.room[:m.n] }

// addBytes adds a token. The exchange waits for the network right after it: the token must not wait in a thread's
// registers.
func (m *message) addBytes(p []byte) {
	m.n += copy(m.room[m.n:], p)
	secret.Scrub()
}

// parseGrant takes the access token, which is a part of body, and how long it serves: from before it was asked for, so
// that it is never thought to serve longer than it does (RFC 8693, section 2.2.1; expires_at is OpenAI's own).
func parseGrant(body []byte, begun time.Time) ([]byte, lifetime, error) {
	token := jsonscan.Field{Name: "access_token", Kind: jsonscan.String}
	issued := jsonscan.Field{Name: "issued_token_type", Kind: jsonscan.String}
	kind := jsonscan.Field{Name: "token_type", Kind: jsonscan.String}
	in := jsonscan.Field{Name: "expires_in", Kind: jsonscan.Number}
	at := jsonscan.Field{Name: "expires_at", Kind: jsonscan.Number}
	if jsonscan.Fields(body, &token, &issued, &kind, &in, &at) != nil || !token.Found || !issued.Found || !kind.Found || !in.Found {
		return nil, lifetime{}, errAnswer
	}
	if len(token.Raw) == 0 || checkSubject(token.Raw[:min(len(token.Raw), secret.MaxToken)]) != nil {
		return nil, lifetime{}, errAnswer
	}
	if string(issued.Raw) != accessTokenType || len(kind.Raw) != len("bearer") || !strings.EqualFold(string(kind.Raw), "bearer") {
		return nil, lifetime{}, errKind
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
