//go:build !linux

package socket

import "net"

// Conn reads and writes one connection by its own methods.
type Conn struct{ nc net.Conn }

// New returns a Conn for nc, which stays its owner's.
func New(nc net.Conn) *Conn { return &Conn{nc} }

// Read implements io.Reader.
func (c *Conn) Read(p []byte) (int, error) { return c.nc.Read(p) }

// Write implements io.Writer.
func (c *Conn) Write(p []byte) (int, error) { return c.nc.Write(p) }
