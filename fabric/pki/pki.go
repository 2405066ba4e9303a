// Package pki is a small certificate authority for one fabric: it makes the keys and
// certificates by which the manager, the blades, the store and people know each
// other, and the TLS configurations that use them. A certificate says who somebody
// is (its common name) and what they are (its [Role]); what they may do is decided
// by the store's rights and the API.
//
// Everything lies in one directory, NAME.crt and NAME.key, mode 0600, and is never
// overwritten except by [Authority.Renew], which replaces a certificate and keeps
// its key. Keys never leave the package but into their file: no error, log or
// printed value contains one. The package opens no connection.
//
// Start reading with [Init], then tls.go.
package pki

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Role is what the holder of a certificate is; it is the certificate's
// organizational unit.
type Role string

// The roles. People are viewers, operators or admins.
const (
	Viewer   Role = "viewer"   // may read everything
	Operator Role = "operator" // may change what is wanted
	Admin    Role = "admin"    // may do everything the API offers
	Blade    Role = "blade"    // an agent
	Manager  Role = "manager"
	Server   Role = "server" // the end that listens: store and API
	Root     Role = "root"   // sets up the store's rights
)

var machines = []Role{Blade, Manager, Server, Root}

// Person reports whether the role is one of the API's users.
func (r Role) Person() bool { return r == Viewer || r == Operator || r == Admin }

// The names of the certificates that every fabric has. Nothing else may have them.
const (
	CAName      = "ca"
	ServerName  = "server"
	ManagerName = "manager"
	RootName    = "root"
)

// Lifetimes. A machine's certificate is renewed by whoever runs the machine, once a
// year; a person's goes with the person.
const (
	caLife      = 10 * 365 * 24 * time.Hour
	machineLife = 365 * 24 * time.Hour
	personLife  = 90 * 24 * time.Hour
	skew        = 5 * time.Minute // clocks that are behind ours by less accept a new certificate
)

// User is a person or a program that uses the API.
type User struct {
	Name string
	Role Role // Viewer, Operator or Admin
}

// Options says what [Init] shall make beside the CA, the server, the manager and
// root.
type Options struct {
	Hosts  []string // names and addresses of the server, beside localhost and the loopback addresses
	Blades []string
	Users  []User
}

// Made is one certificate that [Init] cared for.
type Made struct {
	Name  string
	Role  Role
	Until time.Time
	New   bool // false if it was there already
}

// Init makes what is missing in dir. It may be repeated, to add a blade or a user;
// what is there stays as it is, and if that is not what the options say, Init fails
// before it writes anything.
func Init(dir string, o Options) ([]Made, error) {
	wanted := []request{
		{name: ServerName, role: Server, hosts: serverHosts(o.Hosts)},
		{name: ManagerName, role: Manager},
		{name: RootName, role: Root},
	}
	for _, name := range o.Blades {
		wanted = append(wanted, request{name: name, role: Blade})
	}
	for _, u := range o.Users {
		wanted = append(wanted, request{name: u.Name, role: u.Role})
	}
	if err := checkRequests(wanted); err != nil {
		return nil, err
	}
	for _, w := range wanted {
		if err := w.checkThere(dir); err != nil {
			return nil, err
		}
	}
	a, err := Load(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		a, err = newAuthority(dir)
	}
	if err != nil {
		return nil, err
	}
	made := []Made{{CAName, "", a.cert.NotAfter, fresh}}
	for _, w := range wanted {
		m, err := a.issue(w)
		if err != nil {
			return made, err
		}
		made = append(made, m)
	}
	return made, nil
}

// request is a certificate that is wanted.
type request struct {
	name  string
	role  Role
	hosts []string // of a server
}

// serverHosts adds what reaches this machine itself.
func serverHosts(more []string) []string {
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	for _, h := range more {
		if !slices.Contains(hosts, h) {
			hosts = append(hosts, h)
		}
	}
	return hosts
}

