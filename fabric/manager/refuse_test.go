package manager

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// operation is one of the API, as its document says.
type operation struct{ id, method, path string }

// operations reads all of them from the OpenAPI document, so that none is forgotten.
func (r *rig) operations() []operation {
	r.t.Helper()
	resp, err := r.client.Get(r.url + "/openapi.json")
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		Paths map[string]map[string]struct{ OperationID string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil {
		r.t.Fatal(err)
	}
	var out []operation
	for path, methods := range doc.Paths {
		for method, op := range methods {
			out = append(out, operation{op.OperationID, strings.ToUpper(method), strings.TrimPrefix(strings.ReplaceAll(path, "{name}", "web"), root)})
		}
	}
	return out
}

// TestViewer: a viewer may read everything and change nothing, by no route there is or
// may be one day; reading changes nothing either.
func TestViewer(t *testing.T) {
	r, _, dir := secureRig(t)
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "")
	waitSettled(r, "b1", "b2")
	before := r.m.latest()
	r.client = clientOf(t, dir, "vic")
	bodies := []string{"", "{}", webProfile("web", 2), `{"items":[` + object("Network", "evil", `{"vlan":99}`) + `]}`, `{"revision":1}`, `{"blade":"b2"}`}
	reads, writes := 0, 0
	for _, op := range r.operations() {
		if op.method == http.MethodGet {
			reads++
			if status, text := r.do("GET", op.path, "", nil); status != 200 && status != 404 {
				t.Errorf("%s: %d %s", op.id, status, text)
			}
			continue
		}
		writes++
		for _, body := range bodies {
			for _, query := range []string{"", "?dryRun=true", "?dryRun=false"} {
				if text := r.want(403, op.method, op.path+query, body); !strings.Contains(text, `"code":"E_DENIED"`) {
					t.Errorf("%s: %s", op.id, text)
				}
			}
		}
	}
	if reads < 25 || writes < 15 {
		t.Errorf("the document has %d reads and %d writes", reads, writes)
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECTED"} {
		for _, path := range []string{"", "watch", "none", "reports/capacity", "../../", "profiles/web/none"} {
			r.want(403, method, path, "{}")
		}
	}
	if after := r.m.latest(); after.revision != before.revision || after.wanted != before.wanted {
		t.Errorf("change %d, then %d", before.revision, after.revision)
	}
	for _, machine := range []string{"b1", "manager", "root", "server"} {
		r.client = clientOf(t, dir, machine)
		r.want(403, "GET", "profiles", "")
	}
	r.client = clientOf(t, dir, "oli")
	for _, kind := range []string{"chassis/c9", "blades/b9"} {
		r.want(403, "PUT", kind, object(map[byte]string{'c': "Chassis", 'b': "Blade"}[kind[0]], kind[len(kind)-2:], `{}`))
	}
}

// TestStrangers: who has no certificate, an expired one or another fabric's is refused at
// both listeners, and the log has it.
func TestStrangers(t *testing.T) {
	r, d, dir := secureRig(t)
	foreign := filepath.Join(t.TempDir(), "foreign")
	if _, err := pki.Init(foreign, pki.Options{Users: []pki.User{{Name: "ann", Role: pki.Admin}}}); err != nil {
		t.Fatal(err)
	}
	ours := clientOf(t, dir, "ann").Transport.(*http.Transport).TLSClientConfig.RootCAs
	for what, cert := range map[string]*tls.Certificate{"foreign": pair(t, foreign, "ann"), "expired": expired(t, dir), "none": {}} {
		c := &tls.Config{RootCAs: ours, MinVersion: tls.VersionTLS13, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }}
		before := strings.Count(r.log.String(), "msg=refused")
		resp, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: c}, Timeout: 5 * time.Second}).Get(r.url + "/api/v1/profiles")
		if err == nil {
			resp.Body.Close()
			t.Errorf("the API answers a client whose certificate is %s: %s", what, resp.Status)
		}
		eventually(t, "the API's refusal is in the log", func() bool { return strings.Count(r.log.String(), "msg=refused") > before })
		before = strings.Count(r.log.String(), `listener="store's client endpoint"`)
		if _, err := store.Dial(t.Context(), store.DialConfig{Endpoints: []string{d.Endpoint()}, TLS: c}); !errors.Is(err, store.ErrDenied) {
			t.Errorf("the store, asked with a certificate that is %s: %v", what, err)
		}
		eventually(t, "the store's refusal is in the log", func() bool { return strings.Count(r.log.String(), `listener="store's client endpoint"`) > before })
	}
	if _, err := http.Get(strings.Replace(r.url, "https", "http", 1)); err == nil {
		if resp, _ := http.Get(strings.Replace(r.url, "https", "http", 1) + "/api/v1/profiles"); resp != nil && resp.StatusCode == 200 {
			t.Error("the API answers without TLS")
		}
	}
}

