package manager

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// clientOf is an HTTP client with a certificate.
func clientOf(t *testing.T, dir, name string) *http.Client {
	t.Helper()
	c, err := pki.ClientTLS(pki.FilesOf(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}, Timeout: 10 * time.Second}
}

// secureRig runs a manager as its command does: a store in this process with rights
// enforced, TLS everywhere, a debug log; two blades with their own certificates settle.
func secureRig(t *testing.T) (r *rig, d *Daemon, dir string) {
	t.Helper()
	dir = filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Init(dir, pki.Options{Blades: []string{"b1", "b2"}, Users: []pki.User{{Name: "ann", Role: pki.Admin}, {Name: "oli", Role: pki.Operator}, {Name: "vic", Role: pki.Viewer}}}); err != nil {
		t.Fatal(err)
	}
	log := &logged{}
	file, err := ParseFile(filepath.Join(t.TempDir(), "manager.yaml"), []byte(fmt.Sprintf("apiVersion: bladeflow/v1\nkind: Manager\nmetadata: {name: m1}\nspec:\n  listen: 127.0.0.1:0\n  certificates: %s\n  store: {dir: store, listen: 127.0.0.1:0}\n  capacity: {history: demand.db}\n", dir)))
	if err != nil {
		t.Fatal(err)
	}
	d, err = Open(t.Context(), file, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	r = &rig{t: t, m: d.Manager, log: log, air: &air{at: map[address]map[string]bool{}}, puppets: map[string]*puppet{}, url: d.URL(), client: clientOf(t, dir, "ann")}
	r.run("manager", d.Run)
	r.basics("b1", "b2")
	for _, b := range []string{"b1", "b2"} {
		r.store = dialAs(t, d, dir, b) // admitted by the leader
		r.blade(b, 4, 0)
	}
	waitSettled(r, "b1", "b2")
	return r, d, dir
}

// TestSecure: with every certificate in its place things work as without.
func TestSecure(t *testing.T) {
	r, d, dir := secureRig(t)
	r.client = clientOf(t, dir, "oli")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	create := r.profile("web", "active", "")
	var p api.Profile
	r.do("GET", "profiles/web", "", &p)
	to := map[string]string{"b1": "b2", "b2": "b1"}[p.Status.Blade]
	r.want(200, "POST", "profiles/web/move", fmt.Sprintf(`{"blade":%q}`, to))
	t.Logf("create %v, move %v", create, r.profile("web", "active", to))
	r.want(403, "PUT", "blades/b3", object("Blade", "b3", `{}`))
	r.want(403, "PUT", "rulesets/sys", object("RuleSet", "sys", `{"tier":"system","rules":[]}`))
	r.want(403, "DELETE", "chassis/c1", "")

	if r.m.config.History == nil || r.m.config.Capacity.Policy.BufferPercent != 10 {
		t.Error("demand is not recorded as configured")
	}
	r.client = clientOf(t, dir, "vic")
	if text := r.want(200, "GET", "reports/capacity?format=md&levels=fleet", ""); !strings.Contains(text, "VF slots: 6 VFs usable of 8 VFs") {
		t.Error(text)
	}

	// A blade that is deleted may read nothing any more, whatever certificate it has.
	r.client = clientOf(t, dir, "ann")
	left := dialAs(t, d, dir, p.Status.Blade)
	r.want(200, "DELETE", "blades/"+p.Status.Blade, "")
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if _, err := left.Read(t.Context(), store.Generation(p.Status.Blade)); errors.Is(err, store.ErrDenied) {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("a deleted blade reads: %v", err)
		}
	}
}

func dialAs(t *testing.T, d *Daemon, dir, name string) store.Store {
	t.Helper()
	c, err := pki.ClientTLS(pki.FilesOf(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		s, err := store.Dial(context.WithoutCancel(t.Context()), store.DialConfig{Endpoints: []string{d.Endpoint()}, TLS: c})
		if err == nil {
			t.Cleanup(func() { _ = s.Close() })
			return s
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func pair(t *testing.T, dir, name string) *tls.Certificate {
	t.Helper()
	f := pki.FilesOf(dir, name)
	p, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	return &p
}

// expired signs a certificate that ended a minute ago with the fabric's own CA.
func expired(t *testing.T, dir string) *tls.Certificate {
	t.Helper()
	ca := pair(t, dir, pki.CAName)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "ann", OrganizationalUnit: []string{"admin"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, ca.Leaf, key.Public(), ca.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestListenRefuses(t *testing.T) {
	for _, c := range []Config{{Listen: "0.0.0.0:0"}, {Listen: "[::]:0"}, {Listen: "localhost:0"}, {Listen: ":0"}, {Listen: "127.0.0.1"}, {Listen: "0.0.0.0:0", TLS: &tls.Config{}}} {
		c.Store, c.Log = store.NewMemory(), slog.New(slog.DiscardHandler)
		if m, err := New(c); err == nil {
			t.Errorf("listens on %s", m.URL())
		}
	}
}

// TestLocal: without TLS only pages of this machine may ask.
func TestLocal(t *testing.T) {
	r := newRig(t, store.NewMemory())
	for _, c := range []struct {
		name   string
		change func(*http.Request)
		status int
	}{
		{"same origin", func(*http.Request) {}, 404},
		{"another host's name", func(q *http.Request) { q.Host = "evil.example" }, 403},
		{"another page", func(q *http.Request) { q.Header.Set("Sec-Fetch-Site", "cross-site") }, 403},
	} {
		q, err := http.NewRequest("DELETE", r.url+"/api/v1/profiles/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		c.change(q)
		resp, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != c.status {
			t.Errorf("%s: %s: %s", c.name, resp.Status, text)
		}
	}
}

func TestParseFile(t *testing.T) {
	if _, err := ParseFile("/etc/manager.yaml", []byte(Example)); err != nil {
		t.Error(err)
	}
	for text, want := range map[string]string{
		strings.Replace(Example, "listen: 0.0.0.0:8443", "lisen: x", 1):                  "m.yaml: line 5: field lisen",
		strings.Replace(Example, "kind: Manager", "kind: Agent", 1):                      "kind",
		strings.Replace(Example, "    dir:", "    endpoints: [http://x:1]\n    dir:", 1): "spec.store",
		Example + "---\n{}": "second document",
		"":                  "m.yaml",
	} {
		if _, err := ParseFile("m.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
