package openaitest

import (
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"time"
)

// A CA is a certificate authority that is in no system's store and that exists in this process only.
type CA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewCA makes an authority.
func NewCA() (*CA, error) {
	ca := &CA{}
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "openaitest throw-away CA"}, KeyUsage: x509.KeyUsageCertSign}
	template.IsCA, template.BasicConstraintsValid = true, true
	cert, err := ca.sign(template)
	if err != nil {
		return nil, err
	}
	ca.key = cert.PrivateKey.(*ecdsa.PrivateKey)
	ca.cert, err = x509.ParseCertificate(cert.Certificate[0])
	return ca, err
}

// PEM returns the authority's certificate, for a file of trusted roots.
func (ca *CA) PEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// Leaf makes a server certificate for hosts, which are names or IP addresses.
func (ca *CA) Leaf(hosts ...string) (tls.Certificate, error) {
	template := &x509.Certificate{Subject: pkix.Name{CommonName: "openaitest"}, KeyUsage: x509.KeyUsageDigitalSignature}
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
			continue
		}
		template.DNSNames = append(template.DNSNames, h)
	}
	return ca.sign(template)
}

// sign makes a key and a certificate for it; an authority without a key of its own is the one being made, and signs
// itself.
func (ca *CA) sign(template *x509.Certificate) (tls.Certificate, error) {
	now := time.Now()
	template.SerialNumber = big.NewInt(now.UnixNano())
	template.NotBefore, template.NotAfter = now.Add(-time.Hour), now.Add(24*time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, cmp.Or(ca.cert, template), key.Public(), cmp.Or(ca.key, key))
	return tls.Certificate{Certificate: [][]byte{cert}, PrivateKey: key}, err
}

func (s *Server) setupTLS() error {
	ca, err := NewCA()
	if err != nil {
		return err
	}
	leaf, err := ca.Leaf("127.0.0.1", "::1", "localhost")
	if err != nil {
		return err
	}
	s.ca = ca.PEM()
	s.tls = &tls.Config{
		Certificates: []tls.Certificate{leaf},
		MinVersion:   s.opts.TLSMin,
		MaxVersion:   s.opts.TLSMax,
		NextProtos:   []string{"http/1.1"},
		KeyLogWriter: s.opts.KeyLog,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			hello.Context().Value(connKey{}).(*Conn).origin.ALPN = hello.SupportedProtos
			return nil, nil
		},
	}
	return nil
}
