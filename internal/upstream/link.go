package upstream

import (
	"context"
	"errors"
	"io"
	"net"
	"time"

	"github.com/responses-api-proxy/responses-api-proxy/internal/secret"
)

// Links: how an answer gets into secret memory without crypto/tls.
//
// crypto/tls opens records where it has read them, in the heap. For a
// connection that carries one exchange there is a simpler way than to hand it
// decoys (reseal.go): crypto/tls does the handshake, gets to see not a byte of
// what follows, and is never called again. The record layer from there on
// (RFC 8446, section 5) is this file: seal, open, and refuse everything that an
// exchange has no need of. Each nonce is used once, because nobody else seals.
const (
	typeAlert     = 0x15
	typeHandshake = 0x16

	maxPlaintext  = 1 << 14            // of a record (RFC 8446, section 5.1)
	maxCiphertext = maxPlaintext + 256 // section 5.2

	closeNotify      = 0 // section 6.1
	newSessionTicket = 4 // section 4.6.1

	// maxIdleRecords bounds those that bring no data, one after the other.
	maxIdleRecords = 32
)

var (
	errRecord    = errors.New("a TLS record is not what may come here")
	errAlert     = errors.New("the TLS session was ended with an alert")
	errSignedEnd = errors.New("the TLS session has ended")
	errOver      = errors.New("bug: crypto/tls used a connection that is no longer its own")
)

// link is one connection for one exchange.
type link struct {
	tcp     *net.TCPConn
	in, out *sealer // nil for plain http
	record  []byte  // secret memory for one record
}

// dialLink connects, and takes the connection over from crypto/tls.
func dialLink(ctx context.Context, d *dialer, record []byte) (*link, error) {
	tcp, err := d.reach(ctx)
	if err != nil {
		return nil, err
	}
	l := &link{tcp: tcp, record: record}
	if d.tls == nil {
		return l, nil
	}
	if err := l.secure(ctx, d); err != nil {
		tcp.Close()
		return nil, err
	}
	return l, nil
}

// secure does the handshake. The connection keeps no deadline of it.
func (l *link) secure(ctx context.Context, d *dialer) error {
	below := &handshakeConn{Conn: l.tcp}
	session, err := d.handshake(ctx, l.tcp, below)
	if err != nil {
		return err
	}
	if !below.end() {
		return fail(TLSFailed, "TLS handshake: it ended within a record")
	}
	client, server, err := trafficSecrets(session)
	if err != nil {
		return fail(TLSFailed, "TLS session: %w", err)
	}
	defer clear(client) // crypto/tls has no further use for them
	defer clear(server)
	suite := session.ConnectionState().CipherSuite
	if l.in, err = newSealer(suite, server); err == nil {
		l.out, err = newSealer(suite, client)
	}
	if err == nil {
		err = l.tcp.SetDeadline(time.Time{})
	}
	if err != nil {
		return fail(TLSFailed, "TLS session: %w", err)
	}
	return nil
}

// write sends message, in as many records as it needs.
func (l *link) write(message []byte) error {
	if l.out == nil {
		_, err := l.tcp.Write(message)
		return err
	}
	for len(message) > 0 {
		n := copy(l.record[recordHeader:recordHeader+maxPlaintext], message)
		message = message[n:]
		record := l.seal(n)
		secret.Scrub() // before a write that may wait
		if _, err := l.tcp.Write(record); err != nil {
			return err
		}
	}
	return nil
}

// seal makes a record of the n bytes that stand behind the place of its header,
// where they are.
func (l *link) seal(n int) []byte {
	plaintext := l.record[recordHeader : recordHeader+n+1]
	plaintext[n] = typeApplication
	header, size := l.record[:recordHeader], len(plaintext)+tagSize
	copy(header, []byte{typeApplication, 3, 3, byte(size >> 8), byte(size)})
	nonce := l.out.nonce()
	l.out.seq++
	return l.out.aead.Seal(header, nonce[:], plaintext, header)
}

// read reads once, into p. The errors are errSignedEnd where the other side has
// said that it is done, and ErrOversized for a record that does not fit p.
func (l *link) read(p []byte) (int, error) {
	if l.in == nil {
		n, err := l.tcp.Read(p)
		if err == io.EOF {
			err = errSignedEnd // as good as plain http has it
		}
		return n, err
	}
	for range maxIdleRecords {
		n, kind, err := l.open(p)
		if err != nil {
			return 0, err
		}
		switch {
		case kind == typeApplication && n > 0:
			return n, nil
		case kind == typeApplication:
		case kind == typeHandshake && n > 0 && p[0] == newSessionTicket:
			secret.Wipe(p[:n])
		case kind == typeAlert && n == 2 && p[1] == closeNotify:
			return 0, errSignedEnd
		case kind == typeAlert:
			return 0, errAlert
		default: // new keys above all (section 4.6.3): those at hand are the first
			return 0, errRecord
		}
	}
	return 0, errRecord
}

// open reads one record and opens it into p. It returns how many bytes of what
// kind it held.
func (l *link) open(p []byte) (n int, kind byte, err error) {
	header := l.record[:recordHeader]
	if _, err := io.ReadFull(l.tcp, header); err != nil {
		return 0, 0, cut(err)
	}
	size := int(header[3])<<8 | int(header[4])
	if header[0] != typeApplication || size <= tagSize || size > maxCiphertext {
		return 0, 0, errRecord
	}
	n = size - tagSize
	if n > len(p) { // before Open, which would take other memory
		return 0, 0, ErrOversized
	}
	sealed := l.record[recordHeader : recordHeader+size]
	if _, err := io.ReadFull(l.tcp, sealed); err != nil {
		return 0, 0, cut(err)
	}
	nonce := l.in.nonce()
	l.in.seq++
	if _, err := l.in.aead.Open(p[:0:n], nonce[:], sealed, header); err != nil {
		return 0, 0, errResealing
	}
	secret.Wipe(sealed) // and the registers: the next read may wait
	for n > 0 && p[n-1] == 0 {
		n-- // padding (section 5.4)
	}
	if n == 0 {
		return 0, 0, errRecord
	}
	kind, p[n-1] = p[n-1], 0
	return n - 1, kind, nil
}

// cut makes every end of the connection one that nobody has announced.
func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// handshakeConn is what crypto/tls gets for the handshake: it hands over one
// record at a time, so that what follows is still there afterwards.
type handshakeConn struct {
	net.Conn
	header [recordHeader]byte
	unread []byte // of header
	left   int    // of the record behind the header
	over   bool
}

// Read returns at most the rest of one record.
func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.over {
		return 0, errOver
	}
	if len(c.unread) == 0 && c.left == 0 {
		if _, err := io.ReadFull(c.Conn, c.header[:]); err != nil {
			return 0, err
		}
		c.unread = c.header[:]
		c.left = int(c.header[3])<<8 | int(c.header[4])
	}
	if len(c.unread) > 0 {
		n := copy(p, c.unread)
		c.unread = c.unread[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Write sends records of the handshake.
func (c *handshakeConn) Write(p []byte) (int, error) {
	if c.over {
		return 0, errOver
	}
	return c.Conn.Write(p)
}

// end takes the connection from crypto/tls. It is false if that has not used up
// what it was given.
func (c *handshakeConn) end() bool {
	c.over = true
	return len(c.unread) == 0 && c.left == 0
}
