package upstream

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

const (
	bufferSize = 16 << 10  // of a busy reader: one TLS record
	smallSize  = 1 << 10   // of a reader between events
	maxHead    = 128 << 10 // of an answer, in bytes
)

var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// conn is one connection to the upstream. It is its own transport below TLS:
// there it counts what the kernel has taken, which tells whether the upstream
// may have seen any byte of a request.
type conn struct {
	tcp     *net.TCPConn
	raw     syscall.RawConn
	session *tls.Conn // nil for plain http
	taken   atomic.Int64
	sealer  *sealer   // for TLS 1.3 only
	real    []byte    // in secret memory: what stands in the place of the next record
	vec     [4][]byte // of a plain request's writev
	in      reader
	records framing   // of what crypto/tls has read
	dry     bool      // Read returns errDry
	idle    time.Time // since when it waits in the pool
	once    sync.Once
}

func newConn(tcp *net.TCPConn) *conn {
	c := &conn{tcp: tcp}
	c.raw, _ = tcp.SyscallConn() // fails only for a nil connection
	c.in.src = tcp
	return c
}

// secure lets everything from now on go through session.
func (c *conn) secure(session *tls.Conn) error {
	c.session = session
	c.in.src = session
	state := session.ConnectionState()
	if state.Version != tls.VersionTLS13 {
		return nil
	}
	client, _, err := trafficSecrets(session)
	if err != nil {
		return err
	}
	c.sealer, err = newSealer(state.CipherSuite, client)
	return err
}

// close ends the connection at once, whoever is reading or writing, and without
// the alert that tls.Conn.Close might wait to send.
func (c *conn) close() { c.once.Do(func() { c.tcp.Close() }) }

// Write is called by crypto/tls with sealed records.
func (c *conn) Write(p []byte) (int, error) {
	if c.sealer == nil {
		return c.write(p)
	}
	defer c.sealer.count(p)
	if c.real == nil {
		return c.write(p)
	}
	buf := buffers.Get().(*[]byte)
	defer func() {
		// The record's key is in the heap too: it must not lie about for those
		// who read both.
		clear((*buf)[:min(len(p), bufferSize)])
		buffers.Put(buf)
	}()
	record, err := c.sealer.replace((*buf)[:0], p, c.real)
	if err != nil {
		return 0, err
	}
	secret.Scrub() // before a write that may wait
	return c.write(record)
}

func (c *conn) write(p []byte) (int, error) {
	n, err := c.tcp.Write(p)
	c.taken.Add(int64(n))
	return n, err
}

// Read is called by crypto/tls, which reads ahead: as much as there is.
func (c *conn) Read(p []byte) (int, error) {
	if c.dry {
		return 0, errDry
	}
	n, err := c.tcp.Read(p)
	c.records.follow(p[:n])
	return n, err
}

// dryError is the error of a conn that has nothing more to give for the moment.
type dryError struct{}

func (dryError) Error() string   { return "bug: crypto/tls reads a dry connection" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true } // or crypto/tls would never read again

var errDry error = dryError{}

// drained reports whether nothing that was read from the network is left in
// the reader or in the TLS session: no plaintext, no record, no part of one. A
// Read of the session that may not read from the network finds out, without a
// system call; tickets and updates of keys it takes in on the way. What has
// arrived since is found by quiet.
func (c *conn) drained() bool {
	if c.in.r != c.in.w {
		return false
	}
	if c.session == nil {
		return true
	}
	c.dry = true
	_, err := c.session.Read(c.in.small[:1])
	c.dry = false
	return err == errDry && c.records.whole()
}

// framing follows a stream of TLS records (RFC 8446, section 5.1).
type framing struct {
	header [recordHeader]byte
	have   int // of the header, in bytes
	left   int // of the record behind its header
}

// follow takes the next bytes of the stream.
func (f *framing) follow(p []byte) {
	for len(p) > 0 {
		if f.left == 0 {
			n := copy(f.header[f.have:], p)
			p = p[n:]
			if f.have += n; f.have < recordHeader {
				return
			}
			f.have, f.left = 0, int(f.header[3])<<8|int(f.header[4])
		}
		n := min(f.left, len(p))
		p, f.left = p[n:], f.left-n
	}
}

// whole reports whether the stream ends with the end of a record.
func (f *framing) whole() bool { return f.have == 0 && f.left == 0 }

// The rest of net.Conn, for crypto/tls.

func (c *conn) Close() error                       { c.close(); return nil }
func (c *conn) LocalAddr() net.Addr                { return c.tcp.LocalAddr() }
func (c *conn) RemoteAddr() net.Addr               { return c.tcp.RemoteAddr() }
func (c *conn) SetDeadline(t time.Time) error      { return c.tcp.SetDeadline(t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.tcp.SetReadDeadline(t) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.tcp.SetWriteDeadline(t) }

var errHeadTooLarge = errors.New("the head is too large")

// reader holds what was read and not yet used: buf[r:w]. Its buffer is small
// until a read fills it, and small again once empty, so that a stream that
// waits for its next event costs little.
type reader struct {
	src    io.Reader
	buf    []byte
	r, w   int
	pooled *[]byte
	small  [smallSize]byte
}

// fill reads once, behind what is there, and returns the error only if nothing
// came with it.
func (b *reader) fill() error {
	b.makeRoom()
	n, err := b.src.Read(b.buf[b.w:])
	b.w += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

func (b *reader) makeRoom() {
	switch {
	case b.r == b.w && b.w == len(b.buf): // empty, and the last read filled it
		b.grow()
		b.r, b.w = 0, 0
	case b.r == b.w && b.w <= smallSize: // empty, and the last read was small
		b.shrink()
	case b.r == b.w:
		b.r, b.w = 0, 0
	case b.w == len(b.buf) && b.r > 0:
		b.w = copy(b.buf, b.buf[b.r:b.w])
		b.r = 0
	case b.w == len(b.buf):
		b.grow()
	}
}

// grow takes the next larger buffer: small, pooled, then twice as large each
// time.
func (b *reader) grow() {
	old := b.buf[b.r:b.w]
	switch {
	case len(b.buf) == 0:
		b.buf = b.small[:]
	case b.pooled == nil && len(b.buf) == smallSize:
		b.pooled = buffers.Get().(*[]byte)
		b.buf = *b.pooled
	case b.r == b.w: // full and used up: large enough
		return
	default:
		b.buf = make([]byte, 2*len(b.buf))
	}
	b.w = copy(b.buf, old)
	b.r = 0
}

// shrink gives a larger buffer back. What was in it is overwritten: an upstream
// that echoes the key must not leave copies in buffers that wait for others.
func (b *reader) shrink() {
	clear(b.buf)
	if b.pooled != nil {
		if len(b.buf) != bufferSize { // buf outgrew it; else it is buf
			clear(*b.pooled)
		}
		buffers.Put(b.pooled)
		b.pooled = nil
	}
	b.buf, b.r, b.w = b.small[:], 0, 0
}
