package manager

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

func TestRevisions(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	revision := func() int64 { return r.m.latest().revision }
	before := revision()

	var p api.Preview
	r.do("PUT", "profiles/web?dryRun=true", webProfile("web", 1), &p)
	if !p.DryRun || len(p.Changes) != 2 || len(p.Steps) == 0 || len(p.Capacity) != 1 || p.Capacity[0].Before.VFs != 4 || p.Capacity[0].After.VFs != 3 || p.Capacity[0].After.Guaranteed != "1G" {
		t.Errorf("dry run: %+v", p)
	}
	if revision() != before {
		t.Error("a dry run changed something")
	}
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	if revision() != before+1 {
		t.Errorf("revision %d after %d: the same again changed something", revision(), before)
	}
	read := r.want(200, "GET", "profiles/web", "")
	r.want(200, "PUT", "profiles/web", read)
	if revision() != before+1 {
		t.Error("what was read, written back, changed something")
	}
	r.want(200, "PUT", "networks/front", object("Network", "front", `{"vlan":11}`))
	r.want(409, "PUT", "networks/front", strings.Replace(object("Network", "front", `{"vlan":12}`), `"name":"front"`, `"name":"front","revision":1`, 1))

	for header, status := range map[string]int{"If-Match: \"1\"": 412, "If-Match: 1": 412, "If-None-Match: *": 412, fmt.Sprintf("If-Match: \"%d\"", revision()): 200} {
		q, err := http.NewRequest("PUT", r.url+"/api/v1/networks/front", strings.NewReader(object("Network", "front", `{"vlan":13}`)))
		if err != nil {
			t.Fatal(err)
		}
		name, value, _ := strings.Cut(header, ": ")
		q.Header.Set(name, value)
		resp, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != status && resp.StatusCode != 412 { // the map's order: once changed, the last is stale, too
			t.Errorf("%s: %s", header, resp.Status)
		}
	}
	r.want(200, "POST", "revert", fmt.Sprintf(`{"revision":%d}`, before))
	r.want(404, "GET", "profiles/web", "")
	r.want(404, "POST", "revert", `{"revision":9999}`)
}

