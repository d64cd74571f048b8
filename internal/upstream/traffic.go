package upstream

import (
	"crypto/tls"
	"errors"
	"reflect"
)

var errTrafficSecrets = errors.New("bug: this version of Go keeps the traffic secrets of TLS sessions in another place")

// trafficSecrets returns the current traffic secrets of both sides of a TLS
// 1.3 session whose handshake is complete. The slices are crypto/tls's own:
// the caller must not keep them.
//
// The documented way to the secrets is tls.Config.KeyLogWriter. crypto/tls
// formats its lines with package fmt, whose pooled buffers keep the text of a
// secret when the session is over, and no KeyLogWriter can clear those. So no
// KeyLogWriter is set, and the secrets are read where crypto/tls keeps them
// for key updates. If a version of Go keeps them elsewhere, every connection
// fails here; if it kept other bytes under these names, the check of the first
// decoy (reseal.go), or of the first record, would fail.
func trafficSecrets(session *tls.Conn) (client, server []byte, err error) {
	conn := reflect.ValueOf(session).Elem()
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
