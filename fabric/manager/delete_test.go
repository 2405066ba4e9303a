package manager

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestDeleteTogether: what needs each other goes in one change, and all of it or none.
func TestDeleteTogether(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.basics("b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	together := func(kinds ...string) string {
		items := ""
		for i := 0; i < len(kinds); i += 2 {
			if i > 0 {
				items += ","
			}
			items += `{"apiVersion":"bladeflow/v1","kind":"` + kinds[i] + `","metadata":{"name":"` + kinds[i+1] + `"}}`
		}
		return `{"apiVersion":"bladeflow/v1","kind":"List","metadata":{"revision":0,"cursor":0},"items":[` + items + `]}`
	}
	r.want(422, "POST", "delete", together("Network", "front"))
	r.want(404, "POST", "delete", together("Network", "front", "RuleSet", "web", "Profile", "none"))
	r.want(409, "POST", "delete", `{"items":[{"kind":"Network","metadata":{"name":"front","revision":99}}]}`)
	r.want(422, "POST", "delete", `{"items":[{"kind":"Network","metadata":{"naem":"front"}}]}`)
	r.want(200, "POST", "delete?dryRun=true", together("Network", "front", "RuleSet", "web", "Profile", "web"))
	r.want(200, "GET", "networks/front", "")
	var p api.Preview
	r.do("POST", "delete", together("Network", "front", "RuleSet", "web", "Profile", "web"), &p)
	if len(p.Changes) < 3 {
		t.Errorf("changes: %+v", p.Changes)
	}
	r.want(404, "GET", "networks/front", "")
	r.want(404, "GET", "profiles/web", "")
}
