package flowtest

import (
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Stats says what makes a rule list easy or hard for classifiers and NICs.
type Stats struct {
	Rules int

	// Overlaps is the number of pairs of rules that share a key, for each rule.
	Overlaps float64

	// ConflictsP50 and ConflictsP99 are quantiles over rules of how many better
	// rules share a key with a rule and act differently: what a device must ask
	// before the rule. Every rule is given one of two actions at random; the
	// quantiles are means over 16 such assignments.
	ConflictsP50, ConflictsP99 float64

	// Masks is the number of different masks, where a port counts as any, masked or
	// a range: how many hash tables a classifier needs that merges none.
	Masks int

	// Ranges is the share of rules with a port range that is no single port.
	Ranges float64

	// Expansion is how many ternary entries a rule takes on average when port
	// ranges are written as prefixes.
	Expansion float64
}

// Measure returns the statistics of rules, which are in the order they are asked.
// seed decides which actions each rule has. Cost: 0.1 to 0.5 s with
// 10,000 rules of the ClassBench kind, most of it for finding the overlaps.
func Measure(rules []flow.Rule, seed uint64) Stats {
	rng := rand.New(rand.NewPCG(seed, 2))
	actions := make([]uint16, len(rules)) // bit a is the action in assignment a
	for i := range actions {
		actions[i] = uint16(rng.Uint32())
	}
	conflicts := make([][16]int32, len(rules))
	pairs := 0
	Overlaps(rules, func(i, j int) {
		pairs++
		differ := actions[i] ^ actions[j]
		for a := range conflicts[j] {
			conflicts[j][a] += int32(differ >> a & 1)
		}
	})
	var p50, p99 float64
	sorted := make([]int32, len(rules))
	for a := range 16 {
		for i := range conflicts {
			sorted[i] = conflicts[i][a]
		}
		slices.Sort(sorted)
		p50 += float64(quantile(sorted, 0.50)) / 16
		p99 += float64(quantile(sorted, 0.99)) / 16
	}
	type kind struct {
		mask     flow.Key
		src, dst bool
	}
	masks := map[kind]bool{}
	ranges, entries := 0, 0
	for i := range rules {
		m := &rules[i].Match
		masks[kind{m.Mask, m.SrcPort.Any(), m.DstPort.Any()}] = true
		if !m.SrcPort.Any() || !m.DstPort.Any() {
			ranges++
		}
		entries += prefixes(m.SrcPort) * prefixes(m.DstPort)
	}
	n := float64(max(1, len(rules)))
	return Stats{
		Rules: len(rules), Overlaps: float64(pairs) / n,
		ConflictsP50: p50, ConflictsP99: p99,
		Masks: len(masks), Ranges: float64(ranges) / n, Expansion: float64(entries) / n,
	}
}

func quantile(sorted []int32, q float64) int32 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[int(q*float64(len(sorted)-1))]
}

// prefixes returns how many prefixes a range of ports is made of.
func prefixes(r flow.PortRange) int {
	if r.Any() {
		return 1
	}
	n := 0
	for lo, hi := uint32(r.Lo), uint32(r.Hi); lo <= hi; n++ {
		size := uint32(1) << min(16, bits.TrailingZeros32(lo)) // the largest block that starts at lo
		for lo+size-1 > hi {
			size >>= 1
		}
		lo += size
	}
	return n
}
