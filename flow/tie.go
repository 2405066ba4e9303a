package flow

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// Problem. Two rules of equal tier and priority that both match some packet must
// act alike. The definition compares all pairs: 5·10⁹ for 100,000 rules of one
// priority, two minutes, although people expect `rules check` to answer at once.
//
// Idea. A tie needs two rules that act differently, so a set that acts alike is done
// however much its rules overlap; and two rules that pin a bit differently do not
// overlap. So split: take a bit of the key (or a port p), put the rules that allow 0
// (a port below p) left and those that allow 1 (p or above) right, rules that allow
// both on both sides, and go on until a set acts alike or is small enough to compare.
// The split is the one that leaves the fewest pairs that act differently among 64
// rules looked at: half spread evenly, half over the rules that are not in the
// largest class of equal actions, so that rare actions are seen. It takes masks of any
// form and ranges alike; on prefixes it becomes a trie.
//
// Invariant. Two rules that share a key are together in a child of every split, the
// one the key is in. So a pair is lost only when it cannot tie, and what remains is
// compared exactly, by [Shared].
//
// Keys that no packet has. `ip_proto=icmp` and `dst_port=80` overlap in keys but not
// in packets, for ICMP has no ports. Splitting cannot tell them apart, since they pin
// no bit differently, and would compare all pairs. So each rule is first narrowed to
// its [hull], in which one pins the l4 flag to 0 and the other to 1.
//
// Cost. Each level reads each rule once, and a level is added only if it leaves at
// most 19 of 20 pairs; so the whole is at worst a constant times all pairs, which
// hostile sets can force.
//
// Measured on one core (BenchmarkFindTie, 100,000 rules of one priority, no tie):
// 0.1 to 0.3 s, whether the rules are hosts, pairs of hosts, masks of low bits,
// ranges, or two camps that overlap among themselves. The definition takes 1.5 s for
// 10,000. Slower: leaves of 32 rules instead of 64, half as much again; without hulls,
// 4,000 rules of which half are ICMP and half have ports take 5.6 s.

// Tie is two rules of equal tier and priority that act differently on a packet
// both match. A table with one would have no meaning, so it is refused.
type Tie struct {
	A, B *Rule
	Key  Key // of a packet that both match
}

// Error says which rules tie.
func (t *Tie) Error() string { return fmt.Sprintf("rules %s and %s tie", t.A.Name, t.B.Name) }

func (t *Tie) fault(ports *Ports) error {
	return &Fault{Code: "E_TIE", What: fmt.Sprintf("rules %s and %s", t.A.Name, t.B.Name),
		Why:    fmt.Sprintf("both match the packet %s with priority %d and act differently", FormatKey(t.Key, ports), t.A.Priority),
		Remedy: "give one of them a higher priority", Err: t}
}

// FindTie returns a tie among rules, which are sorted by [Rule.Before], or nil iff
// there is none. The same rules give the same tie.
func FindTie(rules []Rule) *Tie {
	for len(rules) > 0 {
		n := 1
		for n < len(rules) && rules[n].Tier == rules[0].Tier && rules[n].Priority == rules[0].Priority {
			n++
		}
		if n > 1 {
			if t := tieAmongEquals(rules[:n]); t != nil {
				return t
			}
		}
		rules = rules[n:]
	}
	return nil
}

// contender is a rule as the search sees it.
type contender struct {
	hull  Match
	ports [2][2]uint16 // lowest and highest source and destination port of hull
	class int32        // rules of one class act alike
	rule  int32
}

// tieSearch is a search among rules of one priority. A set of contenders is a slice
// of indices in the order of classes, which splits keep.
type tieSearch struct {
	rules []Rule
	all   []contender
	stack []int32 // the sets on the way down
}

// Sets this small, or with this few pairs per rule, are compared instead of split.
const (
	tieLeaf  = 64
	tiePairs = 4
)

