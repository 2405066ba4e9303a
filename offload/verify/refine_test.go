package verify

import (
	"errors"
	"math/bits"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// The second exact method, for sets of realistic size. It knows nothing of
// entries, overlaps or certificates: it cuts the space of all packets into regions,
// along the edges of rules and entries, until in each region one rule wins and the
// same entries are asked, and compares there. It shares no code with the checker.
// Ports are intervals, so masks of ports have to be prefixes, and actions must not
// depend on the packet.

// region is a set of keys: a ternary part and an interval for each port.
type region struct {
	value, mask flow.Key // without ports
	lo, hi      [2]uint16
}

// want is one line of either list, cut down to what the oracle needs.
type line struct {
	region
	punt     bool
	rule     flow.RuleID
	actions  flow.Actions
	priority uint64
}

func newRegion(m *flow.Match) region {
	r := region{value: m.Value, mask: m.Mask, hi: [2]uint16{0xffff, 0xffff}}
	for i, f := range []flow.Field{flow.SrcPort, flow.DstPort} {
		v, mask := uint16(m.Value.Get(f)), uint16(m.Mask.Get(f))
		if mask != 0 {
			r.lo[i], r.hi[i] = v, v|^mask
		}
		if q := [2]flow.PortRange{m.SrcPort, m.DstPort}[i]; !q.Any() {
			r.lo[i], r.hi[i] = q.Lo, q.Hi
		}
		r.value.Set(f, 0)
		r.mask.Set(f, 0)
	}
	return r
}

func (r *region) match() *flow.Match {
	m := &flow.Match{Value: r.value, Mask: r.mask}
	m.SetPorts(flow.SrcPort, r.lo[0], r.hi[0])
	m.SetPorts(flow.DstPort, r.lo[1], r.hi[1])
	return m
}

func (r *region) meets(o *region) bool {
	for w := range r.value {
		if (r.value[w]^o.value[w])&r.mask[w]&o.mask[w] != 0 {
			return false
		}
	}
	return r.lo[0] <= o.hi[0] && o.lo[0] <= r.hi[0] && r.lo[1] <= o.hi[1] && o.lo[1] <= r.hi[1]
}

// cuts yields the ways to cut r along an edge of o; none if all of r is in o.
func (r *region) cuts(o *region, yield func(a, b region)) {
	for i := range r.lo {
		if r.lo[i] < o.lo[i] {
			a, b := *r, *r
			a.hi[i], b.lo[i] = o.lo[i]-1, o.lo[i]
			yield(a, b)
		}
		if r.hi[i] > o.hi[i] {
			a, b := *r, *r
			a.hi[i], b.lo[i] = o.hi[i], o.hi[i]+1
			yield(a, b)
		}
	}
	for w := range r.mask {
		if free := o.mask[w] &^ r.mask[w]; free != 0 {
			bit := uint64(1) << (bits.Len64(free) - 1)
			a, b := *r, *r
			a.mask[w] |= bit
			b.mask[w] |= bit
			b.value[w] |= bit
			yield(a, b)
		}
	}
}

// halves cuts r along an edge of one of os, the one that leaves the least to do on
// the worse side; ok is false if all of r is in each of them.
func (r *region) halves(rules, entries []line, os ...*region) (a, b region, ok bool) {
	least := 0
	count := func(h *region) (n int) {
		for _, lines := range [2][]line{rules, entries} {
			for i := range lines {
				if lines[i].meets(h) {
					n++
				}
			}
		}
		return n
	}
	for _, o := range os {
		r.cuts(o, func(x, y region) {
			if work := 4*max(count(&x), count(&y)) + min(count(&x), count(&y)); !ok || work < least {
				a, b, ok, least = x, y, true, work
			}
		})
	}
	return a, b, ok
}

// holds reports whether all of o is in r.
func (r *region) holds(o *region) bool {
	held := true
	o.cuts(r, func(_, _ region) { held = false })
	return held && r.meets(o)
}

// within returns the lines that meet r.
func within(r *region, lines []line) (out []line) {
	for _, l := range lines {
		if l.meets(r) {
			out = append(out, l)
		}
	}
	return out
}

// refine counts regions in which the device may do something else than the table,
// and those in which only the wrong rule is booked. rules are in the order they are
// asked and end with the default; entries are by priority, high to low.
func refine(r region, rules, entries []line) (different, misbooked int) {
	rules, entries = within(&r, rules), within(&r, entries)
	for i := range rules {
		if rules[i].holds(&r) {
			rules = rules[:i+1] // nothing after it wins here
			break
		}
	}
	for _, e := range entries {
		if e.punt && e.holds(&r) { // nothing below it answers
			entries = slices.DeleteFunc(entries, func(l line) bool { return l.priority < e.priority })
			break
		}
	}
	answers := slices.IndexFunc(entries, func(l line) bool { return !l.punt })
	if answers < 0 {
		return 0, 0
	}
	if _, some := flow.Shared(r.match()); !some {
		return 0, 0
	}
	if !slices.ContainsFunc(entries, func(l line) bool {
		return !l.punt && (l.rule != rules[0].rule || !l.actions.Equal(rules[0].actions))
	}) && rules[0].holds(&r) {
		return 0, 0
	}
	edges := []*region{&entries[answers].region, &rules[0].region}
	for i := range entries {
		if entries[i].priority == entries[0].priority {
			edges = append(edges, &entries[i].region)
		}
	}
	if a, b, ok := r.halves(rules, entries, edges...); ok {
		d, m := refine(a, rules, entries)
		e, n := refine(b, rules, entries)
		return d + e, m + n
	}
	for _, e := range entries {
		if e.priority != entries[0].priority || e.punt {
			continue
		}
		if !e.actions.Equal(rules[0].actions) {
			different++
		} else if e.rule != rules[0].rule {
			misbooked++
		}
	}
	return different, misbooked
}

// refined is the oracle for a table and a device.
func refined(t *flow.Table, entries []flow.Entry, m device.Model) (different, misbooked int) {
	var rules, asked []line
	for i := range t.Len() + 1 {
		r := t.Rule(i)
		rules = append(rules, line{region: newRegion(&r.Match), rule: r.ID, actions: r.Actions})
	}
	for i := range m.Missed { // as if an entry above all others punted
		asked = append(asked, line{region: newRegion(&m.Missed[i]), punt: true, priority: 1 << 63})
	}
	for _, e := range entries {
		asked = append(asked, line{newRegion(&e.Match), e.Punt(), e.Rule, e.Actions, e.Priority})
	}
	slices.SortStableFunc(asked, func(a, b line) int {
		if a.priority > b.priority {
			return -1
		}
		return int(min(1, b.priority-a.priority))
	})
	return refine(region{hi: [2]uint16{0xffff, 0xffff}}, rules, asked)
}

// vary changes one entry in a way that may or may not matter.
func vary(rng *rand.Rand, t *flow.Table, entries []flow.Entry) (string, []flow.Entry) {
	i := rng.IntN(len(entries))
	e := &entries[i]
	fields := []flow.Field{flow.SrcLo, flow.DstLo, flow.Proto}
	f := fields[rng.IntN(len(fields))]
	mask := e.Match.Mask.Get(f)
	switch rng.IntN(8) {
	case 0:
		return "dropped", slices.Delete(entries, i, i+1)
	case 1:
		j := rng.IntN(len(entries))
		e.Priority, entries[j].Priority = entries[j].Priority, e.Priority
		return "priorities swapped", entries
	case 2:
		if !e.Punt() {
			e.Actions = flow.Actions{output(flow.Port(1 + rng.IntN(4)))}
		}
		return "action changed", entries
	case 3, 4:
		if mask != 0 {
			low := mask & -mask
			e.Match.Mask.Set(f, mask&^low)
			e.Match.Value.Set(f, e.Match.Value.Get(f)&^low)
		}
		return "prefix widened", entries
	case 5:
		if mask != 0 {
			e.Match.Value.Set(f, e.Match.Value.Get(f)^mask&-mask)
		}
		return "prefix moved", entries
	case 6:
		lo, hi := uint16(rng.IntN(3000)), uint16(rng.IntN(1<<16))
		e.Match.SetPorts(flow.DstPort, min(lo, hi), max(lo, hi))
		return "port range changed", entries
	default:
		for range 20 {
			if e.Punt() {
				break
			}
			e = &entries[rng.IntN(len(entries))]
		}
		free := ^e.Match.Mask.Get(flow.DstLo) & 0xffffffff
		if free == 0 {
			return "guard kept", entries
		}
		top := uint64(1) << 31
		for free&top == 0 {
			top >>= 1
		}
		half := *e
		e.Match.Pin(flow.DstLo, 0, top)
		half.Match.Pin(flow.DstLo, top, top)
		if rng.IntN(2) == 0 {
			entries = append(entries, half)
		}
		return "split", entries
	}
}

// TestRefine compares Check with co-refinement on mutants of devices full of whole
// rules, guards and pieces, for every family.
func TestRefine(t *testing.T) {
	rounds := 600 // divided by the number of rules
	if testing.Short() {
		rounds = 120
	}
	var sound, different, misbooked int
	for _, f := range flowtest.Families() {
		for _, n := range []int{12, 30, 100} {
			table := generated(f, n)
			base := append(guarded(table, n/2), wholeTable(table)[:n/4]...)
			for n, p := range pieces(table, n/4) {
				p.Priority = uint64(1000 + n%3)
				base = append(base, p)
			}
			if err := Check(table, base[:n/2], plainDevice); err != nil {
				t.Fatal(f, n, err)
			}
			for round := range rounds / n {
				rng := rand.New(rand.NewPCG(uint64(round), uint64(n)))
				entries := slices.Clone(base[:n/2+rng.IntN(len(base)-n/2)])
				var how string
				if round > 0 {
					how, entries = vary(rng, table, entries)
				}
				for i := range entries {
					entries[i].ID = flow.EntryID(i)
				}
				err := Check(table, entries, plainDevice)
				diff, booked := refined(table, entries, plainDevice)
				fail := func(why any) {
					t.Fatalf("%v, %d rules, round %d (%s): %v\nchecker: %v\noracle: %d different, %d misbooked", f, n, round, how, why, err, diff, booked)
				}
				var bad *Mismatch
				switch {
				case err == nil && diff+booked > 0:
					fail("missed")
				case err != nil && !errors.As(err, &bad):
					fail("not a mismatch")
				case err != nil && diff+booked == 0:
					fail("false alarm")
				case err != nil:
					if why := (&trial{table: table, entries: entries, model: plainDevice}).confirm(bad); why != nil {
						fail(why)
					}
					if diff > 0 && !bad.Differs() {
						fail("there is a packet on which the emissions differ")
					}
				}
				switch {
				case diff > 0:
					different++
				case booked > 0:
					misbooked++
				default:
					sound++
				}
			}
		}
	}
	t.Logf("%d sound, %d with other emissions, %d only misbooked", sound, different, misbooked)
}
