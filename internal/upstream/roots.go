package upstream

import (
	"crypto/x509"
	"fmt"
	"os"
)

// RootsFrom reads the certificate authorities in a PEM file, for Config.Roots; nil if file is "". A file without a
// certificate is an error.
func RootsFrom(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	return readRoots("--ca-file", file, "it must be PEM")
}

// loadRoots reads the system's roots, or those that SSL_CERT_FILE and SSL_CERT_DIR name. A file that was named and
// gives no certificate is an error at start rather than at the first request.
func loadRoots() (*x509.CertPool, error) {
	if file := os.Getenv("SSL_CERT_FILE"); file != "" {
		if _, err := readRoots("SSL_CERT_FILE", file, "name a PEM file of root certificates, or unset it"); err != nil {
			return nil, err
		}
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("cannot read the root certificates: %w; install ca-certificates or set SSL_CERT_FILE", err)
	}
	return roots, nil
}

func readRoots(option, file, hint string) (*x509.CertPool, error) {
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; %s", option, err, hint)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s: there is no certificate in %s; %s", option, file, hint)
	}
	return roots, nil
}
