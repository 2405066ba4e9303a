package manager

import (
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestRefusedProfile: a profile that came before its blade, and whose rules cannot hold
// there, says so, and keeps no other profile from its place; mended, it gets its own.
func TestRefusedProfile(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.basics("b1")
	apply := func(text string) {
		t.Helper()
		r.want(200, "POST", "apply", `{"apiVersion":"bladeflow/v1","kind":"List","metadata":{"revision":0,"cursor":0},"items":[`+text+`]}`)
	}
	bad := `{"tier":"tenant","default":"drop","rules":[{"name":"in","priority":10,"match":{"in_port":"nosuch"},"actions":["normal"]}]}`
	apply(object("RuleSet", "bad", bad))
	apply(object("Profile", "broken", `{"vnics":[{"name":"eth0","mac":"02:00:00:00:00:99","network":"front"}],"ruleSets":["bad"]}`))
	for i, name := range []string{"a", "c", "z"} {
		apply(webProfile(name, i+1))
	}
	r.blade("b1", 8, 0)
	for _, name := range []string{"a", "c", "z"} {
		r.profile(name, "active", "b1")
	}
	r.profile("broken", "refused", "")
	var p api.Profile
	r.do("GET", "profiles/broken", "", &p)
	if p.Status.Reason == nil || p.Status.Reason.Code != "E_PORT_UNKNOWN" || p.Status.Reason.Why == "" {
		t.Errorf("refused with %+v", p.Status.Reason)
	}
	before := r.m.latest().revision
	time.Sleep(20 * time.Millisecond)
	if now := r.m.latest().revision; now != before {
		t.Errorf("revision %d became %d while nothing happened", before, now)
	}
	apply(object("Profile", "broken", `{"vnics":[{"name":"eth0","mac":"02:00:00:00:00:99","network":"front"}],"ruleSets":["web"]}`))
	r.profile("broken", "active", "b1")
}

// TestHeads: names, tenants and labels that a path, a selector or a terminal would take
// for something else are refused, and nothing is changed.
func TestHeads(t *testing.T) {
	r := newRig(t, store.NewMemory())
	network := func(metadata string) string {
		return `{"apiVersion":"bladeflow/v1","kind":"List","metadata":{"revision":0,"cursor":0},"items":[{"apiVersion":"bladeflow/v1","kind":"Network","metadata":{"name":` + metadata + `},"spec":{"vlan":7}}]}`
	}
	for _, bad := range []string{`".."`, `"a/b"`, `"n","tenant":"a/b"`, `"n","tenant":".."`, `"n","tenant":"a b"`, `"n","labels":{"":"x"}`, `"n","labels":{"a=b":"x"}`,
		`"n","labels":{"a":"x,y"}`, `"n","labels":{"a":"\u001b[31m"}`, `"n","labels":{"a/b/c":"x"}`} {
		if status, text := r.do("POST", "apply", network(bad), nil); status != 422 {
			t.Errorf("%s: %d %s", bad, status, text)
		}
	}
	for _, bad := range []string{"a%2Fb", "x%20y"} {
		if status, text := r.do("PUT", "snapshots/"+bad, `{"apiVersion":"bladeflow/v1","kind":"Snapshot","metadata":{},"spec":{"revision":0}}`, nil); status != 422 {
			t.Errorf("snapshot %s: %d %s", bad, status, text)
		}
	}
	if v := r.m.latest(); v.revision != 0 {
		t.Errorf("revision %d", v.revision)
	}
	r.want(200, "POST", "apply", network(`"n","tenant":"t1","labels":{"example.org/stage":"live = now","x":""}`))
}
