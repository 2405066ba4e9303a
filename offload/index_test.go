package offload

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestIndex compares the index with Match.Overlaps and Match.Covers on every rule,
// for rules over every field, added at once and bit by bit, and for matches that are
// no rule of the table. Every second universe's rules crowd on few prefixes.
func TestIndex(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, u := range flowtest.Universes() {
		for _, n := range []int{0, 7, 60, 300, 2000} {
			table := u.Table(rng, rng.IntN(n+1))
			var p Planner
			p.begin(table)
			x := p.index
			if rng.IntN(2) == 0 {
				x = newIndex(nil, 1)
				for rest := p.members; len(rest) > 0; {
					some := 1 + rng.IntN(min(100, len(rest)))
					x.add(rest[:some])
					rest = rest[some:]
				}
			}
			for range 60 {
				m := u.Match(rng)
				var want, got []int32
				for i := range int32(len(p.members)) {
					if p.members[i].rule.Match.Overlaps(&m) {
						want = append(want, i)
					}
				}
				x.each(&m, after, int32(len(p.members)), func(q *member) bool { got = append(got, q.place[after]); return true })
				if slices.Sort(got); !slices.Equal(got, want) {
					t.Fatalf("%s: %+v overlaps %v, want %v", u.Name, m, got, want)
				}
				limit := rng.Int32N(int32(len(p.members)) + 1)
				at := slices.IndexFunc(p.members[:limit], func(q *member) bool { return q.rule.Match.Covers(&m) })
				if q := x.covering(&m, after, limit); at < 0 && q != nil || at >= 0 && q != p.members[at] {
					t.Fatalf("%s: %+v is covered by %v, want %d", u.Name, m, q, at)
				}
			}
		}
	}
}

// TestBatches checks that no two operations of a batch overlap, that operations
// that overlap keep their order, and that none is lost.
func TestBatches(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, u := range flowtest.Universes() {
		for range 4 {
			ops := make([]Op, rng.IntN(600))
			for i := range ops {
				ops[i] = Op{Kind: OpKind(i * 3 / len(ops) % 2), Entry: flow.Entry{ID: flow.EntryID(i), Match: u.Match(rng)}}
			}
			at := map[flow.EntryID]int{}
			for n, batch := range batches(ops) {
				for i := range batch {
					at[batch[i].Entry.ID] = n
					if batch[i].Kind != batch[0].Kind {
						t.Fatal("a batch adds and removes")
					}
				}
			}
			if len(at) != len(ops) {
				t.Fatalf("%d of %d operations are in a batch", len(at), len(ops))
			}
			for i := range ops {
				for j := range i {
					if ops[i].Entry.Match.Overlaps(&ops[j].Entry.Match) && at[flow.EntryID(j)] >= at[flow.EntryID(i)] {
						t.Fatalf("operation %d, in batch %d, may rely on %d, in batch %d", i, at[flow.EntryID(i)], j, at[flow.EntryID(j)])
					}
				}
			}
		}
	}
}

// TestLevels checks that hardware asks entries as the table asks rules, guards
// right after their rules, pieces and the guards of stations first of all.
func TestLevels(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	rule := func() flow.Rule {
		return flow.Rule{ID: flow.RuleID(rng.Uint64()), Tier: flow.Tier(rng.IntN(6)), Priority: []int32{0, 1, 7, flow.MaxPriority}[rng.IntN(4)]}
	}
	last := flow.Rule{Tier: flow.TierDefault, Priority: -1}
	for range 100_000 {
		a, b := rule(), rule()
		if a.Before(&b) > 0 {
			a, b = b, a
		}
		high, low := ruleLevel(&a), ruleLevel(&b)
		if low > high || guardLevel(&a) >= high || low == high && (a.Tier != b.Tier || a.Priority != b.Priority) {
			t.Fatalf("%+v at %x, then %+v at %x", a, high, b, low)
		}
		if low < high && guardLevel(&a) <= low {
			t.Fatalf("the guard of %+v at %x is not above %+v at %x", a, guardLevel(&a), b, low)
		}
		if guardLevel(&b) <= ruleLevel(&last) || pieceLevel <= high || stationGuard <= pieceLevel {
			t.Fatalf("bands overlap: default %x, %x, %x, %x, %x", ruleLevel(&last), guardLevel(&b), high, pieceLevel, stationGuard)
		}
	}
}

// TestCookies checks that every part of an entry shows in its ID, and our mark too.
func TestCookies(t *testing.T) {
	base := sealed(flow.Entry{Kind: flow.RuleEntry, Rule: 1, Priority: 2, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{1}}}})
	if !genuine(&base) || Ours(base.ID^1<<63) {
		t.Errorf("ID %x", base.ID)
	}
	for i, change := range []func(*flow.Entry){
		func(e *flow.Entry) { e.Kind = flow.PieceEntry }, func(e *flow.Entry) { e.Rule = 3 }, func(e *flow.Entry) { e.Priority++ },
		func(e *flow.Entry) { e.Match.Pin(flow.TTL, 0, 1) }, func(e *flow.Entry) { e.Match.SetPorts(flow.DstPort, 1, 2) },
		func(e *flow.Entry) { e.Match.SetPorts(flow.SrcPort, 1, 2) }, func(e *flow.Entry) { e.Actions = nil },
		func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}} },
		func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Mirror, Ports: []flow.Port{1}}} },
	} {
		e := base
		change(&e)
		if genuine(&e) {
			t.Errorf("change %d keeps the ID", i)
		}
	}
}
