package device

import (
	"errors"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestStack: a model of tc flower refuses what changes tags of which too little is said, as
// its driver does, so that the planner learns it from no refusal of a card.
func TestStack(t *testing.T) {
	m, err := Load("mlx5")
	if err != nil {
		t.Fatal(err)
	}
	m = ThroughTC(m, false)
	match := func(pin func(*flow.Match)) flow.Match {
		var out flow.Match
		out.Pin(flow.EthType, flow.EthIPv4, flow.EthType.Max())
		out.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		pin(&out)
		return out
	}
	open := match(func(*flow.Match) {})
	none := match(func(m *flow.Match) { m.Pin(flow.VLAN, 0, flow.TagPresent) })
	one := match(func(m *flow.Match) { m.Pin(flow.VLAN, flow.TagPresent|7, flow.TagPresent|flow.TagID) })
	two := match(func(m *flow.Match) {
		m.Pin(flow.VLAN, flow.TagPresent|7, flow.TagPresent|flow.TagID)
		m.Pin(flow.CVLAN, flow.TagPresent, flow.TagPresent)
	})
	push := flow.Action{Op: flow.VLANPush, Tag: 9, Proto: flow.EthVLAN}
	set := flow.Action{Op: flow.VLANSet, Tag: 9}
	pop := flow.Action{Op: flow.VLANPop}
	for _, c := range []struct {
		name  string
		match flow.Match
		acts  flow.Actions
		may   bool
	}{
		{"push, tags open", open, flow.Actions{push}, false},
		{"push, no tag", none, flow.Actions{push}, true},
		{"push, one tag", one, flow.Actions{push}, true},
		{"push, two tags", two, flow.Actions{push}, false},
		{"pop and push, two tags", two, flow.Actions{pop, push}, true},
		{"set, tags open", open, flow.Actions{set}, false},
		{"set, one tag", one, flow.Actions{set}, true},
		{"push and set, no tag", none, flow.Actions{push, set}, true},
	} {
		acts := append(c.acts, flow.Action{Op: flow.Output, Ports: []flow.Port{1}})
		m.Ports, m.VLANOps = nil, 0
		err := m.Admit(&c.match, acts, flow.RuleEntry)
		why, is := errors.AsType[*Refusal](err)
		if refused := is && why.Code == "E_FIELD_NEEDED"; refused == c.may {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}
