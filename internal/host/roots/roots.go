// Package roots provides root certificates to a process that will not be able to read files. It reads at once what
// crypto/x509 would read, and leaves what takes longer, parsing hundreds of certificates, for later.
package roots

import (
	"crypto/x509"
	"fmt"
	"os"
)

// From reads the certificate authorities in a PEM file; nil if file is "". A file without a certificate is an error.
func From(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	return readFile("--ca-file", file, "name a file of CA certificates in PEM")
}

// System reads the system's roots, or those that SSL_CERT_FILE and SSL_CERT_DIR name. parse needs no file, and does its
// work once. On Linux having none, and on every system a named file without one, is an error at the start rather than
// at the first request.
func System() (parse func() *x509.CertPool, err error) {
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		if _, err := readFile("SSL_CERT_FILE", file, "name a PEM file of root certificates, or unset it"); err != nil {
			return nil, err
		}
	}
	if parse, err = readSystem(); err != nil {
		return nil, fmt.Errorf("cannot read the root certificates: %w; install ca-certificates or set SSL_CERT_FILE", err)
	}
	return parse, nil
}

func readFile(option, file, hint string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", option, err, hint)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: no certificate in %s; %s", option, file, hint)
	}
	return pool, nil
}
