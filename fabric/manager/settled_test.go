package manager

import (
	"fmt"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestSettledIsWanted: whoever changes rules and then sees a blade settled sees it
// settled with these rules, however slow the leader is.
func TestSettledIsWanted(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.basics("b1")
	r.blade("b1", 4, 0)
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	for i := range 50 {
		var p api.Preview
		r.do("PUT", "rulesets/web", object("RuleSet", "web", fmt.Sprintf(`{"rules":[{"name":"in","priority":%d,"match":{"ip_proto":"tcp"},"actions":["normal"]}]}`, i)), &p)
		for deadline := time.Now().Add(5 * time.Second); ; {
			var b api.Blade
			var g api.GenerationView
			r.do("GET", "blades/b1", "", &b)
			if b.Status.State != "settled" && time.Now().Before(deadline) {
				continue
			}
			r.do("GET", "generations/b1", "", &g)
			if g.Spec.Revision < p.Revision {
				t.Fatalf("change %d: blade b1 is %s with what revision %d wanted", p.Revision, b.Status.State, g.Spec.Revision)
			}
			break
		}
	}
}
