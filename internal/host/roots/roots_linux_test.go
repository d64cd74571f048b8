package roots

import (
	"bytes"
	"crypto/x509"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/responses-api-proxy/responses-api-proxy/internal/lab/openaitest"
)

// TestSystemRoots checks that the roots are those of crypto/x509 in the present environment, and that none are an
// error: every handshake would fail.
func TestSystemRoots(t *testing.T) {
	want, wantErr := x509.SystemCertPool()
	parse, err := readSystem()
	if some := wantErr == nil && !want.Equal(x509.NewCertPool()); (err == nil) != some {
		t.Fatalf("%v; crypto/x509 has %v, some roots: %t", err, wantErr, some)
	}
	if n := os.Getenv("WANT_ROOTS"); n != "" && (n == "0") != (err != nil) {
		t.Errorf("the environment has %s roots: %v", n, err)
	}
	if err == nil && !parse().Equal(want) {
		t.Error("the roots are others than those of crypto/x509")
	}
}

// TestSystemRootsElsewhere is TestSystemRoots in other environments, which crypto/x509 reads once in a process.
func TestSystemRootsElsewhere(t *testing.T) {
	dir := t.TempDir()
	var all []byte
	write := func(name string, text []byte) string {
		t.Helper()
		name = filepath.Join(dir, name)
		os.Mkdir(filepath.Dir(name), 0o700)
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, name := range []string{"one/a.pem", "one/b.crt", "two/c"} {
		up := serveTLS(t)
		all = append(all, up.CAPEM()...)
		write(name, append([]byte("a comment\n"), bytes.TrimSpace(up.CAPEM())...))
	}
	write("two/again", all)
	// Longer than what is read at once.
	write("two/long", append(bytes.Repeat([]byte("a comment\n"), 100_000), serveTLS(t).CAPEM()...))
	write("two/none", []byte("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"))
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	link("a.pem", "one/hash.0")
	link("../two/c", "one/elsewhere")
	link("nowhere", "two/dangling")
	bundle, empty := write("bundle", all), write("empty/file", nil)
	for name, env := range map[string][]string{
		"usual":                {"SSL_CERT_FILE=", "SSL_CERT_DIR=", "WANT_ROOTS="},
		"file":                 {"SSL_CERT_FILE=" + bundle, "SSL_CERT_DIR=", "WANT_ROOTS=some"},
		"directory":            {"SSL_CERT_FILE=" + empty, "SSL_CERT_DIR=" + dir + "/one", "WANT_ROOTS=some"},
		"directories":          {"SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=" + dir + "/one:/nowhere:" + dir + "/two", "WANT_ROOTS=some"},
		"nothing":              {"SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=/nowhere", "WANT_ROOTS=0"},
		"nothing in the files": {"SSL_CERT_FILE=" + empty, "SSL_CERT_DIR=" + dir + "/empty", "WANT_ROOTS=0"},
		"no directory":         {"SSL_CERT_FILE=/nowhere", "SSL_CERT_DIR=" + bundle, "WANT_ROOTS=0"},
	} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSystemRoots$")
		cmd.Env = append(os.Environ(), env...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// serveTLS returns a server with a CA of its own.
func serveTLS(t *testing.T) *openaitest.Server {
	t.Helper()
	up, err := openaitest.Start(openaitest.Options{TLS: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(up.Close)
	return up
}
