package verify

import (
	"errors"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// TestPolice: a rule that polices is one entry, whole and with the same actions, or none.
func TestPolice(t *testing.T) {
	police := func(rate uint64) flow.Action { return flow.Action{Op: flow.Police, Rate: rate, Burst: 1500} }
	web := flow.Rule{ID: 1, Name: "web", Priority: 9, Match: pin(flow.DstMAC, macA, flow.DstMAC.Max()), Actions: flow.Actions{police(1e6), output(2)}}
	free := flow.Rule{ID: 2, Name: "free", Priority: 9, Match: pin(flow.DstMAC, macB, flow.DstMAC.Max()), Actions: flow.Actions{output(2)}}
	table := must(flow.NewTable(flow.TableSpec{Rules: []flow.Rule{web, free}}))
	entry := func(id flow.EntryID, kind flow.EntryKind, r *flow.Rule, match flow.Match, actions flow.Actions) flow.Entry {
		return flow.Entry{ID: id, Kind: kind, Rule: r.ID, Priority: 5, Match: match, Actions: actions}
	}
	part := web.Match
	part.Pin(flow.InPort, 2, flow.InPort.Max())
	other := web.Match
	other.Pin(flow.InPort, 3, flow.InPort.Max())
	check := func(name, words string, entries ...flow.Entry) {
		t.Helper()
		err := Check(table, entries, anyDevice(device.Honoured))
		var unsure *Unprovable
		switch {
		case words == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case words != "" && (!errors.As(err, &unsure) || !strings.Contains(unsure.Reason, words)):
			t.Errorf("%s: %v, want one that says %q", name, err, words)
		}
	}
	check("the rule itself", "", entry(1, flow.RuleEntry, &web, web.Match, web.Actions))
	check("with a guard", "", entry(1, flow.RuleEntry, &web, web.Match, web.Actions), entry(2, flow.GuardEntry, &free, free.Match, nil))
	check("another rate", "does not police as its rule, web", entry(1, flow.RuleEntry, &web, web.Match, flow.Actions{police(2e6), output(2)}))
	check("no police", "does not police as its rule, web", entry(1, flow.RuleEntry, &web, web.Match, flow.Actions{output(2)}))
	check("police that no rule asks for", "does not police as its rule, free", entry(1, flow.RuleEntry, &free, free.Match, flow.Actions{police(1), output(2)}))
	check("a piece", "a part of rule web", entry(1, flow.PieceEntry, &web, web.Match, web.Actions))
	check("a part", "a part of rule web", entry(1, flow.RuleEntry, &web, part, web.Actions))
	check("two parts", "a part of rule web", entry(1, flow.RuleEntry, &web, part, web.Actions), entry(2, flow.RuleEntry, &web, other, web.Actions))
	check("twice", "one of several entries of rule web", entry(1, flow.RuleEntry, &web, web.Match, web.Actions), entry(2, flow.RuleEntry, &web, web.Match, web.Actions))
}
