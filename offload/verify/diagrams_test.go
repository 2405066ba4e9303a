package verify

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// The third exact method, for tables of IPv4 rules. It knows nothing of boxes and
// regions: a set of packets is a binary decision diagram over the bits of the key, a
// rule wins its set minus those of the rules before it, an entry answers its set minus
// those of the entries before it, and what is wrong is what an entry answers minus
// what its rule wins. Which keys packets have it has from a formula of its own.

// diagrams are the sets of one table.
type diagrams struct {
	*bdd
	table *flow.Table
	real  diagram                 // the keys that IPv4 packets can have
	wins  map[flow.RuleID]diagram // what a rule wins
	does  map[string]diagram      // what is won by rules with these actions
}

// level is the variable of the highest bit of each field that rules may look at.
var level = map[flow.Field]int{flow.Flags: 0, flow.Proto: 8, flow.DstLo: 16, flow.SrcLo: 48, flow.DstPort: 80, flow.SrcPort: 96}

const levels = 112

// width is how many bits of a field have variables; those above are zero.
func width(f flow.Field) int {
	if f == flow.SrcLo || f == flow.DstLo {
		return 32
	}
	return bits.Len64(f.Max())
}

// bit returns the keys that have bit n of field f, or have it not.
func (d *diagrams) bit(f flow.Field, n int, set bool) diagram {
	v := level[f] + width(f) - 1 - n
	if set {
		return d.variable(v)
	}
	return d.not(d.variable(v))
}

// pin returns the keys whose field f is v under mask.
func (d *diagrams) pin(f flow.Field, v, mask uint64) diagram {
	out := everything
	for n := range bits.Len64(f.Max()) {
		switch set := v>>n&1 == 1; {
		case mask>>n&1 == 0:
		case n < width(f):
			out = d.and(d.bit(f, n, set), out)
		case set:
			return nothing
		}
	}
	return out
}

// between returns the keys whose field f is in lo … hi.
func (d *diagrams) between(f flow.Field, lo, hi uint16) diagram {
	above, below := everything, everything
	for n := range width(f) {
		one, zero := d.bit(f, n, true), d.bit(f, n, false)
		if lo>>n&1 == 1 {
			above = d.and(one, above)
		} else {
			above = d.or(one, above)
		}
		if hi>>n&1 == 1 {
			below = d.or(zero, below)
		} else {
			below = d.and(zero, below)
		}
	}
	return d.and(above, below)
}

// keys returns the keys of m, which looks at IPv4 packets or at fields that have variables.
func (d *diagrams) keys(m *flow.Match) diagram {
	var seen flow.Match
	out := everything
	for f := range level {
		v, mask := m.Value.Get(f), m.Mask.Get(f)
		seen.Pin(f, 0, mask)
		out = d.and(out, d.pin(f, v, mask))
	}
	if m.Mask.Get(flow.EthType) != 0 {
		if m.Value.Get(flow.EthType) != flow.EthIPv4 {
			panic("not of IPv4")
		}
		seen.Pin(flow.EthType, 0, flow.EthType.Max())
	}
	if seen.Mask != m.Mask {
		panic(fmt.Sprintf("%+v looks at something else", m))
	}
	for _, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		r := m.SrcPort
		if f == flow.DstPort {
			r = m.DstPort
		}
		if !r.Any() {
			out = d.and(out, d.between(f, r.Lo, r.Hi))
		}
	}
	return out
}

// newDiagrams makes the sets of a table.
func newDiagrams(t *flow.Table) *diagrams {
	d := &diagrams{bdd: newBDD(levels), table: t, wins: map[flow.RuleID]diagram{}, does: map[string]diagram{}}
	d.real = d.packets()
	left := d.real
	for i := range t.Len() + 1 {
		r := t.Rule(i)
		m := d.keys(&r.Match)
		d.wins[r.ID] = d.and(left, m)
		left = d.and(left, d.not(m))
		key := fmt.Sprint(r.Actions)
		if have, some := d.does[key]; some {
			d.does[key] = d.or(have, d.wins[r.ID])
		} else {
			d.does[key] = d.wins[r.ID]
		}
	}
	return d
}

// packets says which keys IPv4 packets have: what RFCs say of headers, and what
// flow.Parse says of flags.
func (d *diagrams) packets() diagram {
	flag := func(f uint64) diagram { return d.pin(flow.Flags, f, f) }
	proto := func(all ...uint64) diagram {
		out := nothing
		for _, p := range all {
			out = d.or(out, d.pin(flow.Proto, p, 0xff))
		}
		return out
	}
	none := d.and(d.pin(flow.SrcPort, 0, 0xffff), d.pin(flow.DstPort, 0, 0xffff))
	bytes := d.and(d.pin(flow.SrcPort, 0, 0xff00), d.pin(flow.DstPort, 0, 0xff00))
	ported, icmp := proto(flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP), proto(flow.ProtoICMP)
	l4, later, odd := flag(flow.FlagL4), flag(flow.FlagFragLater), flag(flow.FlagOdd)
	whole := d.not(later)
	return d.and(d.pin(flow.Flags, flow.FlagIP, 0xe1), // ip, and no bit that has no meaning
		d.or(
			d.and(later, d.not(flag(flow.FlagFragFirst)), d.not(l4), none),
			d.and(whole, l4, ported),
			d.and(whole, d.not(l4), icmp, bytes),
			d.and(whole, d.not(l4), d.not(icmp), none, d.or(odd, d.not(ported))), // what is cut short is odd
		))
}

// verdict reports whether the device answers a packet with other actions than the
// table, and whether for another rule only.
func (d *diagrams) verdict(entries []flow.Entry, m device.Model) (different, misbooked bool) {
	sorted := slices.Clone(entries)
	slices.SortFunc(sorted, func(a, b flow.Entry) int { return cmp.Compare(b.Priority, a.Priority) })
	left := d.real
	for i := range m.Missed {
		left = d.and(left, d.not(d.keys(&m.Missed[i])))
	}
	for len(sorted) > 0 {
		next := left
		n := 0
		for ; n < len(sorted) && (m.Order != device.Honoured || sorted[n].Priority == sorted[0].Priority); n++ {
			e := &sorted[n]
			matched := d.keys(&e.Match)
			next = d.and(next, d.not(matched))
			if e.Punt() {
				continue
			}
			answers := d.and(left, matched)
			does, some := d.does[fmt.Sprint(e.Actions)]
			if !some {
				does = nothing
			}
			wins, some := d.wins[e.Rule]
			if !some {
				wins = nothing
			}
			wrong := d.and(answers, d.not(does))
			different = different || wrong != nothing
			misbooked = misbooked || d.and(answers, does, d.not(wins)) != nothing
		}
		left, sorted = next, sorted[n:]
	}
	return different, misbooked
}