// TestAudit: each change and each denial is one line that says who; no line has a key.
func TestAudit(t *testing.T) {
	r, _, dir := secureRig(t)
	lines := func(msg string) int { return strings.Count(r.log.String(), "msg="+msg+" ") }
	once := func(msg, words string, do func()) {
		t.Helper()
		before := lines(msg)
		do()
		if n := lines(msg) - before; n != 1 {
			t.Errorf("%d lines for one of %s", n, words)
		}
		log := r.log.String()
		if last := log[strings.LastIndex(log, "msg="+msg):]; !strings.Contains(last, words) {
			t.Errorf("%q has no %q", last, words)
		}
	}
	as := func(who string) { r.client = clientOf(t, dir, who) }
	as("oli")
	once("change", "who=oli role=operator from=127.0.0.1 verb=apply", func() { r.want(200, "PUT", "networks/back", object("Network", "back", `{"vlan":20}`)) })
	once("change", "verb=snapshot", func() { r.want(200, "PUT", "snapshots/s", object("Snapshot", "s", `{}`)) })
	once("change", "verb=delete", func() { r.want(200, "DELETE", "networks/back", "") })
	once("change", "verb=revert", func() { r.want(200, "POST", "revert", `{"snapshot":"s"}`) })
	once("refused", "who=oli role=operator", func() { r.want(403, "PUT", "blades/b9", object("Blade", "b9", `{}`)) })
	once("refused", "path=/api/v1/apply", func() {
		r.want(403, "POST", "apply", `{"items":[`+object("RuleSet", "sys", `{"tier":"system","rules":[]}`)+`]}`)
	})
	as("vic")
	once("refused", "who=vic role=viewer", func() { r.want(403, "DELETE", "profiles/web", "") })
	as("b1")
	once("refused", "who=b1 role=blade", func() { r.want(403, "GET", "profiles", "") })
	as("ann")
	once("refused", "a page from elsewhere", func() {
		q, err := http.NewRequest("DELETE", r.url+"/api/v1/profiles/web", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Sec-Fetch-Site", "cross-site")
		resp, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if text, _ := io.ReadAll(resp.Body); resp.StatusCode != 403 || !bytes.Contains(text, []byte("E_DENIED")) {
			t.Errorf("%s %s", resp.Status, text)
		}
	})
	before := lines("change")
	r.want(200, "PUT", "networks/back?dryRun=true", object("Network", "back", `{"vlan":21}`))
	if lines("change") != before {
		t.Error("a dry run is in the log as a change")
	}

	// A key file that is cut must not end up in the fault about it.
	broken := filepath.Join(t.TempDir(), "broken")
	if _, err := pki.Init(broken, pki.Options{Blades: []string{"b1"}}); err != nil {
		t.Fatal(err)
	}
	key := pki.FilesOf(broken, "b1").Key
	text, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, cut := range [][]byte{text[:len(text)/2], append([]byte("x"), text...), bytes.ReplaceAll(text, []byte("-----"), nil)} {
		if err := os.WriteFile(key, cut, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ClientTLS(pki.FilesOf(broken, "b1")); err != nil {
			slog.New(slog.NewTextHandler(r.log, nil)).Error("broken", "error", err)
		}
	}
	if err := os.WriteFile(key, text, 0o600); err != nil {
		t.Fatal(err)
	}
	log := r.log.String()
	if !strings.Contains(log, "level=DEBUG") && !strings.Contains(log, "level=WARN") {
		t.Error("the log has nothing but news")
	}
	for what, secret := range secrets(t, dir, broken) {
		if strings.Contains(log, secret) {
			t.Errorf("the log has %s", what)
		}
	}
}

// secrets are the ways in which keys could be written.
func secrets(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range dirs {
		keys, err := filepath.Glob(filepath.Join(dir, "*.key"))
		if err != nil || len(keys) < 5 {
			t.Fatal(keys, err)
		}
		for _, path := range keys {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			block, _ := pem.Decode(text)
			private := block.Bytes[len(block.Bytes)/3 : len(block.Bytes)/3+24]
			out[path+" in bytes"], out[path+" in base64"] = string(private), base64.StdEncoding.EncodeToString(private[:21])
			out[path+" in hexadecimal"] = hex.EncodeToString(private)
			out[path+" in numbers"] = strings.Trim(fmt.Sprint(private), "[]")
			for i, line := range strings.Split(string(text), "\n") {
				if len(line) > 20 && !strings.HasPrefix(line, "-----") {
					out[fmt.Sprintf("line %d of %s", i+1, path)] = line
				}
			}
		}
	}
	return out
}

// TestListensOnLoopback: a manager without certificates opens nothing to the network.
func TestListensOnLoopback(t *testing.T) {
	file, err := ParseFile(filepath.Join(t.TempDir(), "manager.yaml"), []byte("apiVersion: bladeflow/v1\nkind: Manager\nmetadata: {name: m1}\nspec:\n  listen: 127.0.0.1:0\n  store: {dir: store, listen: 127.0.0.1:0}\n"))
	if err != nil {
		t.Fatal(err)
	}
	before := listening(t)
	d, err := Open(t.Context(), file, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	after := listening(t)
	if len(after) < len(before)+2 {
		t.Errorf("%v listened before, %v now: the API and the store are not among them", before, after)
	}
	for _, a := range after {
		if !a.IsLoopback() {
			t.Errorf("it listens on %s", a)
		}
	}
}

// listening returns the addresses on which this process listens, as the kernel has them.
func listening(t *testing.T) []net.IP {
	t.Helper()
	own := map[string]bool{}
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && strings.HasPrefix(to, "socket:[") {
			own[strings.Trim(to, "socket:[]")] = true
		}
	}
	var out []net.IP
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open("/proc/self/net/" + name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			fields := strings.Fields(lines.Text())
			if len(fields) < 10 || fields[3] != "0A" || !own[fields[9]] {
				continue
			}
			local, _, _ := strings.Cut(fields[1], ":")
			raw, err := hex.DecodeString(local)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i+4 <= len(raw); i += 4 { // words of the machine's order
				raw[i], raw[i+1], raw[i+2], raw[i+3] = raw[i+3], raw[i+2], raw[i+1], raw[i]
			}
			out = append(out, net.IP(raw))
		}
	}
	return out
}