func TestRefusals(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 2, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	for _, c := range []struct {
		method, path, body, code string
		status                   int
	}{
		{"PUT", "profiles/x", strings.Replace(webProfile("x", 2), `"mac"`, `"macc"`, 1), "E_FIELD_UNKNOWN", 422},
		{"PUT", "profiles/y", webProfile("x", 2), "E_NAME", 422},
		{"PUT", "profiles/x", webProfile("x", 1), "E_MAC_TWICE", 422},
		{"PUT", "profiles/x", strings.Replace(webProfile("x", 2), "front", "back", 1), "E_NETWORK_UNKNOWN", 422},
		{"PUT", "profiles/x", strings.Replace(webProfile("x", 2), "5G", "fast", 1), "E_RATE", 422},
		{"PUT", "profiles/x", object("Network", "x", `{"vlan":1}`), "E_FIELD_UNKNOWN", 422},
		{"PUT", "networks/x", `{"apiVersion":"bladeflow/v2","kind":"Network","metadata":{"name":"x"},"spec":{"vlan":3}}`, "E_VERSION", 422},
		{"PUT", "blades/root", object("Blade", "root", `{}`), "E_NAME", 422},
		{"PUT", "rulesets/web2", object("RuleSet", "web2", `{"tier":"admin","rules":[{"name":"in","priority":1,"match":{"dst_prt":80},"actions":["drop"]}]}`), "E_FIELD_UNKNOWN", 422},
		{"PUT", "rulesets/tie", object("RuleSet", "tie", `{"tier":"admin","rules":[{"name":"a","priority":1,"match":{"dst_port":80},"actions":["drop"]},{"name":"b","priority":1,"match":{"ip_proto":"tcp"},"actions":["normal"]}]}`), "E_TIE", 422},
		{"PUT", "rulesets/def", object("RuleSet", "def", `{"tier":"default","default":"normal","rules":[]}`), "E_DEFAULT", 422},
		{"DELETE", "networks/front", "", "E_NETWORK_UNKNOWN", 422},
		{"DELETE", "networks/none", "", "E_NOT_FOUND", 404},
		{"POST", "profiles/web/move", `{"blade":"b9"}`, "E_NOT_FOUND", 404},
		{"POST", "profiles/none/move", `{}`, "E_NOT_FOUND", 404},
		{"POST", "profiles/web/move", `{"blade":"b1","pf":"nic9/pf9"}`, "E_POOL", 422},
		{"POST", "profiles/web/move", `{"blad":"b1"}`, "E_FIELD_UNKNOWN", 422},
		{"GET", "vfs?after=zz", "", "E_COMPACTED", 410},
		{"GET", "vfs?limit=few", "", "E_VALUE", 422},
		{"GET", "diff?revision=-1", "", "E_VALUE", 422},
		{"GET", "diff?snapshot=none", "", "E_NOT_FOUND", 404},
		{"PUT", "networks/x?dryRun=maybe", object("Network", "x", `{"vlan":3}`), "E_VALUE", 422},
	} {
		var p problem
		status, text := r.do(c.method, c.path, c.body, &p)
		if status != c.status || p.Code != c.code || p.What == "" || p.Why == "" {
			t.Errorf("%s %s: %d %s, want %d %s", c.method, c.path, status, text, c.status, c.code)
		}
	}
	if v := r.m.latest(); v.revision != 2 {
		t.Errorf("revision %d: something refused was done", v.revision)
	}
	// Three vNICs do not fit on two VFs: the third waits, and says why; another blade helps.
	r.want(200, "PUT", "profiles/p2", webProfile("p2", 2))
	r.want(200, "PUT", "profiles/p3", webProfile("p3", 3))
	r.profile("p3", "waiting", "")
	if text := r.want(200, "GET", "profiles/p3", ""); !strings.Contains(text, "E_VF_NONE") {
		t.Error(text)
	}
	if text := r.want(200, "GET", "profiles/p3/candidates", ""); !strings.Contains(text, "E_VF_NONE") {
		t.Error(text)
	}
	r.blade("b2", 2, 0)
	r.want(200, "PUT", "blades/b2", object("Blade", "b2", `{"chassis":"c1","slot":2}`))
	r.profile("p3", "active", "b2")
}

func TestLists(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 12, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	for _, kind := range []string{"chassis", "blades", "networks", "rulesets", "profiles", "snapshots", "nics", "pfs", "vfs", "vnics", "rules", "generations", "events"} {
		var all api.List[json.RawMessage]
		if status, text := r.do("GET", kind, "", &all); status != 200 || all.Items == nil {
			t.Errorf("%s: %d %s", kind, status, text)
		}
		for _, raw := range all.Items {
			var head api.Head
			if err := json.Unmarshal(raw, &head); err != nil {
				t.Fatal(err)
			}
			one := r.want(200, "GET", kind+"/"+strings.ReplaceAll(head.Metadata.Name, "/", "%2F"), "")
			if !sameJSON([]byte(one), raw) {
				t.Errorf("%s: %s in the list, %s alone", kind, raw, one)
			}
		}
	}
	var names []string
	for after, pages := "", 0; pages < 10; pages++ {
		var page api.List[api.VFView]
		r.do("GET", "vfs?limit=5&after="+strings.ReplaceAll(after, "/", "%2F"), "", &page)
		for _, f := range page.Items {
			names = append(names, f.Metadata.Name)
		}
		if after = page.Metadata.Continue; after == "" {
			break
		}
	}
	if len(names) != 12 {
		t.Errorf("pages: %v", names)
	}
	r.want(200, "PUT", "networks/green", strings.Replace(object("Network", "green", `{"vlan":20}`), `"name":"green"`, `"name":"green","labels":{"colour":"green"}`, 1))
	for query, want := range map[string]int{"": 2, "?labels=colour=green": 1, "?labels=colour!=green": 1, "?labels=!colour": 1, "?tenant=none": 0} {
		var list api.List[api.Network]
		if r.do("GET", "networks"+query, "", &list); len(list.Items) != want {
			t.Errorf("networks%s: %d, want %d", query, len(list.Items), want)
		}
	}
	r.want(422, "GET", "networks?labels=%21", "")
	resp, err := r.client.Get(r.url + "/openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var doc struct {
		OpenAPI string
		Paths   map[string]any
	}
	if err := json.NewDecoder(resp.Body).Decode(&doc); err != nil || doc.OpenAPI != "3.1.0" || len(doc.Paths) < 25 {
		t.Errorf("%v: %s with %d paths", err, doc.OpenAPI, len(doc.Paths))
	}
}

