package matcher

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// hostile returns rules made to need a table each: random masks over all words.
func hostile(n int) *flow.Table {
	rng := rand.New(rand.NewPCG(1, 2))
	rules := make([]flow.Rule, n)
	for i := range rules {
		m := &rules[i].Match
		for w := range m.Mask {
			m.Mask[w] = rng.Uint64() | rng.Uint64()
			m.Value[w] = rng.Uint64() & m.Mask[w]
		}
		m.SetPorts(flow.SrcPort, 0, 0xffff)
		m.SetPorts(flow.DstPort, 0, 0xffff)
		rules[i].ID = flow.RuleID(i + 1)
		rules[i].Priority = int32(n - i)
		rules[i].Actions = flow.Actions{{Op: flow.Drop}}
	}
	return flowtest.NewTable(rules, nil)
}

// TestInvariants checks what the essay in build.go promises.
func TestInvariants(t *testing.T) {
	tables := map[string]*flow.Table{"hostile": hostile(2000), "empty": flowtest.NewTable(nil, nil)}
	for _, f := range flowtest.Families() {
		tables[f.String()] = flowtest.NewTable(flowtest.Generate(f, 2000, 1), nil)
	}
	for name, tab := range tables {
		c := Compile(tab)
		if len(c.tables) > maxTables+1 { // one more is the scan of what has no other place
			t.Errorf("%s: %d tables", name, len(c.tables))
		}
		if !slices.IsSortedFunc(c.tables, func(a, b subtable) int { return int(a.best - b.best) }) {
			t.Errorf("%s: tables are not in the order of their best rules", name)
		}
		places := make([]int, tab.Len())
		for i := range c.tables {
			s := &c.tables[i]
			used, best := 0, int32(tab.Len())
			for _, slot := range s.slots {
				if slot.count == 0 {
					continue
				}
				used++
				rows := c.rule[slot.start : slot.start+slot.count]
				if !slices.IsSorted(rows) {
					t.Errorf("%s: rows %v are not in table order", name, rows)
				}
				best = min(best, rows[0])
				for _, r := range rows {
					places[r]++
					if s.find(&tab.Rule(int(r)).Match.Value) != slot {
						t.Errorf("%s: rule %d is not where its value leads", name, r)
					}
				}
			}
			if best != s.best || 2*used > len(s.slots) {
				t.Errorf("%s: table %d has best %d, wants %d; %d of %d slots used", name, i, s.best, best, used, len(s.slots))
			}
		}
		for r, n := range places {
			if n != 1 {
				t.Errorf("%s: rule %d is in %d places", name, r, n)
			}
		}
	}
}

// TestRepeatable checks that equal tables make equal classifiers.
func TestRepeatable(t *testing.T) {
	tab := flowtest.NewTable(flowtest.Generate(flowtest.IPC, 1000, 1), nil)
	a, b := Compile(tab), Compile(tab)
	if !slices.Equal(a.rule, b.rule) || !slices.Equal(a.rows, b.rows) {
		t.Error("two compilations of one table differ")
	}
}
