package manager

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// policies are what decides on each blade. With a name the rules are there, too.
func (m *Manager) policies(v *view, f filter) (all []api.PolicyView) {
	if v.trouble != nil {
		return nil
	}
	made := m.cache.of(v)
	for _, id := range slices.Sorted(maps.Keys(v.spec.Blades)) {
		name := string(id)
		if !f.passes(name, name, v.docs[docID{api.KindBlade, name}].head.Metadata.Tenant) {
			continue
		}
		p := api.PolicyView{Head: api.NewHead(api.KindPolicy, name), Status: api.PolicyStatus{State: "unseen", Sets: []api.PolicySet{}}}
		if c, seen := made[id]; seen {
			p.Status = v.policy(id, c, f.name != "")
		}
		all = append(all, p)
	}
	return all
}

// policy is what a blade's content is made of. Cost: one look at each rule.
func (v *view) policy(id fabric.BladeID, c fabric.Compiled, whole bool) api.PolicyStatus {
	s := api.PolicyStatus{State: "pending", Sets: v.setsOn(id), Total: len(c.Table.Rules)}
	if c.Err != nil {
		s.State, s.Reason = "refused", api.NewError(c.Err)
		return s
	}
	ports := c.Table.Ports
	s.Digest, s.Default = c.Digest.String(), flow.FormatActions(c.Table.Default, ports)
	if len(c.Table.Default) == 0 {
		s.Default = "drop"
	}
	r := v.blades[id]
	if r.alive != nil && r.status != nil && r.status.Status.Proved && r.status.Status.Digest == s.Digest {
		s.State = "proved"
	}
	missing := api.Unreported
	if v.rulesReported(id, c.Digest) {
		missing = api.Unlisted
	}
	told := map[string]*api.RuleState{}
	if r.rules != nil {
		for i := range r.rules.Status.Rules {
			told[r.rules.Status.Rules[i].ID] = &r.rules.Status.Rules[i]
		}
	}
	at := map[string]*api.PolicySet{}
	for i := range s.Sets {
		at[s.Sets[i].Name] = &s.Sets[i]
	}
	for i := range c.Table.Rules {
		rule := &c.Table.Rules[i]
		set, _, _ := strings.Cut(rule.Name, "/")
		is := told[wireID(rule.ID)]
		if p := at[set]; p != nil {
			counts(p, rule.Priority, placeOf(is, missing))
		}
		if whole {
			s.Rules = append(s.Rules, policyRule(rule, ports, is, missing))
		}
	}
	return s
}

// setsOn are the sets that hold on a blade, in the order of their tiers.
func (v *view) setsOn(id fabric.BladeID) []api.PolicySet {
	users := map[string][]string{}
	here := map[string]bool{}
	for name, vf := range v.spec.Assignments {
		here[name.Profile] = here[name.Profile] || vf.Blade == id
	}
	for _, profile := range slices.Sorted(maps.Keys(here)) {
		if !here[profile] {
			continue
		}
		for _, set := range v.spec.Profiles[profile].RuleSets {
			users[set] = append(users[set], profile)
		}
	}
	hold := slices.DeleteFunc(slices.Collect(maps.Values(v.spec.RuleSets)), func(s fabric.RuleSet) bool { return s.Tier == flow.TierTenant && len(users[s.Name]) == 0 })
	slices.SortFunc(hold, func(a, b fabric.RuleSet) int { return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Name, b.Name)) })
	out := []api.PolicySet{}
	for _, s := range hold {
		out = append(out, api.PolicySet{Tier: s.Tier.String(), Name: s.Name, Default: s.Default != nil, Profiles: users[s.Name]})
	}
	return out
}

// placeOf is where a rule lives, or why nobody knows.
func placeOf(is *api.RuleState, missing string) string {
	if is == nil {
		return missing
	}
	return is.Place
}

// counts adds a rule to its set.
func counts(p *api.PolicySet, priority int32, place string) {
	if p.Rules == 0 {
		p.Highest, p.Lowest = priority, priority
	}
	p.Rules++
	p.Highest, p.Lowest = max(p.Highest, priority), min(p.Lowest, priority)
	switch place {
	case api.Unreported:
		p.Unreported++
	case api.Unlisted:
		p.Unlisted++
	case "hardware":
		p.Hardware++
	case "mixed":
		p.Mixed++
	default:
		p.Software++
	}
}

func policyRule(r *flow.Rule, ports *flow.Ports, is *api.RuleState, missing string) api.PolicyRule {
	out := api.PolicyRule{Name: r.Name, ID: wireID(r.ID), Tier: r.Tier.String(), Priority: r.Priority, Match: flow.FormatMatch(&r.Match, ports), Actions: flow.FormatActions(r.Actions, ports), Place: placeOf(is, missing)}
	if is != nil {
		out.Packets = is.Hardware.Packets + is.Cache.Packets + is.Software.Packets
	}
	return out
}

// rulesReported reports whether a blade has said where the rules of a content live: its
// last report of rules is of the generation that was published for it, or newer.
func (v *view) rulesReported(id fabric.BladeID, content fabric.Digest) bool {
	told, r := v.orders[id], v.blades[id]
	return told != nil && told.digest == content && r != nil && r.rules != nil && r.rules.Status.Generation >= told.record.Spec.Number
}

// rules are those that blades report, and those that they shall have and have not
// reported yet; of one blade, and by name, also those that its report is too long for.
func (m *Manager) rules(v *view, f filter) (out []api.RuleView) {
	made := map[fabric.BladeID]fabric.Compiled{}
	if v.trouble == nil {
		made = m.cache.of(v)
	}
	for id, r := range v.blades {
		if f.blade != "" && f.blade != string(id) || f.name != "" && !strings.HasPrefix(f.name, string(id)+"/") {
			continue
		}
		add := func(s api.RuleState, reported time.Time) {
			if name := string(id) + "/" + s.Name; f.passes(name, string(id), f.tenant) {
				out = append(out, api.RuleView{Head: api.NewHead(api.KindRule, name), Status: api.RuleStatus{Blade: string(id), RuleState: s, Reported: reported}})
			}
		}
		told, last := map[string]bool{}, time.Time{}
		if r.rules != nil {
			last = r.rules.Status.At
			for _, s := range r.rules.Status.Rules {
				told[s.ID] = true
				add(s, time.Time{})
			}
		}
		c, seen := made[id]
		place := api.Unreported
		if seen && v.rulesReported(id, c.Digest) {
			if place = api.Unlisted; r.rules.Status.Omitted == 0 || f.blade == "" && f.name == "" {
				continue
			}
		}
		if !seen || c.Err != nil {
			continue
		}
		for i := range c.Table.Rules {
			if rule := &c.Table.Rules[i]; !told[wireID(rule.ID)] {
				add(api.RuleState{Name: rule.Name, ID: wireID(rule.ID), Place: place}, last)
			}
		}
	}
	return sortedByName(out)
}

// unlisted is how many rules are not in the list that was asked for because blades' reports
// are too long for them.
func (m *Manager) unlisted(v *view, f filter) (n int) {
	if f.blade != "" || v.trouble != nil {
		return 0
	}
	for id, c := range m.cache.of(v) {
		if v.rulesReported(id, c.Digest) {
			n += max(0, v.blades[id].rules.Status.Omitted)
		}
	}
	return n
}

// wireID is how a rule's ID is written.
func wireID(id flow.RuleID) string { return fmt.Sprintf("%016x", uint64(id)) }