// TestWatch: a stream tells what changed from a cursor on, resumes where it was, and
// says 410 when that history is gone.
func TestWatch(t *testing.T) {
	s := store.NewMemory()
	r := newRig(t, s)
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	var list api.List[api.Profile]
	r.do("GET", "profiles", "", &list)
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	read := func(since string, until string) (id string) {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), "GET", r.url+"/api/v1/watch", nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Last-Event-ID", since)
		resp, err := r.client.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		deadline := time.AfterFunc(5*time.Second, func() { resp.Body.Close() })
		defer deadline.Stop()
		for lines := bufio.NewScanner(resp.Body); lines.Scan(); {
			if v, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(lines.Text(), "data: "); ok && strings.Contains(v, until) {
				return id
			}
		}
		t.Fatalf("no event with %s after %s", until, since)
		return ""
	}
	id := read(fmt.Sprint(list.Metadata.Cursor), `"kind":"Profile","metadata":{"name":"web"`)
	r.profile("web", "active", "")
	r.want(200, "DELETE", "profiles/web", "")
	read(id, `"kind":"profile","metadata":{"name":"web"},"deleted":true`)
	if err := s.Compact(t.Context(), r.m.latest().cursor); err != nil {
		t.Fatal(err)
	}
	r.want(410, "GET", "watch?since=1", "")
	r.want(422, "GET", "watch?since=yesterday", "")
}

// TestTwoManagers: any manager serves; when the leader goes, another leads.
func TestTwoManagers(t *testing.T) {
	s := store.NewMemory()
	r := newRig(t, s)
	other := r.start(Config{Listen: "127.0.0.1:0"})
	r.blade("b1", 4, 0)
	r.url = other.URL()
	r.basics("b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	if other.Leading() == r.m.Leading() {
		t.Errorf("leading: %v and %v", r.m.Leading(), other.Leading())
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Delete(store.Election("manager"))}); err != nil {
		t.Fatal(err)
	}
	r.want(200, "DELETE", "profiles/web", "")
	r.want(200, "PUT", "profiles/web2", webProfile("web2", 2))
	r.profile("web2", "active", "b1")
}

func TestPage(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	for path, words := range map[string][]string{"/": {"Chassis c1", "slot 1", "nic0/pf0", "web/eth0", "settled", "rules"}, "/page.js": {"EventSource"}, "/page.css": {"font"}} {
		resp, err := r.client.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		if _, err := bufio.NewReader(resp.Body).WriteTo(&text); err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		for _, w := range words {
			if !strings.Contains(text.String(), w) {
				t.Errorf("%s has no %q", path, w)
			}
		}
		if strings.Contains(text.String(), "http:") || strings.Contains(text.String(), "https:") || strings.Contains(text.String(), "<script>") {
			t.Errorf("%s refers to something elsewhere or has a script in it", path)
		}
		if csp := resp.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s: policy %q", path, csp)
		}
	}
}
