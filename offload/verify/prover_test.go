package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// agrees asks p what Check is asked too, and returns how the answers differ.
func (p *Prover) agrees(x *trial) error {
	want, got := Check(x.table, x.entries, x.model), p.Check(x.table, x.entries, x.model)
	if !reflect.DeepEqual(want, got) {
		return fmt.Errorf("asked anew: %v\nremembered: %v", want, got)
	}
	var bad *Mismatch
	if errors.As(got, &bad) {
		return x.confirm(bad)
	}
	return nil
}

// edit changes rules of a table at random: one comes, goes, moves, matches or acts
// otherwise, or the default or the switch changes. What would be a tie is left out.
func (u *universe) edit(rng *rand.Rand, t *flow.Table) *flow.Table {
	s := flow.TableSpec{Generation: t.Generation() + 1, Default: t.Default(), Switch: t.Switch()}
	for i := range t.Len() {
		s.Rules = append(s.Rules, *t.Rule(i))
	}
	fresh := flow.Rule{ID: flow.RuleID(1 + rng.IntN(12)), Priority: int32(90 + rng.IntN(11)), Tier: flow.TierTenant, Match: u.match(rng, 0.6), Actions: u.anyActions(rng)}
	fresh.Name = fmt.Sprint("r", fresh.ID)
	at := rng.IntN(len(s.Rules) + 1)
	switch choice := rng.IntN(10); {
	case choice == 0:
		s.Default = fresh.Actions
	case choice == 1:
		s.Switch = []*flow.Switch{testSwitch, otherSwitch}[rng.IntN(2)]
	case at == len(s.Rules) || choice < 4:
		s.Rules = append(s.Rules, fresh)
	case choice < 6:
		s.Rules = slices.Delete(s.Rules, at, at+1)
	case choice == 6:
		s.Rules[at].Actions = fresh.Actions
	case choice == 7:
		s.Rules[at].Match = fresh.Match
	default:
		s.Rules[at].Priority = fresh.Priority
	}
	if next, err := flow.NewTable(s); err == nil {
		return next
	}
	return t
}

var otherSwitch = must(flow.NewSwitch(1, flow.Station{VLAN: 0, MAC: macA, Port: 3}, flow.Station{VLAN: 1, MAC: macB, Port: 2}))

// TestProver asks a Prover and Check the same questions: about tables and devices
// that change a little from one to the next, or much, or go back to what they were.
func TestProver(t *testing.T) {
	walks := 2000
	if testing.Short() {
		walks = 300
	}
	questions, wrong := 0, 0
	for n := range walks {
		rng := rand.New(rand.NewPCG(uint64(n), 21))
		u := universes()[n%len(universes())]
		var p Prover
		a, b := u.random(rng), u.random(rng)
		if rng.IntN(3) == 0 { // some matches are not taken
			a.model.Fields[rng.IntN(len(a.model.Fields))] = device.How(rng.IntN(2))
			a.model.Ranges = rng.IntN(2) == 0
		}
		b.model = a.model // two devices of one kind, about which it is asked in turn
		if rng.IntN(2) == 0 {
			b.model.Ports = []flow.Port{1}
		}
		devices := []*trial{a, b}
		past := []trial{}
		for step := range 25 {
			x := devices[rng.IntN(2)]
			switch rng.IntN(8) {
			case 0, 1, 2:
				x.table = u.edit(rng, x.table)
			case 3, 4, 5:
				x.entries = slices.Clone(x.entries)
				x.mutate(rng)
			case 6: // what is right, and what an agent would do
				x.entries = slices.DeleteFunc(slices.Clone(x.entries), func(e flow.Entry) bool {
					return Check(x.table, []flow.Entry{e}, x.model) != nil
				})
			case 7:
				if len(past) > 0 {
					old := past[rng.IntN(len(past))]
					x.table = old.table
					if rng.IntN(2) == 0 {
						x.entries = slices.Clone(old.entries)
					}
				}
			}
			if rng.IntN(3) == 0 {
				x.entries = slices.Clone(x.entries)
				rng.Shuffle(len(x.entries), func(i, j int) { x.entries[i], x.entries[j] = x.entries[j], x.entries[i] })
			}
			past = append(past, *x)
			questions++
			if Check(x.table, x.entries, x.model) != nil {
				wrong++
			}
			if err := p.agrees(x); err != nil {
				t.Fatalf("walk %d (%s), step %d: %v", n, u.name, step, err)
			}
		}
	}
	t.Logf("%d questions, %d of them about a device that is wrong", questions, wrong)
}

