package pki

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

func initialized(t *testing.T, o Options) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if _, err := Init(dir, o); err != nil {
		t.Fatal(err)
	}
	return dir
}

func wantFault(t *testing.T, err error, code string) {
	t.Helper()
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

func cert(t *testing.T, dir, name string) *x509.Certificate {
	t.Helper()
	c, err := readCert(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := fs.WalkDir(os.DirFS(dir), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(filepath.Join(dir, name))
		all[name] = string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestInit(t *testing.T) {
	dir := initialized(t, Options{Hosts: []string{"fabric.example", "192.0.2.1"}, Blades: []string{"b1"}, Users: []User{{"eve", Viewer}}})
	for _, w := range []struct {
		name   string
		role   Role
		life   time.Duration
		server bool
	}{
		{"server", Server, machineLife, true}, {"manager", Manager, machineLife, false}, {"root", Root, machineLife, false},
		{"b1", Blade, machineLife, false}, {"eve", Viewer, personLife, false},
	} {
		c := cert(t, dir, w.name)
		if role, err := RoleOf(c); err != nil || role != w.role || c.Subject.CommonName != w.name {
			t.Errorf("%s: role %v, %v, subject %v", w.name, role, err, c.Subject)
		}
		if left := time.Until(c.NotAfter); left > w.life || left < w.life-time.Minute {
			t.Errorf("%s lives for %v, want %v", w.name, left, w.life)
		}
		uses := map[x509.ExtKeyUsage]bool{}
		for _, u := range c.ExtKeyUsage {
			uses[u] = true
		}
		if c.KeyUsage != x509.KeyUsageDigitalSignature || c.IsCA || !uses[x509.ExtKeyUsageClientAuth] || uses[x509.ExtKeyUsageServerAuth] != w.server {
			t.Errorf("%s: usage %v %v, CA %v", w.name, c.KeyUsage, c.ExtKeyUsage, c.IsCA)
		}
	}
	for _, host := range []string{"fabric.example", "192.0.2.1", "localhost", "127.0.0.1", "::1"} {
		if err := cert(t, dir, "server").VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	ca := cert(t, dir, CAName)
	if !ca.IsCA || ca.MaxPathLen != 0 || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("CA: %v, path %d, usage %v", ca.IsCA, ca.MaxPathLen, ca.KeyUsage)
	}
	for name := range contents(t, dir) {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	names, err := Names(dir)
	if diff := cmp.Diff([]string{"b1", "ca", "eve", "manager", "root", "server"}, names); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestInitAgain(t *testing.T) {
	dir := initialized(t, Options{Blades: []string{"b1"}})
	before := contents(t, dir)
	made, err := Init(dir, Options{Blades: []string{"b1", "b2"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range made {
		if m.New != (m.Name == "b2") {
			t.Errorf("%+v", m)
		}
	}
	after := contents(t, dir)
	for name, text := range before {
		if after[name] != text {
			t.Errorf("%s was overwritten", name)
		}
	}
	if len(after) != len(before)+2 {
		t.Errorf("%d files, then %d", len(before), len(after))
	}
}

// TestInitInterrupted: a run that ended after any of its files is completed by the
// next, and what was there stays.
func TestInitInterrupted(t *testing.T) {
	o := Options{Blades: []string{"b1"}}
	order := []string{"ca.key", "ca.crt", "server.key", "server.crt", "manager.key", "manager.crt", "root.key", "root.crt", "b1.key", "b1.crt"}
	for n := range order {
		dir := initialized(t, o)
		for _, name := range order[n:] {
			if err := os.Remove(filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		before := contents(t, dir)
		if _, err := Init(dir, o); err != nil {
			t.Fatalf("after %d files: %v", n, err)
		}
		after := contents(t, dir)
		for name, text := range before {
			if after[name] != text {
				t.Errorf("after %d files: %s was overwritten", n, name)
			}
		}
		for _, name := range []string{"server", "b1"} {
			if _, err := ClientTLS(FilesOf(dir, name)); err != nil {
				t.Errorf("after %d files: %v", n, err)
			}
		}
	}
}

func TestInitRefuses(t *testing.T) {
	dir := initialized(t, Options{Blades: []string{"b1"}, Users: []User{{"ann", Operator}}})
	before := contents(t, dir)
	for _, c := range []struct {
		code string
		o    Options
	}{
		{"E_NAME", Options{Blades: []string{"../b1"}}},
		{"E_NAME", Options{Blades: []string{""}}},
		{"E_NAME", Options{Users: []User{{"an n", Viewer}}}},
		{"E_PKI_NAME", Options{Blades: []string{"root"}}},
		{"E_PKI_NAME", Options{Users: []User{{"manager", Admin}}}},
		{"E_PKI_NAME", Options{Blades: []string{"ca"}}},
		{"E_PKI_NAME", Options{Blades: []string{"b2"}, Users: []User{{"b2", Viewer}}}},
		{"E_PKI_ROLE", Options{Users: []User{{"bob", "superuser"}}}},
		{"E_PKI_HOST", Options{Hosts: []string{"https://x"}}},
		{"E_PKI_EXISTS", Options{Users: []User{{"b1", Admin}}}},  // a blade does not become an admin
		{"E_PKI_EXISTS", Options{Users: []User{{"ann", Admin}}}}, // nor an operator
		{"E_PKI_EXISTS", Options{Hosts: []string{"other.example"}}},
	} {
		_, err := Init(dir, c.o)
		wantFault(t, err, c.code)
	}
	if diff := cmp.Diff(before, contents(t, dir)); diff != "" {
		t.Error("a refused Init wrote something")
	}
	if err := os.Remove(keyPath(dir, CAName)); err != nil {
		t.Fatal(err)
	}
	_, err := Init(dir, Options{Blades: []string{"b3"}})
	wantFault(t, err, "E_PKI_KEY")
}

func TestKeyOthersMayRead(t *testing.T) {
	dir := initialized(t, Options{})
	if err := os.Chmod(keyPath(dir, CAName), 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := Load(dir)
	wantFault(t, err, "E_PKI_MODE")
}

func TestNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.key")
	if err := writeNew(path, []byte("first")); err != nil {
		t.Fatal(err)
	}
	if err := writeNew(path, []byte("second")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second write: %v", err)
	}
	if diff := cmp.Diff(map[string]string{"x.key": "first"}, contents(t, filepath.Dir(path))); diff != "" {
		t.Error(diff)
	}
}

func TestRenew(t *testing.T) {
	dir := initialized(t, Options{Hosts: []string{"fabric.example"}})
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	old := cert(t, dir, "server")
	key, _ := os.ReadFile(keyPath(dir, "server"))
	m, err := a.Renew("server")
	if err != nil || m.Role != Server {
		t.Fatal(m, err)
	}
	renewed := cert(t, dir, "server")
	if renewed.SerialNumber.Cmp(old.SerialNumber) == 0 || renewed.NotAfter.Before(old.NotAfter) {
		t.Error("the certificate is the old one")
	}
	if diff := cmp.Diff(old.DNSNames, renewed.DNSNames); diff != "" {
		t.Error(diff)
	}
	if now, _ := os.ReadFile(keyPath(dir, "server")); !bytes.Equal(now, key) {
		t.Error("the key changed")
	}
	if _, err := ServerTLS(FilesOf(dir, "server")); err != nil {
		t.Error(err)
	}
	_, err = a.Renew(CAName)
	wantFault(t, err, "E_PKI_NAME")
	if _, err := a.Renew("nobody"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}

	other := initialized(t, Options{})
	copyFile(t, certPath(other, "server"), certPath(dir, "foreign"))
	copyFile(t, keyPath(other, "server"), keyPath(dir, "foreign"))
	_, err = a.Renew("foreign")
	wantFault(t, err, "E_PKI_FOREIGN")
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, text, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestNoKeyInSight prints what a careless program could print.
func TestNoKeyInSight(t *testing.T) {
	dir := initialized(t, Options{})
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := a.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x", "%q"} {
		fmt.Fprintf(&said, verb+"\n", a)
	}
	slog.New(slog.NewTextHandler(&said, nil)).Info("ca", "ca", a)
	slog.New(slog.NewJSONHandler(&said, nil)).Info("ca", "ca", a)
	text, _ := os.ReadFile(keyPath(dir, CAName))
	body := strings.Split(string(text), "\n")[1]
	for _, damage := range []string{"nonsense\n" + body, strings.Replace(string(text), "PRIVATE", "PUBLIC", 2), strings.Replace(string(text), "M", "N", 1)} {
		if err := os.WriteFile(keyPath(dir, CAName), []byte(damage), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Load(dir)
		wantFault(t, err, "E_PKI_FILE")
		fmt.Fprintln(&said, err)
	}
	for _, form := range []string{hex.EncodeToString(secret), fmt.Sprint(secret), new(big.Int).SetBytes(secret).String(), body} {
		if strings.Contains(strings.ToLower(said.String()), strings.ToLower(form)) {
			t.Errorf("the key was printed: %s", said.String())
		}
	}
}

// resign replaces name's certificate by one that change has altered.
func resign(t *testing.T, dir, name string, change func(*x509.Certificate)) {
	t.Helper()
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	key, err := readKey(dir, name)
	if err != nil {
		t.Fatal(err)
	}
	c := cert(t, dir, name)
	change(c)
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, key.Public(), a.key)
	if err == nil {
		err = replace(certPath(dir, name), certPEM(der))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestHandshakes has every kind of peer connect to a server, and a client connect to
// every kind of server.
func TestHandshakes(t *testing.T) {
	dir := initialized(t, Options{Blades: []string{"b1", "late", "early"}, Users: []User{{"ann", Operator}}})
	resign(t, dir, "late", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	resign(t, dir, "early", func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) })
	foreign := initialized(t, Options{Blades: []string{"b1"}})
	server := config(t, ServerTLS, FilesOf(dir, "server"))
	trusting := config(t, ClientTLS, FilesOf(dir, "b1"))

	present := func(dir, name string) *tls.Config { // without our own check before
		f := FilesOf(dir, name)
		return &tls.Config{RootCAs: trusting.RootCAs,
			GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return f.pair() }}
	}
	for _, c := range []struct {
		who    string
		client *tls.Config
		why    string // empty: connects
	}{
		{"blade", trusting, ""},
		{"user", config(t, ClientTLS, FilesOf(dir, "ann")), ""},
		{"server as client", config(t, ClientTLS, FilesOf(dir, "server")), ""},
		{"expired", present(dir, "late"), "expired certificate"},
		{"not yet valid", present(dir, "early"), "expired certificate"},
		{"foreign CA", present(foreign, "b1"), "unknown certificate authority"},
		{"no certificate", &tls.Config{RootCAs: trusting.RootCAs}, "certificate required"},
		{"TLS 1.2", &tls.Config{RootCAs: trusting.RootCAs, MaxVersion: tls.VersionTLS12}, "protocol version not supported"},
	} {
		check(t, c.who, connect(t, server, c.client), c.why)
	}

	pose := func(dir, name string) *tls.Config {
		f := FilesOf(dir, name)
		return &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return f.pair() }}
	}
	for _, c := range []struct {
		who    string
		server *tls.Config
		why    string
	}{
		{"blade as server", pose(dir, "b1"), "incompatible key usage"},
		{"manager as server", pose(dir, "manager"), "incompatible key usage"},
		{"foreign server", pose(foreign, "server"), "unknown authority"},
	} {
		loose := trusting.Clone()
		if c.who != "foreign server" {
			loose.ServerName = "" // the names of blades are not hosts: usage must be what stops them
			loose.InsecureSkipVerify = true
			loose.VerifyConnection = func(s tls.ConnectionState) error {
				_, err := s.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: trusting.RootCAs})
				return err
			}
		}
		check(t, c.who, connect(t, c.server, loose), c.why)
	}
	elsewhere := trusting.Clone()
	elsewhere.ServerName = "other.example"
	check(t, "other host", connect(t, server, elsewhere), "not other.example")
}

func check(t *testing.T, who string, err error, why string) {
	t.Helper()
	switch {
	case why == "" && err != nil:
		t.Errorf("%s: %v", who, err)
	case why != "" && (err == nil || !strings.Contains(err.Error(), why)):
		t.Errorf("%s: %v, want %q", who, err, why)
	}
}

func config(t *testing.T, make func(Files) (*tls.Config, error), f Files) *tls.Config {
	t.Helper()
	c, err := make(f)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// connect returns what the client learns when it connects and reads a byte.
func connect(t *testing.T, server, client *tls.Config) error {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", server)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "x") // the handshake, then a byte
		io.Copy(io.Discard, conn)
	}()
	conn, err := net.DialTimeout("tcp", l.Addr().String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client = client.Clone()
	if client.ServerName == "" {
		client.ServerName = "127.0.0.1"
	}
	secure := tls.Client(conn, client)
	secure.SetDeadline(time.Now().Add(2 * time.Second))
	_, err = secure.Read(make([]byte, 1))
	return err
}

// TestDaemonsCheckTheirFiles: what peers would refuse is said at the start.
func TestDaemonsCheckTheirFiles(t *testing.T) {
	dir := initialized(t, Options{Blades: []string{"b1", "late"}})
	resign(t, dir, "late", func(c *x509.Certificate) {
		c.NotBefore, c.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	})
	foreign := initialized(t, Options{})
	for _, c := range []struct {
		who  string
		make func(Files) (*tls.Config, error)
		f    Files
		why  string
	}{
		{"expired", ClientTLS, FilesOf(dir, "late"), "it ended on"},
		{"blade as server", ServerTLS, FilesOf(dir, "b1"), "incompatible key usage"},
		{"foreign CA", ClientTLS, Files{certPath(foreign, CAName), certPath(dir, "b1"), keyPath(dir, "b1")}, "unknown authority"},
		{"another's key", ClientTLS, Files{certPath(dir, CAName), certPath(dir, "b1"), keyPath(dir, "root")}, "does not match"},
		{"missing", ClientTLS, FilesOf(dir, "b7"), "no such file"},
	} {
		_, err := c.make(c.f)
		check(t, c.who, err, c.why)
		if err == nil {
			t.Errorf("%s was taken", c.who)
		}
	}
}

// TestRenewedWhileServing: a server goes on with a renewed certificate without a
// restart.
func TestRenewedWhileServing(t *testing.T) {
	dir := initialized(t, Options{Blades: []string{"b1"}})
	server := config(t, ServerTLS, FilesOf(dir, "server"))
	client := config(t, ClientTLS, FilesOf(dir, "b1"))
	var serial string
	client.VerifyConnection = func(s tls.ConnectionState) error {
		serial = s.PeerCertificates[0].SerialNumber.String()
		return nil
	}
	check(t, "before", connect(t, server, client), "")
	before := serial
	a, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"server", "b1"} {
		if _, err := a.Renew(name); err != nil {
			t.Fatal(err)
		}
	}
	check(t, "after", connect(t, server, client), "")
	if serial == before {
		t.Error("the server still shows the old certificate")
	}
}

func FuzzNames(f *testing.F) {
	for _, s := range []string{"b1", "../x", "a/b", "a..b", ".", "b1.crt", "ca", "ä"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		if checkRequests([]request{{name: name, role: Blade}}) != nil {
			return
		}
		if filepath.Dir(certPath("/pki", name)) != "/pki" || !fs.ValidPath(name+".crt") {
			t.Errorf("%q leaves its directory", name)
		}
	})
}
