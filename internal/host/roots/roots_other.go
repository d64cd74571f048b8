//go:build !linux

package roots

import "crypto/x509"

func readSystem() (parse func() *x509.CertPool, err error) {
	pool, err := x509.SystemCertPool()
	return func() *x509.CertPool { return pool }, err
}
