package manager

import (
	"net/url"
	"testing"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestPolicy: a policy has the sets that hold on a blade, in the order in which their tiers
// are asked, and its rules as the table has them; where they live is unreported until the
// blade has reported the generation, and unlisted if its report is too long for them.
func TestPolicy(t *testing.T) {
	r := newRig(t, store.NewMemory())
	p := r.blade("b1", 4, 0)
	r.blade("b2", 4, 0)
	r.basics("b1", "b2", "b3")
	r.want(200, "PUT", "rulesets/guard", object("RuleSet", "guard", `{"tier":"admin","rules":[{"name":"low","priority":1,"actions":["drop"],"match":{"eth_type":"arp"}},{"name":"high","priority":9,"actions":["drop"],"match":{"ip_proto":"udp"}}]}`))
	r.want(200, "PUT", "profiles/web", object("Profile", "web", `{"vnics":[{"name":"eth0","mac":"02:00:00:00:00:01","network":"front"}],"ruleSets":["web"],"where":{"blades":["b1"]}}`))
	r.profile("web", "active", "b1")
	waitSettled(r, "b1", "b2")

	var policy api.PolicyView
	r.do("GET", "policies/b1", "", &policy)
	s := policy.Status
	names := ""
	for _, rule := range s.Rules {
		names += " " + rule.Name
		if rule.Place != api.Unreported {
			t.Errorf("%+v before the blade has reported rules", rule)
		}
	}
	if want := " guard/high guard/low web/in web/out@web"; names != want || s.Total != 4 || s.State != "proved" || s.Default != "drop" {
		t.Errorf("%s, want %s: %+v", names, want, s)
	}
	if len(s.Sets) != 2 || s.Sets[0].Name != "guard" || s.Sets[1].Name != "web" || s.Sets[0].Highest != 9 || s.Sets[0].Lowest != 1 || s.Sets[1].Unreported != 2 || len(s.Sets[1].Profiles) != 1 {
		t.Errorf("%+v", s.Sets)
	}
	var rules api.List[api.RuleView]
	r.do("GET", "rules?blade=b1", "", &rules)
	if len(rules.Items) != 4 || rules.Items[0].Status.Place != api.Unreported || !rules.Items[0].Status.Reported.IsZero() {
		t.Errorf("rules that are not reported yet: %+v", rules.Items)
	}

	var told api.GenerationView
	r.do("GET", "generations/b1", "", &told)
	// The blade reports an older generation, and then this one, without the rule that
	// counted least.
	for _, c := range []struct {
		generation uint64
		listed     int
		wantRules  int
		reported   bool
	}{{0, 1, 4, false}, {told.Spec.Number, 3, 3, true}} {
		report := api.Rules{Head: api.NewHead(api.KindRules, "b1"), Status: api.RulesStatus{Generation: c.generation, At: noon, Omitted: 4 - c.listed}}
		for _, rule := range s.Rules[:c.listed] {
			report.Status.Rules = append(report.Status.Rules, api.RuleState{Name: rule.Name, ID: rule.ID, Place: "hardware", Hardware: api.Count{Packets: 3}})
		}
		if err := p.put(t.Context(), api.PartRules, report, nil); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the report is there", func() bool {
			r.do("GET", "policies/b1", "", &policy)
			return policy.Status.Rules[c.listed-1].Place == "hardware"
		})
		missing := map[bool]string{false: api.Unreported, true: api.Unlisted}[c.reported]
		if last := policy.Status.Rules[3]; last.Place != missing || policy.Status.Rules[0].Packets != 3 {
			t.Errorf("generation %d: %+v, want %s", c.generation, last, missing)
		}
		rules = api.List[api.RuleView]{}
		r.do("GET", "rules", "", &rules)
		if others := len(rules.Items) - c.wantRules; others != 2 || rules.Metadata.Unlisted != 4-c.wantRules { // on b2
			t.Errorf("generation %d: %d rules and %d unlisted, want 2 and %d, and %d", c.generation, len(rules.Items), rules.Metadata.Unlisted, c.wantRules, 4-c.wantRules)
		}
		rules = api.List[api.RuleView]{}
		r.do("GET", "rules?blade=b1", "", &rules)
		var last api.RuleView
		r.want(200, "GET", "rules/"+url.PathEscape("b1/"+s.Rules[3].Name), "")
		r.do("GET", "rules/"+url.PathEscape("b1/"+s.Rules[3].Name), "", &last)
		if len(rules.Items) != 4 || rules.Metadata.Unlisted != 0 || last.Status.Place != missing {
			t.Errorf("generation %d: of the blade %d rules, %d unlisted, and by its name %+v", c.generation, len(rules.Items), rules.Metadata.Unlisted, last)
		}
		var blade api.Blade
		r.do("GET", "blades/b1", "", &blade)
		if blade.Status.RulesReported != c.reported {
			t.Errorf("generation %d: reported %v", c.generation, blade.Status.RulesReported)
		}
	}

	var all api.List[api.PolicyView]
	r.do("GET", "policies", "", &all)
	if len(all.Items) != 3 || all.Items[0].Status.Rules != nil || all.Items[1].Status.Total != 2 || all.Items[2].Status.State != "unseen" {
		t.Errorf("%+v", all.Items)
	}
}
