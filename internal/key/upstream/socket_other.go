//go:build !linux

package upstream

import "syscall"

// setUserTimeout does nothing on this system; keep-alive probes detect a dead peer.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }

// acknowledged returns false: no system call is used on this system that could report it.
func (c *conn) acknowledged() bool { return false }
