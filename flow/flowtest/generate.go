package flowtest

import (
	"cmp"
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Generate returns n rules of a family in the order they are asked; the last one
// matches every IPv4 packet. The same seed gives the same rules. Rules look at the
// IPv4 5-tuple and, as the contract's implications say, at eth_type and the flags
// ip and l4. Each acts in one of two ways, normal or drop; the last one drops. Cost:
// about 3 µs for each rule.
func Generate(f Family, n int, seed uint64) []flow.Rule {
	if n < 1 {
		return nil
	}
	g := generator{plan: &plans[f], rng: rand.New(rand.NewPCG(seed, uint64(f))), seen: map[flow.Match]bool{}}
	g.layOut(n)
	var all flow.Match
	all.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	g.seen[all] = true
	var matches []flow.Match
	for i, count := range g.counts(n - 1) {
		matches = append(matches, g.section(&g.plan.sections[i], count)...)
	}
	matches = append(matches, all)
	set := fmt.Sprintf("%s-%d-%d", f, n, seed)
	rules := make([]flow.Rule, n)
	for i := range rules {
		name := fmt.Sprintf("r%d", i)
		op := flow.Drop
		if g.rng.IntN(2) == 0 && i < n-1 {
			op = flow.Normal
		}
		rules[i] = flow.Rule{ID: flow.NewRuleID(set, name), Name: set + "/" + name, Tier: flow.TierTenant, Priority: int32(n - i),
			Match: matches[i], Actions: flow.Actions{{Op: op}}}
	}
	return rules
}

// generator is one run of Generate.
type generator struct {
	plan  *plan
	rng   *rand.Rand
	talks [][2]uint32 // conversations: the first address of either site
	seen  map[flow.Match]bool
}

// layOut chooses the sites and who talks to whom for n rules.
func (g *generator) layOut(n int) {
	count := max(1, int(g.plan.talks*math.Pow(float64(n), g.plan.growth)))
	src, dst := g.spread(count), g.spread(count)
	for i := range count {
		site := func(u float64) uint32 { return uint32(u*(1<<32)) >> (32 - g.plan.site) << (32 - g.plan.site) }
		g.talks = append(g.talks, [2]uint32{site(src[i]), site(dst[i])})
	}
}

// counts returns how many rules each section has, n in all.
func (g *generator) counts(n int) []int {
	counts := make([]int, len(g.plan.sections))
	main, left := g.plan.main(), n
	for i, s := range g.plan.sections {
		if i != main {
			counts[i] = min(left, int(math.Round(s.share*float64(n)+s.perTen*math.Log10(float64(n)+1))))
			left -= counts[i]
		}
	}
	counts[main] = left
	return counts
}

// section returns n different matches, the most specific first.
func (g *generator) section(s *section, n int) []flow.Match {
	src, dst, svc, who := g.spread(n), g.spread(n), g.spread(n), g.spread(n)
	out := make([]flow.Match, 0, n)
	for i := range n {
		srcLen, dstLen, sv := s.src.at(src[i]), s.dst.at(dst[i]), at(s.services, svc[i])
		var m flow.Match
		for try := 0; ; try++ {
			m = g.match(int(who[i]*float64(len(g.talks))), srcLen, dstLen, sv)
			if !g.seen[m] {
				break
			}
			who[i] = g.rng.Float64()
			if try > 20 { // hardly any other of this shape is left
				from := s
				if try > 200 {
					from = &g.plan.sections[g.plan.main()]
				}
				srcLen, dstLen, sv = from.src.at(g.rng.Float64()), from.dst.at(g.rng.Float64()), at(from.services, g.rng.Float64())
			}
		}
		g.seen[m] = true
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b flow.Match) int { return cmp.Compare(volume(&a), volume(&b)) })
	return out
}

// spread returns n numbers from 0 to 1 in a random order, one from each n-th of the
// way: sets of different seeds then differ in which rules they have, not in how
// many of each kind.
func (g *generator) spread(n int) []float64 {
	out := make([]float64, n)
	for i, p := range g.rng.Perm(n) {
		out[i] = (float64(p) + g.rng.Float64()) / float64(n)
	}
	return out
}

// match returns a random match of a shape between the sites of a conversation.
func (g *generator) match(talk, srcLen, dstLen int, s service) flow.Match {
	var m flow.Match
	m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	for side, length := range [2]int{srcLen, dstLen} {
		address := uint64(g.talks[talk][side]) + g.rng.Uint64N(uint64(g.plan.hosts))
		mask := uint64(0xffffffff)>>length ^ 0xffffffff
		m.Pin([2]flow.Field{flow.SrcLo, flow.DstLo}[side], address&mask, mask)
	}
	if s.proto != 0 {
		m.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
		m.Pin(flow.Proto, uint64(s.proto), 0xff)
	}
	g.port(&m, flow.SrcPort, s.src)
	g.port(&m, flow.DstPort, s.dst)
	return m
}

func (g *generator) port(m *flow.Match, f flow.Field, kind portKind) {
	if kind != anyPort {
		m.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
	}
	switch kind {
	case one:
		p := knownPorts[int(float64(len(knownPorts))*math.Pow(g.rng.Float64(), 2))]
		m.SetPorts(f, p, p)
	case highPort:
		m.SetPorts(f, 1024, 65535)
	case portSpan:
		span := portSpans[g.rng.IntN(len(portSpans))]
		m.SetPorts(f, span[0], span[1])
	}
}

// volume returns about the logarithm of how many keys are in m.
func volume(m *flow.Match) int {
	v := 0
	for _, w := range m.Mask {
		v -= bits.OnesCount64(w)
	}
	for _, r := range []flow.PortRange{m.SrcPort, m.DstPort} {
		if !r.Any() {
			v -= 16 - bits.Len16(r.Hi-r.Lo)
		}
	}
	return v
}

// at returns what lies at u of the way, 0 <= u < 1.
func (l *lengths) at(u float64) int {
	total := l.rest
	for _, w := range l.often {
		total += w.weight
	}
	u *= total
	for _, w := range l.often {
		if u < w.weight {
			return w.value
		}
		u -= w.weight
	}
	if l.rest == 0 {
		return l.often[len(l.often)-1].value
	}
	return min(l.hi, l.lo+int(u/l.rest*float64(l.hi-l.lo+1)))
}

func at(services []service, u float64) service {
	total := 0.0
	for _, s := range services {
		total += s.weight
	}
	u *= total
	for _, s := range services {
		if u < s.weight {
			return s
		}
		u -= s.weight
	}
	return services[len(services)-1]
}
