//go:build !linux

// Package roots provides the system's root certificates.
package roots

import "crypto/x509"

// System returns a function that returns what x509.SystemCertPool does.
func System() (parse func() *x509.CertPool, err error) {
	pool, err := x509.SystemCertPool()
	return func() *x509.CertPool { return pool }, err
}
