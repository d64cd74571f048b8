//go:build !linux

package systemd

import (
	"errors"
	"time"
)

const supported = false

// link is never made here.
type link struct{}

func dial(string) (link, error)               { return link{}, errors.ErrUnsupported }
func (link) close() error                     { return nil }
func (link) send(string, time.Duration) error { return errors.ErrUnsupported }
