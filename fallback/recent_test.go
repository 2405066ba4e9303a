package fallback

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// judged asks a worker for the rules of keys that came in by its port.
func judged(w *worker, p *program, keys []flow.Key) []int32 {
	w.batch.Keys = w.batch.Keys[:len(keys)]
	for i, k := range keys {
		k.Set(flow.InPort, uint64(w.port))
		w.batch.Keys[i] = k
	}
	w.classify(p)
	return w.batch.Rules[:len(keys)]
}

// TestRecent has one worker judge flows that come again and again, and others that differ from
// them in a bit, by one table after the other, and compares with what tables mean.
func TestRecent(t *testing.T) {
	seed := flowtest.Seed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	w, _ := alone(t, flowtest.NewTable(nil, nil))
	var ms meters
	found, idle := 0, 0
	for _, family := range flowtest.Families() {
		for _, n := range []int{fewRules / 2, 2 * fewRules, 1000} {
			rules := flowtest.Generate(family, n, rng.Uint64())
			pool := flowtest.Trace(rules, flowtest.Traffic{Packets: 500, Seed: rng.Uint64()})
			table := flowtest.NewTable(rules, nil)
			p := compile(table, &ms)
			if rng.IntN(4) == 0 {
				w.recent.stamp = math.MaxUint32
			}
			for range 40 {
				keys := make([]flow.Key, 1+rng.IntN(batchSize))
				for i := range keys {
					keys[i] = pool[rng.IntN(len(pool))]
					if rng.IntN(3) == 0 {
						keys[i][rng.IntN(len(keys[i]))] ^= 1 << rng.IntN(64)
					}
				}
				for i, rule := range judged(w, p, keys) {
					if want := table.Lookup(&w.batch.Keys[i]); int(rule) != want {
						t.Fatalf("%v, %d rules: rule %d, want %d for %v", family, n, rule, want, w.batch.Keys[i])
					}
				}
			}
			if found += w.recent.found; w.recent.words == 0 {
				idle++
			}
		}
	}
	if found == 0 || idle == 0 {
		t.Errorf("%d found, %d tables without", found, idle)
	}
}

// TestRecentNarrows: flows come to be known under a table that looks at fewer words than the one
// before, in whose places there is more.
func TestRecentNarrows(t *testing.T) {
	narrow := flowtest.Generate(flowtest.ACL, 2*fewRules, 1)
	var m flow.Match
	m.Pin(flow.EthType, flow.EthIPv6, 0xffff)
	m.Pin(flow.SrcHi, 1, flow.SrcHi.Max())
	m.Pin(flow.DstHi, 1, flow.DstHi.Max())
	wide := append(slices.Clone(narrow), flow.Rule{ID: 1 << 60, Priority: 1 << 30, Match: m, Actions: flow.Actions{{Op: flow.Drop}}})
	w, _ := alone(t, flowtest.NewTable(nil, nil))
	var ms meters
	keys := flowtest.Trace(narrow, flowtest.Traffic{Packets: batchSize, Seed: 1})
	for i := range keys {
		keys[i].Set(flow.SrcHi, 5) // what only the wide table looks at
	}
	was := 0
	for _, rules := range [][]flow.Rule{wide, narrow} {
		p := compile(flowtest.NewTable(rules, nil), &ms)
		if was == 0 { // in all places
			others := slices.Clone(keys)
			for n := range uint64(3 * recentSets) { // fewer than it gives up after
				others[n%batchSize].Set(flow.SrcLo, n)
				if n%batchSize == batchSize-1 {
					judged(w, p, others)
				}
			}
		}
		judged(w, p, keys)
		first, words := w.recent.found, w.recent.words
		judged(w, p, keys)
		if found := w.recent.found - first; found < batchSize*9/10 || words == was { // three may share a set
			t.Errorf("%d words, %d before: %d of %d flows were known", words, was, found, batchSize)
		}
		was = words
	}
}

// TestRecentRests: where no flow comes again the classifier is asked at once, until it is time
// to look anew.
func TestRecentRests(t *testing.T) {
	rules := flowtest.Generate(flowtest.ACL, 2*fewRules, 1)
	w, _ := alone(t, flowtest.NewTable(rules, nil))
	p, keys := w.d.program.Load().program, flowtest.Trace(rules, flowtest.Traffic{Packets: batchSize, Seed: 1})
	looked, next := 0, uint64(0)
	for range (recentLooks + recentRest) / batchSize {
		for i := range keys {
			next++
			keys[i].Set(flow.SrcLo, next)
		}
		before := w.recent.looked
		judged(w, p, keys)
		if w.recent.looked > before {
			looked += batchSize
		}
	}
	if looked != recentLooks {
		t.Errorf("looked for %d of %d flows, want %d", looked, next, recentLooks)
	}
	for range 2 * recentLooks / batchSize { // the same again and again
		judged(w, p, keys)
	}
	if w.recent.rest > 0 || 2*w.recent.found < w.recent.looked {
		t.Errorf("%d of %d found, rests for %d", w.recent.found, w.recent.looked, w.recent.rest)
	}
}

// TestRecentLetsGo: a worker that judges no more than a few frames after a change of tables keeps
// nothing of the one before.
func TestRecentLetsGo(t *testing.T) {
	rules := flowtest.Generate(flowtest.ACL, 2*fewRules, 1)
	table := flowtest.NewTable(rules, nil)
	w, frames := alone(t, table)
	w.judge(frames)
	if w.recent.program != w.d.program.Load().program {
		t.Fatal("the worker remembers nothing")
	}
	if err := w.d.Swap(flowtest.NewTable(rules[:fewRules], nil)); err != nil {
		t.Fatal(err)
	}
	w.judge(frames[:recentBatch-1])
	if p := w.recent.program; p != nil && p.table == table {
		t.Error("the table before is kept")
	}
}
