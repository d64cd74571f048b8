package tlsrecord

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"reflect"
)

var (
	errTaken          = errors.New("bug: crypto/tls used the connection after the handshake")
	errTrafficSecrets = errors.New("bug: this version of Go keeps the traffic secrets of TLS sessions elsewhere")
)

// Handshake performs a client's handshake on conn with crypto/tls and returns the Layer for the records that follow.
// crypto/tls has read no byte of those. The caller sets deadlines. If ctx ends during the handshake, Handshake closes
// conn.
//
// With TLS 1.3 crypto/tls seals nothing afterwards, and its traffic secrets are cleared: if both layers sealed records,
// they would use the same numbers and so the same nonces. Only the tickets of the first record go to crypto/tls, if cfg
// has a ClientSessionCache, so that later handshakes resume the session (RFC 8446, section 2.2). With TLS 1.2
// crypto/tls keeps sealing and opening.
func Handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (Layer, error) {
	below := &recordConn{Conn: conn}
	c := tls.Client(below, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	below.taken = true
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 {
		below.writable = true
		return &legacy{c, below}, nil
	}
	client, server, err := trafficSecrets(c)
	if err != nil {
		return nil, err
	}
	s, err := newSession(conn, state.CipherSuite, client, server)
	if err == nil && cfg.ClientSessionCache != nil {
		s.tickets = func(record []byte) { keepTickets(c, below, record) }
	}
	return s, err
}

// keepTickets lets crypto/tls open the first record after the handshake, which has tickets. It has the keys for that,
// and adds the tickets to its cache. It can write nothing, and an error costs only a resumption.
func keepTickets(c *tls.Conn, below *recordConn, record []byte) {
	defer func() { _ = recover() }() // no peer's data may end the process
	below.pending = record
	_, _ = c.Read(make([]byte, 1)) // ends with errNoPending
}

// recordConn is the connection that crypto/tls uses. Read returns data of one record at a time: during the handshake
// from the network, so that later records stay unread, and afterwards only from pending.
type recordConn struct {
	net.Conn
	header   [HeaderSize]byte
	pending  []byte // a header, or a record that is passed to crypto/tls
	left     int    // bytes left of the record's body
	taken    bool   // the handshake is complete
	writable bool   // crypto/tls may write although taken
}

// Read returns at most the rest of one record.
func (c *recordConn) Read(p []byte) (int, error) {
	switch {
	case len(c.pending) > 0:
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	// io.EOF would be permanent for crypto/tls.
	case c.taken:
		return 0, errNoPending
	case c.left == 0:
		if _, err := io.ReadFull(c.Conn, c.header[:]); err != nil {
			return 0, err
		}
		c.pending, c.left = c.header[:], int(binary.BigEndian.Uint16(c.header[3:]))
		return c.Read(p)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// Write fails after a TLS 1.3 handshake: a record that crypto/tls sealed, such as the response to a key update, would
// use a record number that the session uses too.
func (c *recordConn) Write(p []byte) (int, error) {
	if c.taken && !c.writable {
		return 0, errTaken
	}
	return c.Conn.Write(p)
}

// errNoPending is the error of a recordConn without pending data. crypto/tls treats a time-out as temporary and reads
// again later.
var errNoPending = os.ErrDeadlineExceeded

// legacy is the Layer of TLS 1.2: crypto/tls with one record at a time. crypto/tls seals directly from the caller's
// memory.
type legacy struct {
	*tls.Conn
	below *recordConn
}

// maxLegacyRecord is the size of the longest record (RFC 5246, section 6.2.3).
const maxLegacyRecord = HeaderSize + MaxPlaintext + 2048

// Size allows every content type: crypto/tls processes alerts, and refuses the rest.
func (l *legacy) Size(p []byte) (int, error) { return sizeOf(p, maxLegacyRecord) }

// Open passes the record to crypto/tls, which copies it; so the plaintext may overwrite the record.
func (l *legacy) Open(record []byte) ([]byte, error) {
	l.below.pending = record
	text := record[HeaderSize:]
	n, err := l.Read(text)
	if err == errNoPending {
		err = nil
	}
	return text[:n], err
}

func (l *legacy) WriteInPlace(buf []byte, n int) error {
	_, err := l.Conn.Write(buf[HeaderSize : HeaderSize+n])
	return err
}

// trafficSecrets returns the current traffic secrets of both sides of a TLS 1.3 session after the handshake. The slices
// belong to crypto/tls.
//
// The documented access is tls.Config.KeyLogWriter. But crypto/tls formats its lines with package fmt, whose pooled
// buffers keep the text of the secrets, and a KeyLogWriter cannot clear them. So the secrets are read where crypto/tls
// keeps them for key updates. If a version of Go keeps them elsewhere, every handshake fails here. If it kept other
// data under these names, the peer could not open the first record.
func trafficSecrets(c *tls.Conn) (client, server []byte, err error) {
	conn := reflect.ValueOf(c).Elem()
	client, server = trafficSecret(conn.FieldByName("out")), trafficSecret(conn.FieldByName("in"))
	if len(client) == 0 || len(server) == 0 {
		return nil, nil, errTrafficSecrets
	}
	return client, server, nil
}

// trafficSecret returns the secret of one direction, or nil.
func trafficSecret(half reflect.Value) []byte {
	if half.Kind() != reflect.Struct {
		return nil
	}
	secret := half.FieldByName("trafficSecret")
	if !secret.IsValid() || secret.Type() != reflect.TypeFor[[]byte]() {
		return nil
	}
	return secret.Bytes()
}
