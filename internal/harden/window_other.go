//go:build !linux

package harden

import "errors"

var errAlways = errors.New("here a debugger of the same user can attach at any time")
