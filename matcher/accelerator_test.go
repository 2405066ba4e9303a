package matcher

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// forms makes each kind of accelerator whatever the number of rules, nil where one
// cannot be.
var forms = []struct {
	name string
	make func(t *flow.Table, lane Lane) accelerator
}{
	{"vectors", func(t *flow.Table, lane Lane) accelerator {
		if c := classifySmall(t); c != nil {
			return asVectors(c, lane)
		}
		return nil
	}},
	{"finals", func(t *flow.Table, lane Lane) accelerator {
		if c := classifySmall(t); c != nil {
			if f := asFinals(c, t.Len(), lane); f != nil {
				return f
			}
		}
		return nil
	}},
	{"blocks", func(t *flow.Table, lane Lane) accelerator {
		a, _ := chooseBlocks(t)
		if b := newBlocks(t, a, lane); b != nil {
			return b
		}
		return nil
	}},
}

// checkForms checks all forms of t in all lanes on keys, in batches of random sizes, and
// counts those that there are.
func checkForms(t *testing.T, rng *rand.Rand, tab *flow.Table, keys []flow.Key, made map[string]int) {
	t.Helper()
	answers := make([]int32, 256)
	for _, lane := range Lanes() {
		if !hasVectors(lane) {
			continue
		}
		for _, f := range forms {
			a := f.make(tab, lane)
			if a == nil {
				continue
			}
			made[f.name]++
			for left := keys; len(left) > 0; {
				n := min(len(left), 1+rng.IntN(256))
				a.lookup(left[:n], answers[:n])
				for i := range n {
					if want := tab.Lookup(&left[i]); int(answers[i]) != want {
						t.Fatalf("lane %s: %s of %d rules say rule %d for key %x, the definition %d", lane, f.name, tab.Len(), answers[i], left[i], want)
					}
				}
				left = left[n:]
			}
		}
	}
}

// TestFormsSmall tries every key of small universes.
func TestFormsSmall(t *testing.T) {
	made := map[string]int{}
	rounds := 60
	if testing.Short() { // as under the race detector
		rounds = 6
	}
	for _, u := range flowtest.Universes() {
		rng := rand.New(rand.NewPCG(1, 2))
		for range rounds {
			checkForms(t, rng, u.Table(rng, 1+rng.IntN(80)), u.Keys, made)
		}
	}
	for _, f := range forms {
		t.Logf("%s: %d", f.name, made[f.name])
		if made[f.name] < rounds && hasVectors(Lanes()[0]) {
			t.Errorf("%s were made only %d times", f.name, made[f.name])
		}
	}
}

// TestFormsLarge tries keys of generated sets, inside the rules and mixed from two keys.
func TestFormsLarge(t *testing.T) {
	made := map[string]int{}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	sizes := []int{400, 1023, 1024, 9000}
	if testing.Short() {
		sizes = sizes[1:3]
	}
	for _, family := range flowtest.Families() {
		for _, n := range sizes {
			rules := flowtest.Generate(family, n, seed)
			keys := flowtest.Trace(rules, flowtest.Traffic{Packets: 1000, Seed: seed, Mix: 0.2})
			for range 300 {
				a, b := keys[rng.IntN(1000)], keys[rng.IntN(1000)]
				a.Set(flow.DstLo, b.Get(flow.DstLo))
				a.Set(flow.DstPort, b.Get(flow.DstPort))
				a.Set(flow.EthType, a.Get(flow.EthType)+uint64(rng.IntN(10)/9))
				keys = append(keys, a)
			}
			checkForms(t, rng, flowtest.NewTable(rules, nil), keys, made)
		}
	}
	t.Log(made)
}

func TestCacheSize(t *testing.T) {
	for text, want := range map[string]int{"2048K\n": 2 << 20, "512K": 512 << 10} {
		if n, err := cacheSize([]byte(text)); n != want || err != nil {
			t.Errorf("%q is %d bytes, %v", text, n, err)
		}
	}
	if n, err := cacheSize([]byte("many")); err == nil {
		t.Errorf("many are %d bytes", n)
	}
	if n := secondLevelCache(); n < 64<<10 {
		t.Errorf("the second-level cache has %d bytes", n)
	}
}

// TestBounds checks the memory of accelerators for caches of usual sizes, that large ones
// are left out, that a larger cache never costs a table its accelerator, and that none is where
// it is not wanted.
func TestBounds(t *testing.T) {
	sizes := []int{1000, 10_000, 20_000}
	if testing.Short() { // as under the race detector
		sizes = []int{1000, 2000, 20_000}
	}
	for _, family := range flowtest.Families() {
		for _, n := range sizes {
			tab := flowtest.NewTable(flowtest.Generate(family, n, 1), nil)
			for _, lane := range Lanes() {
				before := false // with a smaller cache
				for _, cache := range []int{512 << 10, 2 << 20} {
					a := newAccelerator(tab, lane, cache)
					switch {
					case a == nil:
						if before {
							t.Errorf("%s: %d rules are accelerated with a smaller cache than %d bytes, but not with that", family, n, cache)
						}
					case n > maxBlockRules || !hasVectors(lane):
						t.Errorf("%s: %d rules are accelerated in lane %s", family, n, lane)
					case n <= maxVectorRules && a.bytes() > min(maxSmallBytes, smallCaches*cache) || a.bytes() > maxBlockBytes:
						t.Errorf("%s: the accelerator of %d rules has %d bytes, for a cache of %d", family, n, a.bytes(), cache)
					}
					before = a != nil
				}
			}
			if c := Compile(tab, SaveMemory()); c.fast.Load() != nil {
				t.Errorf("%s: there is an accelerator although memory is saved", family)
			}
		}
	}
}

// TestLookupAllocates checks that no form allocates.
func TestLookupAllocates(t *testing.T) {
	keys := make([]flow.Key, 300)
	answers := make([]int32, len(keys))
	u := flowtest.Universes()[1]
	rng := rand.New(rand.NewPCG(3, 4))
	for range 20 {
		tab := u.Table(rng, 50)
		for _, f := range forms {
			for _, lane := range Lanes() {
				if !hasVectors(lane) {
					continue
				}
				a := f.make(tab, lane)
				if a == nil {
					continue
				}
				for _, n := range []int{7, 256} {
					if allocs := testing.AllocsPerRun(10, func() { a.lookup(keys[:n], answers[:n]) }); allocs != 0 {
						t.Errorf("%s in lane %s allocate %v times for %d keys", f.name, lane, allocs, n)
					}
				}
			}
		}
	}
}