// TestProverLarge is the same on sets of realistic size, with hardware full of whole
// rules, of guards over what a rule shares with others, and of pieces.
func TestProverLarge(t *testing.T) {
	steps := 150
	if testing.Short() {
		steps = 25
	}
	for _, f := range flowtest.Families() {
		const size = 400
		rng := rand.New(rand.NewPCG(uint64(f), 22))
		table := generated(f, size)
		spare := flowtest.Generate(f, 2*size, 9)[size:]
		base := append(guarded(table, size/2), narrowed(table, size/2)...)
		base = append(base, pieces(table, size/4)...)
		for i := range base {
			base[i].ID = flow.EntryID(i + 1)
		}
		x := &trial{table: table, entries: base, model: plainDevice}
		var p Prover
		wrong := 0
		for step := range steps {
			for range rng.IntN(3) {
				x.table = swapRule(rng, x.table, spare[rng.IntN(size)])
			}
			for range rng.IntN(3) {
				var how string
				if how, x.entries = vary(rng, x.table, slices.Clone(x.entries)); how == "split" {
					x.entries[len(x.entries)-1].ID = x.free()
				}
			}
			for range rng.IntN(40) { // most of what is wrong is taken out again
				var culprit interface{ Culprit() flow.EntryID }
				if !errors.As(p.Check(x.table, x.entries, x.model), &culprit) {
					break
				}
				x.entries = slices.DeleteFunc(slices.Clone(x.entries), func(e flow.Entry) bool { return e.ID == culprit.Culprit() })
				wrong++
			}
			if len(x.entries) < size/2 {
				x.entries = base
			}
			if err := p.agrees(x); err != nil {
				t.Fatalf("%v, step %d: %v", f, step, err)
			}
		}
		t.Logf("%v: %d entries taken out", f, wrong)
	}
}

// swapRule returns t with one rule, or none, replaced by another.
func swapRule(rng *rand.Rand, t *flow.Table, fresh flow.Rule) *flow.Table {
	s := flow.TableSpec{Generation: t.Generation() + 1, Default: t.Default(), Switch: t.Switch()}
	for i := range t.Len() {
		s.Rules = append(s.Rules, *t.Rule(i))
	}
	at := rng.IntN(len(s.Rules))
	fresh.Priority = s.Rules[at].Priority
	fresh.Actions = flow.Actions{output(flow.Port(1 + rng.IntN(4)))}
	switch rng.IntN(3) {
	case 0:
		s.Rules = slices.Delete(s.Rules, at, at+1)
	case 1:
		s.Rules[at] = fresh
	default:
		s.Rules = append(s.Rules, fresh)
	}
	if next, err := flow.NewTable(s); err == nil {
		return next
	}
	return t
}

// TestProverUnprovable goes from a question with an answer to one without, and back.
func TestProverUnprovable(t *testing.T) {
	table, entries := unsatisfiable(t)
	x := &trial{table: table, model: plainDevice}
	var p Prover
	for _, n := range []int{2, len(entries) / 2, len(entries), len(entries) - 1, 0, len(entries)} {
		x.entries = entries[:n]
		if err := p.agrees(x); err != nil {
			t.Fatalf("%d entries: %v", n, err)
		}
	}
	if len(p.known) != 1 {
		t.Errorf("one device, %d remembered", len(p.known))
	}
	for n := range 2 * remembered {
		m := anyDevice(device.Honoured)
		m.Name = fmt.Sprint(n)
		if err := p.Check(table, entries[:1], m); err == nil {
			t.Error("an entry without guards is right")
		}
	}
	if len(p.known) != remembered {
		t.Errorf("%d devices remembered", len(p.known))
	}
}

// crowd is a device with all rules of a table: most whole, some only as guards, and
// some pieces on top; entries are by priority of the rules, so that rules can come and go.
func crowd(rng *rand.Rand, t *flow.Table, count int) (out []flow.Entry) {
	for i := range t.Len() {
		out = append(out, standFor(rng, t.Rule(i)))
	}
	for n, e := range pieces(t, count) {
		e.ID, e.Priority = flow.EntryID(n+1), 1<<62
		out = append(out, e)
	}
	return out
}

// standFor is a rule in a device, or a guard for it.
func standFor(rng *rand.Rand, r *flow.Rule) flow.Entry {
	e := flow.Entry{ID: flow.EntryID(r.ID), Kind: flow.RuleEntry, Rule: r.ID, Priority: uint64(r.Priority), Match: r.Match, Actions: r.Actions}
	if rng.IntN(4) == 0 {
		e.Kind, e.Actions = flow.GuardEntry, nil
	}
	return e
}

// turnover is a table of half of the rules, a device that holds them, and what both
// are after n rules have gone and n others have come.
type turnover struct {
	old, want     *flow.Table
	before, after []flow.Entry
	kept          []flow.Entry
}

