package offload

import (
	"math/rand/v2"
	"runtime"
	"syscall"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// TestBoxes makes boxes around random keys of small universes, beginning large and
// beginning small, and tries every key: one in the box is won by the rule.
func TestBoxes(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	made := 0
	for _, u := range flowtest.Universes() {
		for range 60 {
			table := u.Table(rng, rng.IntN(40))
			var p Planner
			p.model = anyModel(t)
			if rng.IntN(2) == 0 {
				p.model.Ranges = false
				for i := range p.model.Fields {
					p.model.Fields[i] = min(p.model.Fields[i], device.How(2+rng.IntN(2)))
				}
			}
			p.begin(table)
			for range 20 {
				k := u.Key(rng)
				m := p.members[table.Lookup(&k)]
				if normal, _ := switches(m.rule.Actions); normal || p.kinds(m).missed {
					continue
				}
				p.mostCuts = rng.IntN(20)
				var flows []*hot
				for range rng.IntN(5) {
					other := u.Key(rng)
					flows = append(flows, &hot{key: &other, packets: 1})
				}
				box, ok := p.boxOf(m, p.units(m, 0)[0], &k, flows)
				if !ok {
					continue
				}
				made++
				if !box.Matches(&k) {
					t.Fatalf("%s: %+v does not hold %v", u.Name, box, k)
				}
				for i := range u.Keys {
					if !box.Matches(&u.Keys[i]) || p.kinds(m).missed {
						continue
					}
					if missed := anyMissed(&p.model, &u.Keys[i]); !missed && table.Lookup(&u.Keys[i]) != int(m.place[after]) {
						t.Fatalf("%s: %v is in the box of rule %d, and rule %d wins it", u.Name, u.Keys[i], m.place[after], table.Lookup(&u.Keys[i]))
					}
				}
			}
		}
	}
	if made < 1000 {
		t.Errorf("%d boxes; the test shows little", made)
	}
}

func anyModel(tb testing.TB) device.Model {
	m, err := device.Load("softnic")
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

func anyMissed(m *device.Model, k *flow.Key) bool {
	for i := range m.Missed {
		if m.Missed[i].Matches(k) {
			return true
		}
	}
	return false
}

// BenchmarkPiece makes one piece after another around packets of sets of 100,000
// rules, of which nothing is known but the index.
func BenchmarkPiece(b *testing.B) {
	for _, f := range flowtest.Families() {
		b.Run(f.String(), func(b *testing.B) {
			rules := flowtest.Generate(f, 100_000, 1)
			for i := range rules {
				rules[i].Actions = flow.Actions{{Op: flow.Drop}}
			}
			table := flowtest.NewTable(rules, flow.Actions{{Op: flow.Drop}})
			keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 20_000, Seed: 1})
			winners := flowtest.Winners(rules, keys)
			var p Planner
			p.model = anyModel(b)
			p.begin(table)
			units := make([]*unit, len(keys))
			for i := range keys {
				m := p.members[winners[i]]
				units[i] = p.newUnit(m.rule, m.rule.Match, m.rule.Actions, nil)
				units[i].crowded = few
			}
			made := 0
			piece := func(i int) {
				m, u := p.members[winners[i]], units[i]
				if _, ok := p.boxOf(m, u, &keys[i], nil); ok {
					made++
				}
			}
			for i := range 1000 { // crowds get their own index
				piece(i)
			}
			n := 0
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			began := processorTime(b)
			for b.Loop() {
				piece(n % len(keys))
				n++
			}
			b.ReportMetric(float64(processorTime(b)-began)/float64(n), "cpu-ns/op")
			b.ReportMetric(float64(made)/float64(n+1000), "made")
		})
	}
}

// processorTime returns the processor time that this thread has used.
func processorTime(tb testing.TB) int64 {
	const thread = 1
	var u syscall.Rusage
	if err := syscall.Getrusage(thread, &u); err != nil {
		tb.Fatal(err)
	}
	return u.Utime.Nano() + u.Stime.Nano()
}
