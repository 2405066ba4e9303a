package matcher

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
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
		set := c.engine.Load().set.Load()
		if len(set.tables) > maxTables {
			t.Errorf("%s: %d tables", name, len(set.tables))
		}
		if !slices.IsSortedFunc(set.tables, func(a, b *subtable) int { return int(a.Best - b.Best) }) {
			t.Errorf("%s: tables are not in the order of their best rules", name)
		}
		places := make([]int, tab.Len())
		for i, s := range set.tables {
			best := int32(kernel.None)
			for _, head := range s.Heads {
				if head == 0 {
					continue
				}
				var order, rules []int32
				s.Rules(head, func(p, r int32) bool { order, rules = append(order, p), append(rules, r); return true })
				if !slices.IsSorted(order) || !slices.IsSorted(rules) {
					t.Errorf("%s: rules %v are not in table order", name, rules)
				}
				best = min(best, order[0])
				for _, r := range rules {
					places[r]++
					if s.Find(&tab.Rule(int(r)).Match.Value) != head {
						t.Errorf("%s: rule %d is not where its value leads", name, r)
					}
				}
			}
			if best != s.Best {
				t.Errorf("%s: table %d has best %d, wants %d", name, i, s.Best, best)
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
	if a, b := Compile(tab), Compile(tab); !reflect.DeepEqual(a.fast.Load(), b.fast.Load()) || !reflect.DeepEqual(a.engine.Load().set.Load(), b.engine.Load().set.Load()) {
		t.Error("two compilations of one table differ")
	}
}
