package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// identity has the settings of workload identity.
type identity struct {
	github bool
	config key.Exchange
}

// enabled reports whether the key is got in exchange for an identity.
func (i *identity) enabled() bool { return i.github || i.config.TokenFile != "" }

// check refuses flags that contradict each other or are missing.
func (i *identity) check(o *options) error {
	switch {
	case !i.enabled():
		return nil
	case i.github && i.config.TokenFile != "":
		return errors.New("--github-oidc and --oidc-token-file contradict each other; choose one")
	case o.keyFile != "":
		return errors.New("--key-file brings a key, and workload identity makes its own; leave it out")
	case o.authHeader != key.Bearer:
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

// openKey opens the key, from a file if there is one. Standard input is closed when it has been read, or when there is
// nothing to be read.
func openKey(o *options, errs *errorLog) (k *key.Key, file *keyFile, err error) {
	cfg := key.Config{Header: o.authHeader, Require: o.requireSecretMemory()}
	path := o.keyFile
	if o.identity.enabled() {
		cfg.Exchange = &o.identity.config
	} else if path == "" {
		path = credential()
	}
	if path != "" {
		if file, err = findKeyFile(path, errs, o.owners()...); err == nil {
			err = file.openKey(cfg)
		}
		if err == nil {
			k = file.key
		}
	} else {
		k, err = readKey(cfg, errs)
	}
	if err != nil {
		return nil, nil, err
	}
	if err := detach(0); err != nil {
		k.Wipe()
		return nil, nil, fmt.Errorf("cannot close standard input: %w", err)
	}
	return k, file, nil
}

// exchange gets the first access token, and renews it from then on. It blocks until that is there, for a
// minute at most.
func (s *service) exchange(roots *x509.CertPool) (err error) {
	if s.opts.upstreamURL != upstream.DefaultURL {
		return errors.New("workload identity requires the default OpenAI Responses endpoint; leave --upstream-url out")
	}
	ctx, done := signal.NotifyContext(context.Background(), stopSignals...)
	defer done()
	if len(s.stop) == 0 { // else the stop came before this context
		err = s.key.Exchange(ctx, roots, s.errs.warning)
	}
	if ctx.Err() != nil || len(s.stop) > 0 {
		return errors.New("stopped before there was an access token")
	}
	ports, dirs := s.key.Needs()
	s.needs.Ports, s.needs.Read = append(s.needs.Ports, ports...), append(s.needs.Read, dirs...)
	s.onStart(s.opts.identity.readable)
	return err
}
