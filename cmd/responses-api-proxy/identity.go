package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"

	"github.com/responses-api-proxy/responses-api-proxy/internal/relay"
	"github.com/responses-api-proxy/responses-api-proxy/internal/sandbox"
	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tokenexchange"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// identity is what the flags say of workload identity.
type identity struct {
	github     bool
	config     tokenexchange.Config
	given      []string // flags that mean nothing without it
	needGithub []string // and those of GitHub's
}

// wanted tells whether the key is got in exchange for an identity.
func (i *identity) wanted() bool { return i.github || i.config.TokenFile != "" }

// check refuses flags that contradict each other or are missing.
func (i *identity) check(o *options) error {
	switch {
	case !i.wanted() && len(i.given) > 0:
		return errors.New("--" + i.given[0] + " needs --github-oidc or --oidc-token-file")
	case !i.github && len(i.needGithub) > 0:
		return errors.New("--" + i.needGithub[0] + " needs --github-oidc")
	case !i.wanted():
		return nil
	case i.github && i.config.TokenFile != "":
		return errors.New("--github-oidc and --oidc-token-file contradict each other; choose one")
	case o.keyFD != 0:
		return errors.New("--key-fd brings a key, and workload identity makes its own; leave it out")
	case o.authHeader != secret.Bearer:
		return errors.New("workload identity makes bearer tokens; leave --auth-header out")
	}
	return nil
}

// readable makes sure, from within the sandbox and as --user's user, that the token
// can be read again when the first access token expires.
func (i *identity) readable() error {
	if i.config.TokenFile == "" {
		return nil
	}
	f, err := os.Open(i.config.TokenFile)
	if err != nil {
		return fmt.Errorf("cannot read --oidc-token-file again: %w; let --user's user read it and its folder", err)
	}
	return f.Close()
}

// openKey brings the key, or an empty one that an exchange will fill, and what
// is read from standard input for that.
func openKey(o *options, errs *errorLog) (key, source *secret.Key, err error) {
	if !o.identity.wanted() {
		key, err = readKey(secret.Config{Policy: o.secretMemory, Header: o.authHeader, Spare: o.keyFD > 0}, errs)
		return key, nil, err
	}
	if o.identity.github {
		source, err = readKey(secret.Config{Policy: o.secretMemory, Room: secret.MaxToken, NoSlots: true}, errs)
	} else {
		err = dropStdin()
	}
	if err != nil {
		return nil, nil, err
	}
	key, err = secret.New(secret.Config{Policy: o.secretMemory, Room: secret.MaxRoom})
	return key, source, err
}

// exchange gets the first access token, and renews it from then on. It blocks
// until that is there, for a minute at most.
func (s *service) exchange(source *secret.Key, roots *x509.CertPool) error {
	if !s.opts.identity.wanted() {
		return nil
	}
	if s.opts.upstreamURL != upstream.DefaultURL {
		return errors.New("workload identity requires the default OpenAI Responses endpoint; leave --upstream-url out")
	}
	cfg := s.opts.identity.config
	cfg.Source, cfg.Key, cfg.Policy, cfg.Roots, cfg.Report = source, s.key, s.opts.secretMemory, roots, s.errs.line
	x, err := tokenexchange.New(cfg)
	if err != nil {
		return err
	}
	s.exchanger = x
	s.components.add(component{
		needs: func(p *sandbox.Policy) {
			p.Ports, p.Read = append(p.Ports, x.Ports()...), append(p.Read, x.Directories()...)
		},
		start: s.opts.identity.readable,
		close: x.Close,
	})
	return s.untilStopped(x.Start)
}

// untilStopped ends what a stop comes in between, which is an error then.
func (s *service) untilStopped(start func(context.Context) error) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-s.stop:
			cancel()
		case <-done:
		}
	}()
	err := start(ctx)
	close(done)
	<-watched
	if ctx.Err() != nil {
		return errors.New("stopped before there was an access token")
	}
	return err
}

// upstream is where requests go.
func (s *service) upstream() relay.Upstream {
	if s.exchanger == nil {
		return s.client
	}
	return renewing{s.client, s.exchanger}
}

// renewing asks for another token when the upstream refuses the one there is.
type renewing struct {
	*upstream.Client
	exchanger *tokenexchange.Exchanger
}

func (r renewing) Do(ctx context.Context, q *upstream.Request) (*upstream.Response, error) {
	res, err := r.Client.Do(ctx, q)
	if err == nil && res.Head.Status == http.StatusUnauthorized {
		r.exchanger.Renew()
	}
	return res, err
}
