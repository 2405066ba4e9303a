package flowtest

import (
	"math"
	"math/rand/v2"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Traffic says what packets a trace has.
type Traffic struct {
	Packets int
	Seed    uint64

	// Zipf is the exponent of how popular rules are: the k-th most popular one has
	// 1/k^Zipf of the packets of the first. Which rule is how popular is random.
	// Zero makes all alike.
	Zipf float64

	// Mix is the share of packets, 0 … 1, that the last rule answers because no
	// other matches.
	Mix float64
}

// Trace returns the keys of packets for rules. Each packet is a random one of those
// that some rule matches, which need not be the rule that wins; see [Winners]. Keys
// are of IPv4 packets as ClassBench counts them, untagged, with zero for
// everything but the 5-tuple, eth_type and the flags ip and l4, unless the rule
// wants otherwise. Those of protocols without ports have no l4. Cost: about 0.3 µs
// for each packet, and 20 for those that Mix asks for.
func Trace(rules []flow.Rule, t Traffic) []flow.Key {
	rng := rand.New(rand.NewPCG(t.Seed, 3))
	pick := popularity(rng, len(rules), t.Zipf)
	last := len(rules) - 1
	find := newIndex(rules).finder()
	keys := make([]flow.Key, t.Packets)
	for i := range keys {
		if rng.Float64() >= t.Mix {
			keys[i] = inside(rng, &rules[pick()].Match)
			continue
		}
		for try := 0; ; try++ {
			keys[i] = inside(rng, &rules[last].Match)
			if try == 1000 || find(&keys[i]) == last {
				break
			}
		}
	}
	return keys
}

// popularity returns a function that draws one of n rules.
func popularity(rng *rand.Rand, n int, s float64) func() int {
	order := rng.Perm(n)
	sum, sums := 0.0, make([]float64, n)
	for k := range sums {
		sum += math.Pow(float64(k+1), -s)
		sums[k] = sum
	}
	return func() int {
		k, _ := slices.BinarySearch(sums, rng.Float64()*sum)
		return order[min(k, n-1)]
	}
}

// inside returns a random key that m matches.
func inside(rng *rand.Rand, m *flow.Match) flow.Key {
	var k flow.Key
	k.Set(flow.EthType, flow.EthIPv4)
	k.Set(flow.SrcLo, uint64(rng.Uint32()))
	k.Set(flow.DstLo, uint64(rng.Uint32()))
	k.Set(flow.Proto, []uint64{flow.ProtoTCP, flow.ProtoTCP, flow.ProtoUDP}[rng.IntN(3)])
	k.Set(flow.Flags, flow.FlagIP)
	if hasPorts(k.Get(flow.Proto)&^m.Mask.Get(flow.Proto) | m.Value.Get(flow.Proto)) {
		k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
		k.Set(flow.SrcPort, rng.Uint64N(1<<16))
		k.Set(flow.DstPort, rng.Uint64N(1<<16))
	}
	for w := range k {
		k[w] = k[w]&^m.Mask[w] | m.Value[w]
	}
	within := func(f flow.Field, r flow.PortRange) {
		if !r.Any() {
			k.Set(f, uint64(r.Lo)+rng.Uint64N(uint64(r.Hi-r.Lo)+1))
		}
	}
	within(flow.SrcPort, m.SrcPort)
	within(flow.DstPort, m.DstPort)
	return k
}

func hasPorts(proto uint64) bool {
	return proto == flow.ProtoTCP || proto == flow.ProtoUDP || proto == flow.ProtoSCTP
}