func tieAmongEquals(rules []Rule) *Tie {
	classes := map[string]int32{}
	s := tieSearch{rules: rules, all: make([]contender, 0, len(rules))}
	for i := range rules {
		key := actionsKey(rules[i].Actions)
		class, ok := classes[key]
		if !ok {
			class = int32(len(classes))
			classes[key] = class
		}
		s.all = append(s.all, contender{class: class, rule: int32(i)})
	}
	if len(classes) == 1 {
		return nil
	}
	slices.SortStableFunc(s.all, func(a, b contender) int { return int(a.class - b.class) })
	set := make([]int32, 0, len(rules))
	for i := range s.all {
		c := &s.all[i]
		var possible bool
		if c.hull, possible = Hull(&rules[c.rule].Match); !possible {
			continue
		}
		for j, f := range []Field{SrcPort, DstPort} {
			c.ports[j][0], c.ports[j][1] = portBounds(f, &c.hull)
		}
		set = append(set, int32(i))
	}
	return s.search(set)
}

// actionsKey is equal for equal actions only.
func actionsKey(actions Actions) string {
	var b []byte
	for _, a := range actions {
		b = append(b, byte(a.Op), byte(a.Tag>>8), byte(a.Tag), byte(a.Proto>>8), byte(a.Proto))
		b = binary.BigEndian.AppendUint16(b, uint16(len(a.Ports)))
		for _, p := range a.Ports {
			b = binary.BigEndian.AppendUint16(b, uint16(p))
		}
		b = binary.BigEndian.AppendUint32(b, a.Burst)
		b = binary.BigEndian.AppendUint64(b, a.Rate)
		b = append(b, byte(len(a.Settings)))
		for _, s := range a.Settings {
			b = append(b, byte(s.Field))
			b = binary.BigEndian.AppendUint64(b, s.Value)
			b = binary.BigEndian.AppendUint64(b, s.Mask)
		}
	}
	return string(b)
}

// search returns a tie within set, or nil.
func (s *tieSearch) search(set []int32) *Tie {
	pairs := s.differing(set)
	if pairs == 0 {
		return nil
	}
	if len(set) <= tieLeaf || pairs <= tiePairs*len(set) {
		return s.compare(set)
	}
	at, ok := s.chooseSplit(set)
	if !ok {
		return s.compare(set)
	}
	base := len(s.stack)
	for _, right := range []bool{false, true} {
		for _, i := range set {
			if at.allows(&s.all[i], right) {
				s.stack = append(s.stack, i)
			}
		}
		if t := s.search(s.stack[base:len(s.stack):len(s.stack)]); t != nil {
			return t
		}
		s.stack = s.stack[:base]
	}
	return nil
}

// classRun returns the length of the run of one class that set starts with.
func (s *tieSearch) classRun(set []int32) int {
	class := s.all[set[0]].class
	n := 1
	for n < len(set) && s.all[set[n]].class == class {
		n++
	}
	return n
}

// differing counts the pairs in set that act differently.
func (s *tieSearch) differing(set []int32) int {
	alike := 0
	for rest := set; len(rest) > 0; {
		n := s.classRun(rest)
		alike += n * n
		rest = rest[n:]
	}
	return (len(set)*len(set) - alike) / 2
}

// compare looks at every pair of set that acts differently.
func (s *tieSearch) compare(set []int32) *Tie {
	for rest := set; len(rest) > 0; {
		n := s.classRun(rest)
		for _, i := range rest[:n] {
			a := &s.all[i]
			for _, j := range rest[n:] {
				b := &s.all[j]
				if !a.hull.Overlaps(&b.hull) {
					continue
				}
				first, second := &s.rules[min(a.rule, b.rule)], &s.rules[max(a.rule, b.rule)]
				if k, ok := Shared(&first.Match, &second.Match); ok {
					return &Tie{first, second, k}
				}
			}
		}
		rest = rest[n:]
	}
	return nil
}

// split is a way to cut the keys in two: by a bit, or by a port.
type split struct {
	word, bit int
	port      int // 1 for source and 2 for destination ports, 0 for a bit
	from      uint16
}

