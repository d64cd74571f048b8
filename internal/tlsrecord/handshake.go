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
	errTaken          = errors.New("bug: crypto/tls used a connection that is no longer its own")
	errTrafficSecrets = errors.New("bug: this version of Go keeps the traffic secrets of TLS sessions in another place")
)

// Handshake does a client's handshake on conn by crypto/tls, and returns the Layer of what follows, of which crypto/tls
// has read no byte. The deadlines are the caller's. When ctx ends during the handshake, conn is closed.
//
// With TLS 1.3, crypto/tls is not used again, and the traffic secrets that it holds are cleared: each record number,
// and so each nonce, is used once. Sessions are not resumed, since crypto/tls does not see their tickets; cfg should
// have no ClientSessionCache, so that none are sent. With TLS 1.2, crypto/tls goes on sealing and opening.
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
	return newSession(conn, state.CipherSuite, client, server)
}

// recordConn is the connection that crypto/tls has. It hands over one record at a time: during the handshake from the
// network, so that what follows is left there, afterwards only what it is fed.
type recordConn struct {
	net.Conn
	header   [HeaderSize]byte
	pending  []byte // of a header, or fed
	left     int    // bytes of the record behind the header
	taken    bool   // the handshake is over
	writable bool   // once taken
}

// Read returns at most the rest of one record.
func (c *recordConn) Read(p []byte) (int, error) {
	switch {
	case len(c.pending) > 0:
		n := copy(p, c.pending)
		c.pending = c.pending[n:]
		return n, nil
	case c.taken:
		return 0, errDry
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

func (c *recordConn) Write(p []byte) (int, error) {
	if c.taken && !c.writable {
		return 0, errTaken
	}
	return c.Conn.Write(p)
}

// errDry is the error of a recordConn that has nothing more to give for the moment. It is a temporary one, after which
// crypto/tls reads again.
var errDry = os.ErrDeadlineExceeded

// legacy is the Layer of TLS 1.2: crypto/tls, which gets to read one record at a time. It seals straight out of the
// memory that it is given.
type legacy struct {
	*tls.Conn
	below *recordConn
}

// maxLegacyRecord is the size of the longest record (RFC 5246, section 6.2.3).
const maxLegacyRecord = HeaderSize + MaxPlaintext + 2048

func (l *legacy) Size(p []byte) (int, error) { return sizeOf(p, maxLegacyRecord) }

// Open lets crypto/tls open the record: it copies it, so that the plaintext may take its place.
func (l *legacy) Open(record []byte) ([]byte, error) {
	l.below.pending = record
	text := record[HeaderSize:]
	n, err := l.Read(text)
	if err == errDry {
		err = nil
	}
	return text[:n], err
}

func (l *legacy) WriteInPlace(buf []byte, n int) error {
	_, err := l.Conn.Write(buf[HeaderSize : HeaderSize+n])
	return err
}

// trafficSecrets returns the current traffic secrets of both sides of a TLS 1.3 session whose handshake is complete.
// The slices are crypto/tls's own.
//
// The documented way to the secrets is tls.Config.KeyLogWriter. crypto/tls formats its lines with package fmt, whose
// pooled buffers keep the text of a secret when the session is over, and no KeyLogWriter can clear those. So no
// KeyLogWriter is set, and the secrets are read where crypto/tls keeps them for key updates. If a version of Go keeps
// them elsewhere, every handshake fails here; if it kept other bytes under these names, the peer could not open the
// first record.
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
