// Package tokenexchange exchanges a workload's identity, issued by GitHub or another issuer, for short-lived access
// tokens of the upstream, and renews them.
//
// The protocol is OAuth 2.0 Token Exchange (RFC 8693). All three tokens, which are GitHub's request token, the identity
// and the access token, are kept in secret memory only: requests are assembled, and responses read and parsed, there.
package tokenexchange

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
)

// githubHosts is the domain that GitHub documents for its OIDC provider as used by a runner:
// *.actions.githubusercontent.com.
const githubHosts = ".actions.githubusercontent.com"

// Sizes of the secret memory, in bytes.
const (
	requestSize  = 24 << 10
	responseSize = 20 << 10 // of a response's content: the longest token, and 4 KiB
)

// Config describes the identity and the use of the access token.
type Config struct {
	// Audience is the audience of the identity requested from GitHub. Required with Source.
	Audience string
	// IdentityProviderID and ServiceAccountID are OpenAI's ids for the issuer and the account. Required.
	IdentityProviderID, ServiceAccountID string

	// RequestURL is GitHub's ACTIONS_ID_TOKEN_REQUEST_URL, to which Source is sent. Required with Source.
	RequestURL string
	// AllowHosts are hosts besides GitHub's that RequestURL may name, such as those of GitHub Enterprise Server. Each
	// of them is trusted with Source.
	AllowHosts []string
	// Source is GitHub's ACTIONS_ID_TOKEN_REQUEST_TOKEN, read by secret.Read with Token and NoSlots. Either Source or
	// TokenFile is required.
	Source *secret.Key
	// TokenFile is the path of a file that contains an identity, such as a token that Kubernetes renews. Each exchange
	// reads it into secret memory; the sandbox must allow what Needs returns.
	TokenFile string

	// TokenURL is the endpoint of the exchange; empty means OpenAI's. It must be https, or http to a loopback
	// address.
	TokenURL string
	// Key receives each access token by Set. Required, from secret.New with Token, which sets the longest access
	// token, and Spare.
	Key *secret.Key

	// Require makes it an error if the memory of the exchange, about 72 KiB, cannot be secret memory.
	Require bool
	// Roots are as in upstream.Config.
	Roots *x509.CertPool
	// Report receives a line for the operator when a renewal fails, when the access token expires, and when a renewal
	// succeeds again. It may be called concurrently and must not block. Required.
	Report func(line string)
}

// Exchanger keeps an access token valid.
type Exchanger struct {
	cfg      Config
	memory   *secret.Buffer
	identity provider // zero with TokenFile
	tokens   provider
	// bodyStart and bodyEnd enclose the identity in the content of a request to tokens.
	bodyStart, bodyEnd []byte
	// exchange performs one exchange; tests of the schedule replace it.
	exchange func(context.Context) (expires time.Time, err error)

	hint    chan struct{}
	cancel  func() // ends the renewal
	renewal sync.WaitGroup
	expiry  *time.Timer // of the current access token; nil before the first

	mu      sync.Mutex // guards expires and changes of Key
	expires time.Time  // when the current access token expires
}

// provider is an endpoint that issues tokens.
type provider struct {
	name     string // in errors
	endpoint *upstream.Endpoint
	head     []byte // the constant part of a request's head
}

// New checks the configuration, reads all files but TokenFile, and maps all memory. It makes no connections. Its errors
// are for the operator.
func New(cfg Config) (*Exchanger, error) {
	cfg.TokenURL = cmp.Or(cfg.TokenURL, "https://auth.openai.com/oauth/token")
	if err := cfg.check(); err != nil {
		return nil, err
	}
	x := &Exchanger{cfg: cfg, hint: make(chan struct{}, 1), cancel: func() {}}
	x.exchange = x.once
	if err := x.address(); err != nil {
		return nil, err
	}
	var err error
	x.memory, err = secret.NewBuffer(cfg.Require, upstream.ExchangeMemory+requestSize+responseSize)
	return x, err
}

// Needs returns the TCP ports that exchanges connect to, and the directories that must stay readable: those of TokenFile
// and of the target of a link there. A rule for the file itself would end with its inode when it is replaced.
func (x *Exchanger) Needs() (ports []uint16, directories []string) {
	ports = append(ports, x.tokens.endpoint.Port())
	if x.cfg.TokenFile == "" {
		ports = append(ports, x.identity.endpoint.Port())
		return slices.Compact(ports), nil
	}
	directories = append(directories, filepath.Dir(x.cfg.TokenFile))
	if target, err := filepath.EvalSymlinks(x.cfg.TokenFile); err == nil {
		directories = append(directories, filepath.Dir(target))
	}
	return ports, slices.Compact(directories)
}

