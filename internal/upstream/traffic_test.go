package upstream

import (
	"crypto/tls"
	"errors"
	"reflect"
	"testing"
)

// TestTrafficSecretsMissing: a session without secrets, or another layout of
// tls.Conn than the expected one, is an error and never an empty secret.
func TestTrafficSecretsMissing(t *testing.T) {
	if client, server, err := trafficSecrets(&tls.Conn{}); !errors.Is(err, errTrafficSecrets) || client != nil || server != nil {
		t.Errorf("before the handshake: %x, %x, %v", client, server, err)
	}
	for _, layout := range []any{struct{}{}, struct{ trafficSecret string }{"x"}, "out", new(int)} {
		if got := trafficSecret(reflect.ValueOf(layout)); got != nil {
			t.Errorf("%T: %x", layout, got)
		}
	}
	if got := trafficSecret(reflect.Value{}); got != nil {
		t.Errorf("no such field: %x", got)
	}
}
