//go:build !linux

package upstream

import "syscall"

// setUserTimeout has nothing to set here; keep-alive probes find a dead peer.
func setUserTimeout(_, _ string, _ syscall.RawConn) error { return nil }

// acknowledged is false where no system call is used that could report it.
func (c *conn) acknowledged() bool { return false }
