package matcher

import (
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher/internal/kernel"
)

// How wide buckets should be. Wide buckets make few tables, narrow ones make short
// scans, and which is better depends on the rules: on the published sets the best
// limit was anything from 8 to 128, and the wrong one cost up to a factor of 2. So
// Compile builds the tables for each of limits, counts what looking up some keys
// would do, and keeps the cheapest by these prices. A quarter of the keys are of two
// rules, which mostly fall through to a late one.
//
// Prices are nanoseconds for each key, fitted to measurements on a Sapphire Rapids
// class machine; only their ratios matter. Building large tables takes long, so for them
// only the two limits are tried of which one was best, or within 5 % of it, for every set of
// 100,000: with many masks wide buckets, else narrow ones.
const (
	pricedRules = 32 << 10 // up to which all limits are tried
	pricedKeys  = 2 * kernel.Lanes

	probePrice  = 0.8 // of a table, per key
	bucketPrice = 4.0
	chunkPrice  = 2.5  // of each chunk after the first
	branchPrice = 18.0 // of a bucket that has another number of chunks than usual

	goProbePrice  = 4.0
	goBucketPrice = 8.0
	goRulePrice   = 2.0
)

// usualLimit is used where nothing is counted.
const usualLimit = 16

var (
	limits      = []int{8, 12, 16, 24, 32}
	largeLimits = []int{16, 128}
)

// price returns what a key costs, on average over keys.
func (e *engine) price(keys []flow.Key) float64 {
	var columns [kernel.Words]kernel.Column
	var best kernel.Best
	var found kernel.Found
	var probes, buckets, chunks, many, rules int
	var own int32
	reader := e.epochs.Enter(&own)
	defer reader.Leave()
	set := e.set.Load()
	for at := 0; at < len(keys); at += kernel.Lanes {
		batch := keys[at:min(at+kernel.Lanes, len(keys))]
		kernel.SpreadGo(batch, set.words, columns[:], &best, int32(e.base.Len()))
		for _, s := range set.tables {
			t := &s.Table
			n := kernel.ProbeGo(t, columns[:], &best, len(batch), &found)
			if n < 0 {
				break
			}
			probes += len(batch)
			buckets += n
			for _, head := range found.Head[:n] {
				size := t.Size(head)
				rules += size
				chunks += (size - 1) / kernel.Chunk
				if size > kernel.Chunk {
					many++
				}
			}
			kernel.ScanGo(t, batch, &best, &found, n)
		}
	}
	var sum float64
	if e.lane == PureGo {
		sum = goProbePrice*float64(probes) + goBucketPrice*float64(buckets) + goRulePrice*float64(rules)
	} else {
		sum = probePrice*float64(probes) + bucketPrice*float64(buckets) + chunkPrice*float64(chunks) +
			branchPrice*float64(min(many, buckets-many))
	}
	return sum / float64(len(keys))
}

// likelyKeys returns keys of the rules of t, each rule being as likely as another.
func likelyKeys(t *flow.Table, n int) []flow.Key {
	return drawKeys(n, t.Len(), func(i int) *flow.Match { return &t.Rule(i).Match })
}

// sampleKeys is likelyKeys for all rules that e ever had.
func (e *engine) sampleKeys(n int) []flow.Key {
	rules := e.base.Len() + 1 + len(*e.pages.Load())*pageRules
	return drawKeys(n, rules, func(i int) *flow.Match {
		if r := e.rule(int32(i)); r != nil { // else the number is not yet in use
			return &r.Match
		}
		return &e.base.Rule(i % (e.base.Len() + 1)).Match
	})
}

// drawKeys returns keys in the matches of random ones of that many rules; every fourth
// has its destination from the one before.
func drawKeys(n, rules int, match func(i int) *flow.Match) []flow.Key {
	rng := rand.New(rand.NewPCG(1, 2))
	keys := make([]flow.Key, n)
	for i := range keys {
		m := match(rng.IntN(rules))
		for w := range keys[i] {
			keys[i][w] = m.Value[w] | rng.Uint64()&^m.Mask[w]
		}
		if r := m.SrcPort; !r.Any() {
			keys[i].Set(flow.SrcPort, uint64(r.Lo)+rng.Uint64N(uint64(r.Hi-r.Lo)+1))
		}
		if r := m.DstPort; !r.Any() {
			keys[i].Set(flow.DstPort, uint64(r.Lo)+rng.Uint64N(uint64(r.Hi-r.Lo)+1))
		}
		if i%4 == 3 {
			for _, f := range []flow.Field{flow.DstHi, flow.DstLo, flow.DstPort} {
				keys[i].Set(f, keys[i-1].Get(f))
			}
		}
	}
	return keys
}