// Locked returns why the exchanges use locked memory, which root can read; nil if they use secret memory.
func (x *Exchanger) Locked() error { return x.memory.Locked() }

func (c *Config) check() error {
	if c.Key == nil || (c.Source == nil) == (c.TokenFile == "") {
		return errors.New("bug: an exchange needs a key and one source")
	}
	for _, n := range []struct{ flag, value string }{
		{"--oidc-audience", c.Audience + c.TokenFile}, // an identity in a file contains its audience
		{"--identity-provider-id", c.IdentityProviderID},
		{"--service-account-id", c.ServiceAccountID},
	} {
		if strings.TrimSpace(n.value) == "" {
			return fmt.Errorf("workload identity requires a nonempty %s", n.flag)
		}
	}
	return nil
}

// address parses the endpoints and renders the constant parts of the requests.
func (x *Exchanger) address() error {
	c := &x.cfg
	target, err := upstream.ParseTarget(c.TokenURL, false)
	if err != nil {
		return errors.New("the token URL must be HTTPS without user info or fragment")
	}
	x.tokens, err = c.provider("OpenAI workload identity", "POST", target, target.Path, "content-type: application/json\r\ncontent-length: ")
	if err != nil {
		return err
	}
	x.bodyStart = []byte(`{"grant_type":"urn:ietf:params:oauth:grant-type:token-exchange",` +
		`"subject_token_type":"urn:ietf:params:oauth:token-type:jwt","subject_token":"`)
	x.bodyEnd = []byte(`","identity_provider_id":` + quote(c.IdentityProviderID) + `,"service_account_id":` + quote(c.ServiceAccountID) + "}")
	if c.Source != nil {
		if target, err = c.parseRequestURL(); err != nil {
			return err
		}
		separator := "?"
		if strings.Contains(target.Path, "?") {
			separator = "&"
		}
		path := target.Path + separator + "audience=" + url.QueryEscape(c.Audience)
		if x.identity, err = c.provider("GitHub OIDC", "GET", target, path, ""); err != nil {
			return err
		}
	}
	const length = 64 // of a content's length and the credential's field, at most
	longest := length + max(len(x.identity.head), len(x.tokens.head)+len(x.bodyStart)+len(x.bodyEnd))
	if room := requestSize - secret.MaxToken; longest > room {
		return fmt.Errorf("the URLs and names of the workload identity are too long; shorten them to about %d characters", room)
	}
	return nil
}

// provider returns a provider whose requests begin with this method, path and fields.
func (c *Config) provider(name, method string, t *upstream.Target, path, fields string) (provider, error) {
	endpoint, err := upstream.NewEndpoint(upstream.Config{Target: t, Roots: c.Roots})
	head := method + " " + path + " HTTP/1.1\r\nhost: " + t.Host + "\r\naccept: */*\r\nconnection: close\r\n" + fields
	return provider{name, endpoint, []byte(head)}, err
}

// parseRequestURL refuses every host that is not allowed to receive GitHub's request token.
func (c *Config) parseRequestURL() (*upstream.Target, error) {
	u, _ := url.Parse(c.RequestURL)
	target, err := upstream.ParseTarget(c.RequestURL, false)
	switch {
	case err == nil:
	case u != nil && u.Hostname() != "" && (u.Scheme != "https" || u.User != nil || strings.Contains(c.RequestURL, "#")):
		return nil, errors.New("GitHub OIDC request URL must be HTTPS without user info or fragment")
	default:
		return nil, errors.New("invalid GitHub OIDC request URL; --github-oidc-request-url is $ACTIONS_ID_TOKEN_REQUEST_URL, which a job has with the permission id-token: write")
	}
	named := func(host string) bool { return strings.EqualFold(host, target.Name) }
	if !strings.HasSuffix(strings.ToLower(target.Name), githubHosts) && !slices.ContainsFunc(c.AllowHosts, named) {
		return nil, fmt.Errorf("GitHub OIDC request URL names %[1]s, which is not one of GitHub's hosts; "+
			"if it may have the request token, add --oidc-allow-host %[1]s", target.Name)
	}
	return target, nil
}

func quote(s string) string {
	b, _ := json.Marshal(s) // marshalling a string does not fail
	return string(b)
}
