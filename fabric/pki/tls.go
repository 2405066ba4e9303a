package pki

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Files are the paths of a certificate, its key and the CA, for programs that read
// them themselves, as the store's server does.
type Files struct{ CA, Cert, Key string }

// FilesOf returns the paths for a name. They need not exist.
func FilesOf(dir, name string) Files {
	return Files{CA: certPath(dir, CAName), Cert: certPath(dir, name), Key: keyPath(dir, name)}
}

// ServerTLS is how the holder of a certificate listens: TLS 1.3, and who connects
// must show a certificate of the same CA. Certificate and key are read for every
// connection, so a renewed certificate needs no restart.
func ServerTLS(f Files) (*tls.Config, error) {
	pool, err := f.check(x509.ExtKeyUsageServerAuth)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:     tls.VersionTLS13,
		ClientAuth:     tls.RequireAndVerifyClientCert,
		ClientCAs:      pool,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.pair() },
	}, nil
}

// ClientTLS is how the holder of a certificate connects: TLS 1.3, and only to a
// server of the same CA. Certificate and key are read for every connection.
func ClientTLS(f Files) (*tls.Config, error) {
	pool, err := f.check(x509.ExtKeyUsageClientAuth)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:           tls.VersionTLS13,
		RootCAs:              pool,
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair() },
	}, nil
}

func (f Files) pair() (*tls.Certificate, error) {
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// check verifies that the files fit together and serve for usage now, so that a
// daemon says at its start what its peers would say less clearly.
func (f Files) check(usage x509.ExtKeyUsage) (*x509.CertPool, error) {
	text, err := os.ReadFile(f.CA)
	if err != nil {
		return nil, unopened(f.CA, err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, unreadable(f.CA, "it holds no certificate")
	}
	pair, err := f.pair()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, unopened(f.Cert+" and "+f.Key, err)
	}
	if err != nil {
		return nil, unreadable(f.Cert, err.Error())
	}
	_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{usage}})
	if err == nil {
		return pool, nil
	}
	fault := &flow.Fault{Code: "E_PKI_CERTIFICATE", What: f.Cert, Why: err.Error(), Remedy: "make one with bladeflow pki init", Err: err}
	if now := time.Now(); now.After(pair.Leaf.NotAfter) {
		fault.Why = fmt.Sprintf("it ended on %s", pair.Leaf.NotAfter.Format(time.DateTime))
		fault.Remedy = "bladeflow pki renew"
	}
	return nil, fault
}
