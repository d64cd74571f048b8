// Package tokenexchange gets short-lived access tokens for the upstream in exchange for the identity that GitHub, or
// another issuer, vouches for, and renews them.
//
// The protocol is OAuth 2.0 Token Exchange (RFC 8693). All three tokens, which are GitHub's for the request, the
// identity itself and the access token, lie in secret memory only: responses are read, parsed and put together there.
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

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// DefaultTokenURL is where OpenAI exchanges tokens.
const DefaultTokenURL = "https://auth.openai.com/oauth/token"

// githubHosts are what GitHub documents for its OIDC provider, as seen from a runner: *.actions.githubusercontent.com.
const githubHosts = ".actions.githubusercontent.com"

// Sizes of the secret memory, in bytes.
const (
	requestSize = 24 << 10
	answerSize  = 20 << 10 // of a body: the longest token, and 4 KiB
)

// Config says whose identity it is and what to do with the access token.
type Config struct {
	// Audience is whom GitHub is asked to make the identity for. Required with Source.
	Audience string
	// IdentityProviderID and ServiceAccountID are OpenAI's names for the issuer and for the account. Required.
	IdentityProviderID, ServiceAccountID string

	// RequestURL is GitHub's ACTIONS_ID_TOKEN_REQUEST_URL. Required with Source, which is what that host gets to see.
	RequestURL string
	// AllowHosts are hosts besides GitHub's that RequestURL may name, such as those of GitHub Enterprise. Each of them
	// is trusted with Source.
	AllowHosts []string
	// Source is GitHub's ACTIONS_ID_TOKEN_REQUEST_TOKEN, as secret.Read brings it with Token and NoSlots. Either it
	// or TokenFile is required.
	Source *secret.Key
	// TokenFile is the path of a file that holds an identity, such as a token that Kubernetes renews. It is read at
	// each exchange, straight into secret memory; a sandbox must let Directories be read.
	TokenFile string

	// TokenURL is where the identity goes; empty means DefaultTokenURL. https, or http to a loopback address.
	TokenURL string
	// Key gets each access token by Set. Required, from secret.New with Token: true, which is the longest
	// access token.
	Key *secret.Key

	// Policy is for the secret memory of the exchange, about 72 KiB.
	Policy secret.Policy
	// Roots are as in upstream.Config.
	Roots *x509.CertPool
	// Report gets a line for the operator when a renewal fails, when the access token expires, and when all is well
	// again; nil for none. It may be called by several goroutines at once, and must not block.
	Report func(line string)
}

// Exchanger keeps an access token fresh.
type Exchanger struct {
	cfg      Config
	memory   *secret.Buffer
	identity provider // zero with TokenFile
	tokens   provider
	// bodyStart and bodyEnd are what is before and behind the identity in a request to tokens.
	bodyStart, bodyEnd []byte
	// exchange is the whole of one exchange; tests of the schedule put another in its place.
	exchange func(context.Context) (lifetime, error)

	hint chan struct{}
	stop func() // ends the renewal; nil before Start

	mu      sync.Mutex // over what follows, and while Key changes
	expires time.Time  // when the access token does; zero if that is of no interest any more
	expiry  *time.Timer
}

// provider is a host that gives tokens.
type provider struct {
	name     string // in errors
	endpoint *upstream.Endpoint
	head     []byte // of a request, as much of it as is the same in each
}

// New checks the configuration, reads all files but TokenFile, and maps all memory. It connects to nothing. Its errors
// are meant for the operator.
func New(cfg Config) (*Exchanger, error) {
	cfg.TokenURL = cmp.Or(cfg.TokenURL, DefaultTokenURL)
	if cfg.Report == nil {
		cfg.Report = func(string) {}
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	x := &Exchanger{cfg: cfg, hint: make(chan struct{}, 1)}
	x.exchange = x.once
	if err := x.address(); err != nil {
		return nil, err
	}
	var err error
	x.memory, err = secret.NewBuffer(cfg.Policy, upstream.ExchangeMemory+requestSize+answerSize)
	return x, err
}

// Ports are the TCP ports that the exchanges connect to.
func (x *Exchanger) Ports() []uint16 {
	ports := []uint16{x.tokens.endpoint.Port()}
	if x.identity.endpoint != nil {
		ports = append(ports, x.identity.endpoint.Port())
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// Directories are those whose files must stay readable: that of TokenFile, since a file that takes its place is another
// one, and where a link there leads to.
func (x *Exchanger) Directories() []string {
	if x.cfg.TokenFile == "" {
		return nil
	}
	directories := []string{filepath.Dir(x.cfg.TokenFile)}
	if target, err := filepath.EvalSymlinks(x.cfg.TokenFile); err == nil {
		directories = append(directories, filepath.Dir(target))
	}
	slices.Sort(directories)
	return slices.Compact(directories)
}

// Memory returns what the memory of the exchanges is made of, and if that is not secret.MemfdSecret, why.
func (x *Exchanger) Memory() (secret.Kind, error) { return x.memory.Memory() }

func (c *Config) check() error {
	if c.Key == nil || (c.Source == nil) == (c.TokenFile == "") {
		return errors.New("bug: an exchange needs a key and one source")
	}
	for _, n := range []struct {
		flag, value string
		needed      bool
	}{
		{"--oidc-audience", c.Audience, c.TokenFile == ""}, // an identity in a file says for whom it is
		{"--identity-provider-id", c.IdentityProviderID, true},
		{"--service-account-id", c.ServiceAccountID, true},
	} {
		if n.needed && strings.TrimSpace(n.value) == "" {
			return fmt.Errorf("workload identity requires a nonempty %s", n.flag)
		}
	}
	return nil
}

// address finds out where everything goes, and renders what is not secret.
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
		return fmt.Errorf("the URLs and names of the workload identity are too long: there is room for about %d characters", room)
	}
	return nil
}

// provider returns a provider, to which requests begin with this method, path and fields.
func (c *Config) provider(name, method string, t *upstream.Target, path, fields string) (provider, error) {
	endpoint, err := upstream.NewEndpoint(t, c.Roots)
	head := method + " " + path + " HTTP/1.1\r\nhost: " + t.Host + "\r\naccept: */*\r\nconnection: close\r\n" + fields
	return provider{name, endpoint, []byte(head)}, err
}

// parseRequestURL refuses every host that has not been named as one that may have GitHub's token.
func (c *Config) parseRequestURL() (*upstream.Target, error) {
	u, err := url.Parse(c.RequestURL)
	if err != nil || u.Opaque != "" || u.Hostname() == "" {
		return nil, errors.New("invalid GitHub OIDC request URL")
	}
	target, err := upstream.ParseTarget(c.RequestURL, false)
	if u.Scheme != "https" && (err != nil || target.TLS) || u.User != nil || strings.Contains(c.RequestURL, "#") {
		return nil, errors.New("GitHub OIDC request URL must be HTTPS without user info or fragment")
	}
	if err != nil {
		return nil, errors.New("invalid GitHub OIDC request URL")
	}
	named := func(host string) bool { return strings.EqualFold(host, target.Name) }
	if !strings.HasSuffix(strings.ToLower(target.Name), githubHosts) && !slices.ContainsFunc(c.AllowHosts, named) {
		return nil, fmt.Errorf("GitHub OIDC request URL names %[1]s, which is not a host of GitHub's; "+
			"if it may have the request token, add --oidc-allow-host %[1]s", target.Name)
	}
	return target, nil
}

func quote(s string) string {
	b, _ := json.Marshal(s) // a string cannot fail
	return string(b)
}
