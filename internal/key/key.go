// Package key is the interface to the API key for the rest of the program, which opens, replaces and wipes a key, and
// makes the upstream client that sends it, but never has access to its bytes. Only the packages behind it, secret,
// tlsrecord, upstream and tokenexchange, do; no other package imports secret.
package key

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"

	"github.com/responses-api-proxy/responses-api-proxy/internal/key/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/tokenexchange"
	"github.com/responses-api-proxy/responses-api-proxy/internal/key/upstream"
)

// Header is the field in which the key is sent to the upstream.
type Header = secret.Header

// Exchange describes the identity that is exchanged for the key. This package sets Source, Key, Require, Roots and
// Report.
type Exchange = tokenexchange.Config

// Bearer is the default header.
const Bearer = secret.Bearer

// ParseHeader returns the header with that name: bearer, api-key or x-api-key.
func ParseHeader(name string) (Header, error) { return secret.ParseHeader(name) }

// NoEcho turns the echo of the terminal fd off and returns a function that restores it. If fd is not a terminal, tty is
// false and nothing is changed.
func NoEcho(fd int) (restore func(), tty bool, err error) { return secret.NoEcho(fd) }

// HasSecretMemory reports whether the kernel has secret memory, whether or not this process may use it.
func HasSecretMemory() bool { return secret.HasSecretMemory() }

// Config describes a key. The zero value is a key for "authorization: Bearer" in the best memory available. Replace needs
// Spare.
type Config struct {
	secret.Config
	// Exchange, if not nil, makes the key an access token, which Key.Exchange obtains. Header must be Bearer.
	Exchange *Exchange
}

// HasInput reports whether Open reads from its descriptor: the key, or the token that an exchange needs. An identity in
// a file needs no input.
func (c *Config) HasInput() bool { return c.Exchange == nil || c.Exchange.TokenFile == "" }

// Key is an API key, or an access token in place of one. It prints as [redacted]. Its methods other than Exchange may
// be called concurrently.
type Key struct {
	secret.Unprintable
	cfg       Config
	secret    *secret.Key
	source    *secret.Key // the input of an exchange; nil if it needs none
	exchanger *tokenexchange.Exchanger
}

// Open maps the memory of a key, and reads one line from the descriptor fd if cfg.HasInput. It blocks until the line
// has arrived. After an error nothing of the line is left in memory.
func Open(fd int, cfg Config) (k *Key, err error) {
	k = &Key{cfg: cfg}
	switch {
	case cfg.Exchange == nil:
		k.secret, err = secret.Read(fd, cfg.Config)
	case cfg.HasInput():
		k.source, err = secret.Read(fd, secret.Config{Require: cfg.Require, Token: true, NoSlots: true, Terminal: cfg.Terminal})
	}
	if err == nil && cfg.Exchange != nil {
		k.secret, err = secret.New(secret.Config{Require: cfg.Require, Token: true, Spare: true})
	}
	if err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// Exchange obtains the first access token, and renews it from then on until Wipe. It does nothing without
// Config.Exchange. It blocks until it has the token, for at most a minute, or until ctx ends. report is
// tokenexchange.Config's Report.
func (k *Key) Exchange(ctx context.Context, roots *x509.CertPool, report func(line string)) error {
	if k.cfg.Exchange == nil {
		return nil
	}
	if k.exchanger != nil {
		return errors.New("bug: a second exchange for one key")
	}
	cfg := *k.cfg.Exchange
	cfg.Source, cfg.Key, cfg.Require, cfg.Roots, cfg.Report = k.source, k.secret, k.cfg.Require, roots, report
	x, err := tokenexchange.New(cfg)
	if err != nil {
		return err
	}
	k.exchanger = x
	return x.Start(ctx)
}

// Renew requests a new access token after the upstream has refused the current one. It does not block, and does nothing
// without an exchange.
func (k *Key) Renew() {
	if k.exchanger != nil {
		k.exchanger.Renew()
	}
}

// Needs returns the TCP ports that exchanges connect to, and the directories whose files they read, for the sandbox's
// policy.
func (k *Key) Needs() (ports []uint16, directories []string) {
	if k.exchanger == nil {
		return nil, nil
	}
	return k.exchanger.Needs()
}

// Client returns a client that sends requests with the key. It ignores cfg.Key.
func (k *Key) Client(cfg upstream.Config) (*upstream.Client, error) {
	cfg.Key = k.secret
	return upstream.New(cfg)
}

// Replace reads one line with a new key from the descriptor fd and blocks until the old key is wiped. After an error
// the old key stays in use; the error is io.EOF if the input ends before the first byte.
func (k *Key) Replace(fd int) error { return k.secret.Replace(fd) }

// More reports whether the input of Open or of the last Replace, as far as it was read, had another line than the
// key's.
func (k *Key) More() bool {
	if k.source != nil {
		return k.source.More()
	}
	return k.secret.More()
}

// Memory returns the kind of memory of the key and of everything that it is exchanged for, and the reason if not all of
// that is secret memory.
func (k *Key) Memory() (kind string, why error) {
	why = k.secret.Locked()
	if k.source != nil {
		why = cmp.Or(why, k.source.Locked())
	}
	if k.exchanger != nil {
		why = cmp.Or(why, k.exchanger.Locked())
	}
	if why != nil {
		return "locked", why
	}
	return "memfd_secret", nil
}

// Wipe stops the renewal and overwrites the key, and the input of its exchange, permanently. It blocks while the key is
// being sent. It may be called more than once.
func (k *Key) Wipe() {
	if k.exchanger != nil {
		k.exchanger.Close()
	}
	for _, s := range []*secret.Key{k.secret, k.source} {
		if s != nil {
			s.Wipe()
		}
	}
}
