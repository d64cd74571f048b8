// Package key is the door to the API key: the rest of the program opens a key, replaces and wipes it, and makes the
// upstream's client of it, but never has it. The packages behind the door are secret, tlsrecord, upstream and
// tokenexchange; no other package imports secret.
package key

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
	"github.com/responses-api-proxy/responses-api-proxy/internal/tokenexchange"
	"github.com/responses-api-proxy/responses-api-proxy/internal/upstream"
)

// Policy decides what happens where the kernel has no secret memory.
type Policy = secret.Policy

// Header is the field in which the key goes to the upstream.
type Header = secret.Header

// Exchange describes the identity that is exchanged for the key. This package sets Source, Key, Policy, Roots and
// Report.
type Exchange = tokenexchange.Config

// The policies and the default header.
const (
	Auto    = secret.Auto
	Require = secret.Require
	Bearer  = secret.Bearer
)

// ParseHeader returns the header of that name: bearer, api-key or x-api-key.
func ParseHeader(name string) (Header, error) { return secret.ParseHeader(name) }

// NoEcho turns the echo of the terminal fd off and returns a function that turns it on again. Where fd is not a
// terminal, tty is false and nothing was changed.
func NoEcho(fd int) (restore func(), tty bool, err error) { return secret.NoEcho(fd) }

// Config describes a key. The zero value is a key for "authorization: Bearer", in the best memory that there is.
type Config struct {
	Policy Policy
	Header Header
	// File, if not empty, names the regular file that Open and Replace get a descriptor of, in errors; Replace then reads
	// what a key needs and not to the line's end.
	File string
	// Replaceable maps memory for another key, which Replace needs.
	Replaceable bool
	// Exchange, if not nil, makes the key an access token, which is got by Key.Exchange. Header must be Bearer then.
	Exchange *Exchange
}

// HasInput reports whether Open reads: the key, or the token that is needed for an exchange. An identity in a file
// needs none.
func (c *Config) HasInput() bool { return c.Exchange == nil || c.Exchange.TokenFile == "" }

// Key is an API key, or an access token in its place. It prints as [redacted]. Its methods may be used concurrently,
// but for Exchange.
type Key struct {
	cfg       Config
	secret    *secret.Key
	source    *secret.Key // what an exchange needs; nil if that is nothing
	exchanger *tokenexchange.Exchanger
}

// Open maps the memory of a key, and reads one line from the descriptor fd if cfg.HasInput. It blocks until that is
// there. On an error nothing of it is left in memory.
func Open(fd int, cfg Config) (k *Key, err error) {
	k = &Key{cfg: cfg}
	switch {
	case cfg.Exchange == nil:
		k.secret, err = secret.Read(fd, secret.Config{Policy: cfg.Policy, Header: cfg.Header, File: cfg.File, Spare: cfg.Replaceable})
	case cfg.HasInput():
		k.source, err = secret.Read(fd, secret.Config{Policy: cfg.Policy, Token: true, NoSlots: true})
	}
	if err == nil && cfg.Exchange != nil {
		k.secret, err = secret.New(secret.Config{Policy: cfg.Policy, Token: true})
	}
	if err != nil {
		k.Wipe()
		return nil, err
	}
	return k, nil
}

// Exchange gets the first access token, and renews it from then on until Wipe. It does nothing without Config.Exchange.
// It blocks until the token is there, for a minute at most, or ctx ends. report is as tokenexchange.Config's Report.
func (k *Key) Exchange(ctx context.Context, roots *x509.CertPool, report func(line string)) error {
	if k.cfg.Exchange == nil {
		return nil
	}
	if k.exchanger != nil {
		return errors.New("bug: a second exchange for one key")
	}
	cfg := *k.cfg.Exchange
	cfg.Source, cfg.Key, cfg.Policy, cfg.Roots, cfg.Report = k.source, k.secret, k.cfg.Policy, roots, report
	x, err := tokenexchange.New(cfg)
	if err != nil {
		return err
	}
	k.exchanger = x
	return x.Start(ctx)
}

// Renew asks for another access token, since the upstream has refused this one. It does not block, and does nothing
// without an exchange.
func (k *Key) Renew() {
	if k.exchanger != nil {
		k.exchanger.Renew()
	}
}

// Needs returns the TCP ports that exchanges connect to, and the directories whose files they read.
func (k *Key) Needs() (ports []uint16, directories []string) {
	if k.exchanger == nil {
		return nil, nil
	}
	return k.exchanger.Ports(), k.exchanger.Directories()
}

// Client returns a client that sends requests with the key. cfg.Key is not used.
func (k *Key) Client(cfg upstream.Config) (*upstream.Client, error) {
	cfg.Key = k.secret
	return upstream.New(cfg)
}

// Replace reads one line with another key from the descriptor fd and waits until the old key is wiped. On an error the
// old key stays in use: io.EOF, if the input ends before the first byte.
func (k *Key) Replace(fd int) error { return k.secret.Replace(fd) }

// Memory returns what the key, and all that it is got in exchange for, lies in, and if not all of that is secret
// memory, why.
func (k *Key) Memory() (string, error) {
	kind, why := k.secret.Memory()
	if k.source != nil && why == nil {
		kind, why = k.source.Memory()
	}
	if k.exchanger != nil && why == nil {
		kind, why = k.exchanger.Memory()
	}
	return string(kind), why
}

// Wipe stops the renewal and overwrites the key, and what it is got in exchange for, for good. It blocks while the key
// is being written. It may be called twice.
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

// Format prints [redacted] whatever the verb.
func (k *Key) Format(f fmt.State, _ rune) { io.WriteString(f, "[redacted]") }
