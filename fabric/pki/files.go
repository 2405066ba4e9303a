package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/bladeflow/bladeflow/flow"
)

func certPath(dir, name string) string { return filepath.Join(dir, name+".crt") }
func keyPath(dir, name string) string  { return filepath.Join(dir, name+".key") }
func dirFS(dir string) fs.FS           { return os.DirFS(dir) }

const (
	certBlock = "CERTIFICATE"
	keyBlock  = "PRIVATE KEY" // PKCS #8
)

func certPEM(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: certBlock, Bytes: der}) }

// readBlock returns the one PEM block of a file. Its faults never quote the file.
func readBlock(path, kind string) ([]byte, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, unopened(path, err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != kind {
		return nil, unreadable(path, "it is not a PEM file with a "+kind)
	}
	return block.Bytes, nil
}

func unopened(path string, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return &flow.Fault{Code: "E_NO_FILE", What: path, Why: "no such file", Remedy: "make it with bladeflow pki init", Err: err}
	}
	return err
}

func unreadable(path, why string) error {
	return &flow.Fault{Code: "E_PKI_FILE", What: path, Why: why, Remedy: "restore it from a backup, or remove it and run bladeflow pki init"}
}

func readCert(dir, name string) (*x509.Certificate, error) {
	der, err := readBlock(certPath(dir, name), certBlock)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, unreadable(certPath(dir, name), err.Error())
	}
	return cert, nil
}

func readKey(dir, name string) (*ecdsa.PrivateKey, error) {
	path := keyPath(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return nil, unopened(path, err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, &flow.Fault{Code: "E_PKI_MODE", What: path, Why: fmt.Sprintf("others may read it (%v)", info.Mode().Perm()),
			Remedy: "chmod 600, and make a new one if somebody did"}
	}
	der, err := readBlock(path, keyBlock)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	ours, ok := key.(*ecdsa.PrivateKey)
	if err != nil || !ok || ours.Curve != elliptic.P256() {
		return nil, unreadable(path, "it is not a P-256 key")
	}
	return ours, nil
}

// ensureKey returns the key that is there or makes one. A key without certificate is
// what an interrupted run leaves.
func ensureKey(dir, name string) (*ecdsa.PrivateKey, error) {
	key, err := readKey(dir, name)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, err
	}
	if key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeNew(keyPath(dir, name), pem.EncodeToMemory(&pem.Block{Type: keyBlock, Bytes: der}))
}

// writeNew writes a file that must not exist: it is there whole or not at all, and
// of two programs that try one fails.
func writeNew(path string, content []byte) error {
	return place(path, content, func(temporary string) error {
		defer os.Remove(temporary)
		return os.Link(temporary, path)
	})
}

// replace writes a file in the place of one that exists.
func replace(path string, content []byte) error {
	return place(path, content, func(temporary string) error { return os.Rename(temporary, path) })
}

// place writes content beside path, to the disk, and lets move bring it there.
func place(path string, content []byte, move func(temporary string) error) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return unwritten(dir, err)
	}
	f, err := os.CreateTemp(dir, ".new-*") // mode 0600
	if err != nil {
		return unwritten(dir, err)
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = move(f.Name())
	}
	if err != nil {
		os.Remove(f.Name())
		return unwritten(path, err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return unwritten(dir, err)
	}
	defer d.Close()
	return d.Sync()
}

// unwritten says why a file or a directory could not be made. A missing parent is no
// missing file of the user's, so its error is not kept.
func unwritten(path string, err error) error {
	fault := &flow.Fault{Code: "E_FILE", What: path, Why: "it cannot be written", Remedy: "choose a directory where there is room and you may write"}
	var cause syscall.Errno
	if errors.As(err, &cause) {
		fault.Why = cause.Error()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		fault.Err = err
	}
	return fault
}
