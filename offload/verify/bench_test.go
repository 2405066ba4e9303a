package verify

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// generated returns a table of n rules of a family, each with its own output, so
// that entries can be whole rules.
func generated(f flowtest.Family, n int) *flow.Table {
	rules := flowtest.Generate(f, n, 1)
	for i := range rules {
		rules[i].Actions = flow.Actions{output(flow.Port(1 + i%4))}
	}
	return must(flow.NewTable(flow.TableSpec{Rules: rules}))
}

// plainDevice honours the order and misses odd packets and later fragments.
var plainDevice = device.Model{Order: device.Honoured, Missed: []flow.Match{
	pin(flow.Flags, flow.FlagOdd, flow.FlagOdd), pin(flow.Flags, flow.FlagFragLater, flow.FlagFragLater)}}

// wholeTable is every rule in the device, in the table's order.
func wholeTable(t *flow.Table) (out []flow.Entry) {
	for i := range t.Len() {
		r := t.Rule(i)
		out = append(out, flow.Entry{ID: flow.EntryID(i), Kind: flow.RuleEntry, Rule: r.ID, Priority: uint64(t.Len() - i), Match: r.Match, Actions: r.Actions})
	}
	return out
}

// guarded is random whole rules, each below guards over all rules asked before it
// that it meets, up to n entries.
func guarded(t *flow.Table, n int) (out []flow.Entry) {
	rng := rand.New(rand.NewPCG(1, 1))
	guards := map[int]bool{}
	for _, i := range rng.Perm(t.Len()) {
		r := t.Rule(i)
		var over []int
		for j := range i {
			if g := t.Rule(j); g.Match.Overlaps(&r.Match) && !guards[j] {
				over = append(over, j)
			}
		}
		if len(out)+1+len(over) > n {
			continue
		}
		out = append(out, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: uint64(2 * (t.Len() - i)), Match: r.Match, Actions: r.Actions})
		for _, j := range over {
			guards[j] = true
			out = append(out, flow.Entry{Kind: flow.GuardEntry, Rule: r.ID, Priority: uint64(2*(t.Len()-j) + 1), Match: t.Rule(j).Match})
		}
	}
	for i := range out {
		out[i].ID = flow.EntryID(i)
	}
	return out
}

// narrowed is like guarded, but each guard covers only what its rule shares with the
// entry it is for, so that no guard covers a rule and everything has to be searched.
func narrowed(t *flow.Table, n int) (out []flow.Entry) {
	for i := t.Len() - 1; i >= 0; i-- {
		r := t.Rule(i)
		over, _ := newBox(&r.Match)
		prio := uint64(2 * (t.Len() - i))
		var some []flow.Entry
		for j := range i {
			b, _ := newBox(&t.Rule(j).Match)
			if both, ok := b.and(&over); ok {
				some = append(some, flow.Entry{Kind: flow.GuardEntry, Rule: r.ID, Priority: prio + 1, Match: *both.match()})
			}
		}
		if len(some) == 0 || len(some) > n/20 || len(out)+1+len(some) > n {
			continue
		}
		out = append(out, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: prio, Match: r.Match, Actions: r.Actions})
		out = append(out, some...)
	}
	for i := range out {
		out[i].ID = flow.EntryID(i)
	}
	return out
}

// pieces are n exact 5-tuples.
func pieces(t *flow.Table, n int) (out []flow.Entry) {
	rng := rand.New(rand.NewPCG(1, 2))
	var tuple flow.Match
	for _, f := range []flow.Field{flow.EthType, flow.SrcLo, flow.DstLo, flow.Proto, flow.SrcPort, flow.DstPort} {
		tuple.Pin(f, 0, f.Max())
	}
	tuple.Pin(flow.Flags, 0, flow.FlagIP|flow.FlagL4)
	for len(out) < n {
		k, ok := flow.Shared(&t.Rule(rng.IntN(t.Len())).Match)
		if !ok {
			continue
		}
		r := t.Rule(t.Lookup(&k))
		m := tuple
		for w := range k {
			m.Value[w] = k[w] & m.Mask[w]
		}
		out = append(out, flow.Entry{ID: flow.EntryID(len(out)), Kind: flow.PieceEntry, Rule: r.ID, Match: m, Actions: r.Actions})
	}
	return out
}

// BenchmarkStations checks pieces that resolve normal, each for one station and
// below one guard for what comes from there.
func BenchmarkStations(b *testing.B) {
	const count = 64
	var stations []flow.Station
	for i := range count {
		stations = append(stations, flow.Station{VLAN: uint16(i % 4), MAC: 0x02_00_00_00_01_00 + uint64(i), Port: flow.Port(2 + i)})
	}
	t := must(flow.NewTable(flow.TableSpec{Switch: must(flow.NewSwitch(1, stations...)), Rules: flowtest.Generate(flowtest.ACL, 10_000, 1)}))
	var entries []flow.Entry
	for i, e := range pieces(t, 1000) {
		st := stations[i%count]
		e.Match.Pin(flow.DstMAC, st.MAC, flow.DstMAC.Max())
		e.Match.Pin(flow.VLAN, flow.TagPresent|uint64(st.VLAN), flow.TagPresent|flow.TagID)
		if e.Actions[0].Op == flow.Normal {
			e.Actions = flow.Actions{output(st.Port)}
		}
		entries = append(entries, e)
	}
	for i, st := range stations {
		g := flow.Entry{ID: flow.EntryID(5000 + i), Kind: flow.GuardEntry, Priority: 1, Match: pin(flow.DstMAC, st.MAC, flow.DstMAC.Max())}
		g.Match.Pin(flow.InPort, uint64(st.Port), 0xffff)
		entries = append(entries, g)
	}
	for b.Loop() {
		if err := Check(t, entries, plainDevice); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCheck(b *testing.B) {
	for _, f := range flowtest.Families() {
		for _, n := range []int{1000, 10_000} {
			t := generated(f, n)
			for _, d := range []struct {
				name    string
				entries []flow.Entry
			}{
				{"guarded", guarded(t, 1000)}, {"narrowed", narrowed(t, 1000)}, {"pieces", pieces(t, 1000)}, {"whole", wholeTable(t)},
			} {
				b.Run(fmt.Sprintf("%v/rules=%d/%s=%d", f, n, d.name, len(d.entries)), func(b *testing.B) {
					var proof Proof
					for b.Loop() {
						p, err := Prove(t, d.entries, plainDevice)
						if err != nil {
							b.Fatal(err)
						}
						proof = p
					}
					b.ReportMetric(float64(proof.Pairs), "pairs")
					b.ReportMetric(float64(proof.Boxes), "boxes")
				})
			}
		}
	}
}
