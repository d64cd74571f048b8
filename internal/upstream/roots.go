package upstream

import (
	"crypto/x509"
	"fmt"
	"os"
)

// RootsFrom reads the certificate authorities in a PEM file, for Config.Roots;
// nil if file is "". A file without a certificate is an error.
func RootsFrom(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("--ca-file: there is no certificate in %s; it must be PEM", file)
	}
	return roots, nil
}