// allows reports whether a key on one side of the split may be in c.
func (at split) allows(c *contender, right bool) bool {
	if at.port != 0 {
		bounds := c.ports[at.port-1]
		if right {
			return bounds[1] >= at.from
		}
		return bounds[0] < at.from
	}
	if c.hull.Mask[at.word]>>at.bit&1 == 0 {
		return true
	}
	return c.hull.Value[at.word]>>at.bit&1 == 1 == right
}

// sample is up to 64 members of a set, as bits of words.
type sample struct {
	members []*contender
	all     uint64
	differ  [64]uint64 // for each member, those that act differently
}

// sampleOf picks members of set: half of them evenly, half evenly from what is not
// in the largest class.
func (s *tieSearch) sampleOf(set []int32) *sample {
	var largest, size int
	for at := 0; at < len(set); {
		n := s.classRun(set[at:])
		if n > size {
			largest, size = at, n
		}
		at += n
	}
	sm := &sample{members: make([]*contender, 0, 64)}
	n := min(32, len(set))
	for i := range n {
		sm.members = append(sm.members, &s.all[set[i*len(set)/n]])
	}
	others := len(set) - size
	n = min(32, others)
	for i := range n {
		at := i * others / n
		if at >= largest {
			at += size
		}
		sm.members = append(sm.members, &s.all[set[at]])
	}
	for i, a := range sm.members {
		sm.all |= 1 << i
		for j, b := range sm.members {
			if a.class != b.class {
				sm.differ[i] |= 1 << j
			}
		}
	}
	return sm
}

// pairs counts the pairs within a subset that act differently, twice each.
func (sm *sample) pairs(subset uint64) int {
	n := 0
	for rest := subset; rest != 0; rest &= rest - 1 {
		n += bits.OnesCount64(sm.differ[bits.TrailingZeros64(rest)] & subset)
	}
	return n
}

// chooseSplit returns the split that leaves the fewest pairs; ok is false if none
// removes a twentieth of them.
func (s *tieSearch) chooseSplit(set []int32) (best split, ok bool) {
	sm := s.sampleOf(set)
	least := sm.pairs(sm.all) * 19 / 20
	try := func(at split, left, right uint64) {
		if left == sm.all && right == sm.all {
			return
		}
		if n := sm.pairs(left) + sm.pairs(right); n <= least {
			best, least, ok = at, n-1, true
		}
	}
	for w := range Words {
		var zero, one [64]uint64 // members that pin the bit to 0 and to 1
		var zeros, ones uint64   // bits that some member pins so
		for _, c := range sm.members {
			zeros |= c.hull.Mask[w] &^ c.hull.Value[w]
			ones |= c.hull.Value[w]
		}
		useful := zeros & ones
		if useful == 0 {
			continue
		}
		for i, c := range sm.members {
			for rest := c.hull.Mask[w] & useful; rest != 0; rest &= rest - 1 {
				b := bits.TrailingZeros64(rest)
				if c.hull.Value[w]>>b&1 == 0 {
					zero[b] |= 1 << i
				} else {
					one[b] |= 1 << i
				}
			}
		}
		for rest := useful; rest != 0; rest &= rest - 1 {
			b := bits.TrailingZeros64(rest)
			try(split{word: w, bit: b}, sm.all&^one[b], sm.all&^zero[b])
		}
	}
	for p := range 2 {
		for _, edge := range sm.members {
			lo, hi := edge.ports[p][0], edge.ports[p][1]
			if lo == hi {
				continue // bits do that
			}
			for _, from := range []uint16{lo, hi + 1} {
				at := split{port: p + 1, from: from}
				var left, right uint64
				for i, c := range sm.members {
					if at.allows(c, false) {
						left |= 1 << i
					}
					if at.allows(c, true) {
						right |= 1 << i
					}
				}
				try(at, left, right)
			}
		}
	}
	return best, ok
}
