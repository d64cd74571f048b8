package roots

import (
	"os"
	"strings"
	"testing"
)

// TestFrom: a missing file, or one without a certificate, is an error.
func TestFrom(t *testing.T) {
	empty := t.TempDir() + "/empty.pem"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{"/missing.pem": "no such file", empty: "no certificate"} {
		if _, err := From(file); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", file, err)
		}
	}
}