// newTurnover changes n of half of the rules given.
func newTurnover(rng *rand.Rand, rules []flow.Rule, n, count int) *turnover {
	var in, out, next []flow.Rule
	for i, r := range rules {
		r.Actions = flow.Actions{output(flow.Port(1 + i%4))}
		if i%2 == 0 {
			in = append(in, r)
		} else {
			out = append(out, r)
		}
	}
	x := &turnover{old: must(flow.NewTable(flow.TableSpec{Rules: in}))}
	x.before = crowd(rng, x.old, count)
	gone := map[flow.RuleID]bool{}
	for _, i := range rng.Perm(len(in))[:n] {
		gone[in[i].ID] = true
	}
	for i := range in {
		if !gone[in[i].ID] {
			next = append(next, in[i])
		}
	}
	x.after = slices.DeleteFunc(slices.Clone(x.before), func(e flow.Entry) bool { return gone[e.Rule] })
	for _, i := range rng.Perm(len(out))[:n] {
		next = append(next, out[i])
		x.after = append(x.after, standFor(rng, &out[i]))
	}
	x.want = must(flow.NewTable(flow.TableSpec{Rules: next}))
	x.after = sound(x.after, x.want)
	x.kept = sound(x.before, x.old, x.want)
	return x
}

// sound takes out of a device what is wrong under any of the tables, until nothing is.
func sound(entries []flow.Entry, tables ...*flow.Table) []flow.Entry {
	for wrong := map[flow.EntryID]bool{}; ; clear(wrong) {
		for _, t := range tables {
			c := newChecker(plainDevice)
			c.ask(t, entries)
			c.spare = -1 // any packet will do
			for i := range c.entries {
				if !c.entries[i].proved {
					if bad, unsure := c.check(int32(i)); bad != nil || unsure != nil {
						wrong[c.entries[i].ID] = true
					}
				}
			}
		}
		if len(wrong) == 0 {
			return entries
		}
		entries = slices.DeleteFunc(slices.Clone(entries), func(e flow.Entry) bool { return wrong[e.ID] })
	}
}

// BenchmarkProver changes rules of a table whose device is full, and asks what an
// agent asks of one change: about the plan, what it keeps under the new table and the
// old, the dump before the swap, and the dump after. What is kept has to be right
// under both, so a wide rule that comes or goes takes much out for a while: gone says
// how many entries on average. It reports processor time: of the question about the
// plan the median, the 99th of 100 and the slowest, and of all five the median.
func BenchmarkProver(b *testing.B) {
	for _, f := range flowtest.Families() {
		for _, size := range []struct{ rules, pieces, changed int }{{500, 12, 10}, {1000, 512, 10}, {10_000, 1000, 1}, {10_000, 1000, 10}} {
			b.Run(fmt.Sprintf("%v/rules=%d/changed=%d", f, size.rules, size.changed), func(b *testing.B) {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				rng := rand.New(rand.NewPCG(1, uint64(f)))
				rules := flowtest.Generate(f, 2*size.rules, 3)
				var plan, whole []time.Duration
				gone := 0
				for b.Loop() {
					x := newTurnover(rng, rules, size.changed, size.pieces)
					gone += len(x.before) - len(x.kept)
					dump := slices.Clone(x.after)
					rng.Shuffle(len(dump), func(i, j int) { dump[i], dump[j] = dump[j], dump[i] })
					first, all := time.Hour, time.Hour
					for range 3 { // the least of three, as others use this machine too
						var p Prover
						if err := p.Check(x.old, x.before, plainDevice); err != nil {
							b.Fatal(err)
						}
						runtime.GC()
						sum := time.Duration(0)
						for i, q := range []struct {
							t *flow.Table
							e []flow.Entry
						}{{x.want, x.after}, {x.want, x.kept}, {x.old, x.kept}, {x.old, x.kept}, {x.want, dump}} {
							start := threadTime()
							err := p.Check(q.t, q.e, plainDevice)
							took := threadTime() - start
							if err != nil {
								b.Fatal(err)
							}
							if sum += took; i == 0 {
								first = min(first, took)
							}
						}
						all = min(all, sum)
					}
					plan, whole = append(plan, first), append(whole, all)
				}
				slices.Sort(plan)
				slices.Sort(whole)
				us := func(d time.Duration) float64 { return float64(d.Microseconds()) }
				b.ReportMetric(us(plan[len(plan)/2]), "plan50-µs")
				b.ReportMetric(us(plan[len(plan)*99/100]), "plan99-µs")
				b.ReportMetric(us(plan[len(plan)-1]), "max-µs")
				b.ReportMetric(us(whole[len(whole)/2]), "change50-µs")
				b.ReportMetric(float64(gone)/float64(len(whole)), "gone")
				b.ReportMetric(0, "ns/op") // of the set up
			})
		}
	}
}