var (
	goodName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)
	goodHost = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?$`)
)

func checkRequests(wanted []request) error {
	seen := map[string]bool{CAName: true}
	for _, w := range wanted {
		switch {
		case !goodName.MatchString(w.name):
			return &flow.Fault{Code: "E_NAME", What: fmt.Sprintf("%s %q", w.role, w.name), Why: "not a name",
				Remedy: "use 1 to 63 letters, digits and . _ -, the first a letter or digit"}
		case seen[w.name]:
			return &flow.Fault{Code: "E_PKI_NAME", What: fmt.Sprintf("%s %s", w.role, w.name), Why: "the name is taken: a name is one certificate",
				Remedy: "use another name"}
		}
		seen[w.name] = true
		if !w.role.Person() && !slices.Contains(machines, w.role) {
			return &flow.Fault{Code: "E_PKI_ROLE", What: fmt.Sprintf("user %s: role %q", w.name, w.role), Why: "no such role",
				Remedy: flow.Suggest(string(w.role), string(Viewer), string(Operator), string(Admin))}
		}
		for _, h := range w.hosts {
			if net.ParseIP(h) == nil && !goodHost.MatchString(h) {
				return &flow.Fault{Code: "E_PKI_HOST", What: fmt.Sprintf("host %q", h), Why: "neither an address nor a name", Remedy: "give it without port and scheme"}
			}
		}
	}
	return nil
}

// checkThere refuses a certificate that is there and is not what is wanted.
func (w request) checkThere(dir string) error {
	cert, err := readCert(dir, w.name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	there := func(why, remedy string) error {
		return &flow.Fault{Code: "E_PKI_EXISTS", What: certPath(dir, w.name), Why: why, Remedy: remedy}
	}
	if is, err := RoleOf(cert); err != nil || is != w.role {
		return there(fmt.Sprintf("it is there already, as %s and not as %s", cert.Subject.OrganizationalUnit, w.role),
			"use another name, or remove the certificate and its key if nobody uses them")
	}
	for _, h := range w.hosts {
		if cert.VerifyHostname(h) != nil {
			return there("it is there already and not for "+h, "remove the certificate (not its key) and repeat")
		}
	}
	return nil
}

// RoleOf returns the role that a certificate gives its holder. Whoever calls it has
// verified the certificate.
func RoleOf(cert *x509.Certificate) (Role, error) {
	if ou := cert.Subject.OrganizationalUnit; len(ou) == 1 {
		if r := Role(ou[0]); r.Person() || slices.Contains(machines, r) {
			return r, nil
		}
	}
	return "", &flow.Fault{Code: "E_PKI_ROLE", What: "certificate of " + cert.Subject.CommonName, Why: "it names no role",
		Remedy: "make one with bladeflow pki init"}
}

// Authority is the CA of a directory.
type Authority struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Format prints an authority by its directory, whatever the verb, so that its key
// cannot get into a log.
func (a *Authority) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "CA in %s", a.dir) }

// Load opens the CA of dir; fs.ErrNotExist if there is none.
func Load(dir string) (*Authority, error) {
	cert, err := readCert(dir, CAName)
	if err != nil {
		return nil, err
	}
	key, err := readKey(dir, CAName)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &flow.Fault{Code: "E_PKI_KEY", What: keyPath(dir, CAName), Why: "the CA's certificate is here without its key", Remedy: "work where the key is kept"}
	}
	if err != nil {
		return nil, err
	}
	if !key.PublicKey.Equal(cert.PublicKey) {
		return nil, &flow.Fault{Code: "E_PKI_KEY", What: keyPath(dir, CAName), Why: "it is not the key of " + certPath(dir, CAName), Remedy: "restore both from the same backup"}
	}
	return &Authority{dir, cert, key}, nil
}

func newAuthority(dir string) (*Authority, error) {
	key, err := ensureKey(dir, CAName)
	if err != nil {
		return nil, err
	}
	template, err := template(pkix.Name{CommonName: "bladeflow CA"}, caLife)
	if err != nil {
		return nil, err
	}
	template.IsCA = true
	template.MaxPathLenZero = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	if err := writeNew(certPath(dir, CAName), certPEM(der)); err != nil {
		return nil, err
	}
	return Load(dir)
}

// template is what all certificates have.
func template(subject pkix.Name, life time.Duration) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	subject.Organization = []string{"bladeflow"}
	return &x509.Certificate{
		SerialNumber:          serial.Add(serial, big.NewInt(1)),
		Subject:               subject,
		NotBefore:             now.Add(-skew),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
	}, nil
}

// issue makes a key and a certificate unless they are there.
func (a *Authority) issue(w request) (Made, error) {
	if there, err := readCert(a.dir, w.name); err == nil {
		return Made{w.name, w.role, there.NotAfter, false}, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Made{}, err
	}
	key, err := ensureKey(a.dir, w.name)
	if err != nil {
		return Made{}, err
	}
	der, until, err := a.sign(w, key)
	if err != nil {
		return Made{}, err
	}
	return Made{w.name, w.role, until, true}, writeNew(certPath(a.dir, w.name), certPEM(der))
}

// sign makes a certificate for the key. Only servers may be connected to; a member
// of a store's cluster also connects to others, so a server is a client, too.
func (a *Authority) sign(w request, key *ecdsa.PrivateKey) ([]byte, time.Time, error) {
	life := machineLife
	if w.role.Person() {
		life = personLife
	}
	t, err := template(pkix.Name{CommonName: w.name, OrganizationalUnit: []string{string(w.role)}}, life)
	if err != nil {
		return nil, time.Time{}, err
	}
	if t.NotAfter.After(a.cert.NotAfter) {
		t.NotAfter = a.cert.NotAfter
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if w.role == Server {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		for _, h := range w.hosts {
			if ip := net.ParseIP(h); ip != nil {
				t.IPAddresses = append(t.IPAddresses, ip)
			} else {
				t.DNSNames = append(t.DNSNames, h)
			}
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, t, a.cert, key.Public(), a.key)
	return der, t.NotAfter, err
}

// Renew signs a new certificate for the same name, role, hosts and key. One file
// is replaced in one rename, so a reader never sees a certificate without its key.
// For a key that was seen by others remove both files and use [Init].
func (a *Authority) Renew(name string) (Made, error) {
	if name == CAName {
		return Made{}, &flow.Fault{Code: "E_PKI_NAME", What: "renewal of the CA", Why: "every certificate hangs on it",
			Remedy: "make a new fabric's PKI in another directory before it ends"}
	}
	old, err := readCert(a.dir, name)
	if err != nil {
		return Made{}, err
	}
	key, err := readKey(a.dir, name)
	if err != nil {
		return Made{}, err
	}
	if err := old.CheckSignatureFrom(a.cert); err != nil {
		return Made{}, &flow.Fault{Code: "E_PKI_FOREIGN", What: certPath(a.dir, name), Why: "another CA signed it", Remedy: "renew it in that CA's directory", Err: err}
	}
	role, err := RoleOf(old)
	if err != nil {
		return Made{}, err
	}
	w := request{name: name, role: role, hosts: slices.Clone(old.DNSNames)}
	for _, ip := range old.IPAddresses {
		w.hosts = append(w.hosts, ip.String())
	}
	der, until, err := a.sign(w, key)
	if err != nil {
		return Made{}, err
	}
	return Made{name, role, until, true}, replace(certPath(a.dir, name), certPEM(der))
}

// Names returns the names that have a certificate in dir, in order.
func Names(dir string) ([]string, error) {
	files, err := fs.Glob(dirFS(dir), "*.crt")
	for i, f := range files {
		files[i] = strings.TrimSuffix(f, ".crt")
	}
	return files, err
}
