package tlsrecord

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"reflect"
)

var (
	errVersion        = errors.New("bug: the TLS configuration allows other versions than 1.3")
	errLeftOver       = errors.New("the TLS handshake ended within a record")
	errTrafficSecrets = errors.New("bug: this version of Go keeps the traffic secrets of TLS sessions in another place")
	errTaken          = errors.New("bug: crypto/tls used a connection that is no longer its own")
)

// Handshake does a client's handshake on conn by crypto/tls, with cfg, which
// must allow version 1.3 only, and then takes the connection over: crypto/tls
// has read no byte behind the handshake, and reads and writes none afterwards.
// So each record number, and so each nonce, is used once.
//
// The traffic secrets that crypto/tls holds are cleared. Sessions are not
// resumed, since crypto/tls does not see their tickets: cfg must have no
// ClientSessionCache. The deadlines are the caller's. When ctx ends during the handshake, conn is closed.
func Handshake(ctx context.Context, conn net.Conn, cfg *tls.Config) (*Session, error) {
	below := &handshakeConn{Conn: conn}
	c := tls.Client(below, cfg)
	if err := c.HandshakeContext(ctx); err != nil {
		return nil, err
	}
	if err := below.take(); err != nil {
		return nil, err
	}
	state := c.ConnectionState()
	if state.Version != tls.VersionTLS13 {
		return nil, errVersion
	}
	client, server, err := trafficSecrets(c)
	if err != nil {
		return nil, err
	}
	return newSession(conn, state.CipherSuite, client, server)
}

// handshakeConn is what crypto/tls has during the handshake: it hands over one
// record at a time, so that what follows is left for the Session.
type handshakeConn struct {
	net.Conn
	header [HeaderSize]byte
	unread []byte // of header
	left   int    // bytes of the record behind the header
	taken  bool
}

// Read returns at most the rest of one record.
func (c *handshakeConn) Read(p []byte) (int, error) {
	if c.taken {
		return 0, errTaken
	}
	if len(c.unread) == 0 && c.left == 0 {
		if _, err := io.ReadFull(c.Conn, c.header[:]); err != nil {
			return 0, err
		}
		c.unread = c.header[:]
		c.left = int(binary.BigEndian.Uint16(c.header[3:]))
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
	if c.taken {
		return 0, errTaken
	}
	return c.Conn.Write(p)
}

// take takes the connection from crypto/tls, which must have used up what it
// was given.
func (c *handshakeConn) take() error {
	c.taken = true
	if len(c.unread) > 0 || c.left > 0 {
		return errLeftOver
	}
	return nil
}

// trafficSecrets returns the current traffic secrets of both sides of a TLS 1.3
// session whose handshake is complete. The slices are crypto/tls's own.
//
// The documented way to the secrets is tls.Config.KeyLogWriter. crypto/tls
// formats its lines with package fmt, whose pooled buffers keep the text of a
// secret when the session is over, and no KeyLogWriter can clear those. So no
// KeyLogWriter is set, and the secrets are read where crypto/tls keeps them
// for key updates. If a version of Go keeps them elsewhere, every handshake
// fails here; if it kept other bytes under these names, the peer could not open
// the first record.
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
