package flowtest

import (
	"cmp"
	"math/rand/v2"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Set returns a random set action that a rule with match m can have: one to four fields,
// with values of the few that frames and rules here have, so that some change nothing.
func Set(rng *rand.Rand, m *flow.Match) flow.Action {
	var fields []flow.Field
	for _, f := range []flow.Field{flow.SrcMAC, flow.DstMAC, flow.TOS, flow.TTL, flow.SrcLo, flow.DstLo, flow.SrcHi, flow.DstHi, flow.SrcPort, flow.DstPort} {
		if (f == flow.SrcPort || f == flow.DstPort) && m.Value.Get(flow.Flags)&flow.FlagL4 == 0 {
			continue
		}
		fields = append(fields, f)
	}
	pinned := m.Mask.Get(flow.EthType) == flow.EthType.Max()
	var out []flow.Setting
	for n := 1 + rng.IntN(4); len(out) == 0 || n > 0; n-- {
		s := setting(rng, fields[rng.IntN(len(fields))])
		version := s[0].IPVersion()
		taken := func(x flow.Setting) bool { return x.Field == s[len(s)-1].Field }
		if version != 0 && pinned && m.Value.Get(flow.EthType) != version || slices.ContainsFunc(out, taken) {
			continue
		}
		out = append(out, s...)
	}
	slices.SortFunc(out, func(a, b flow.Setting) int { return cmp.Compare(a.Field, b.Field) })
	return flow.Action{Op: flow.Set, Settings: out}
}

// setting returns what sets a field: two settings if it is the upper half of an address.
func setting(rng *rand.Rand, f flow.Field) []flow.Setting {
	wild := rng.IntN(4) == 0
	value := func(few ...uint64) uint64 {
		if wild {
			return rng.Uint64() & f.Max()
		}
		return few[rng.IntN(len(few))]
	}
	all := f.Max()
	switch f {
	case flow.SrcMAC, flow.DstMAC:
		return []flow.Setting{{Field: f, Value: value(0x02_00_00_00_00_02, 0x02_00_00_00_00_03, 0xff_ff_ff_ff_ff_ff), Mask: all}}
	case flow.TOS:
		mask := []uint64{0xff, 0xff, 0xfc, 0x03, 0x18}[rng.IntN(5)]
		return []flow.Setting{{Field: f, Value: value(0, 4, 0xb8) & mask, Mask: mask}}
	case flow.TTL:
		return []flow.Setting{{Field: f, Value: value(0, 1, 64, 255), Mask: all}}
	case flow.SrcLo, flow.DstLo:
		const low = 1<<32 - 1
		return []flow.Setting{{Field: f, Value: value(10<<24, 10<<24|1, 10<<24|2, low) & low, Mask: low}}
	case flow.SrcHi, flow.DstHi:
		return []flow.Setting{{Field: f, Value: value(0x20010db8_00000000, 0x20010db8_00000001), Mask: all}, {Field: f + 1, Value: value(0, 1, 2, 3), Mask: all}}
	}
	return []flow.Setting{{Field: f, Value: value(53, 80, 1024, 1025, 0), Mask: all}}
}

// WithSets returns rules, half of which set something as well, at a random place of
// their lists.
func WithSets(rng *rand.Rand, rules []flow.Rule) []flow.Rule {
	rules = slices.Clone(rules)
	for i := range rules {
		r := &rules[i]
		for rng.IntN(2) == 0 {
			r.Actions = slices.Insert(slices.Clone(r.Actions), rng.IntN(len(r.Actions)), Set(rng, &r.Match))
		}
	}
	return rules
}
