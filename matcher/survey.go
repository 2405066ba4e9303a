package matcher

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// survey finds masks for tables, see the essay in build.go.
type survey struct {
	table *flow.Table
	limit int // rules in a bucket
	parts []part
	// For each choice of each part, what the sampled rules have there: a hash, or
	// absent if the rule's mask does not hold the choice.
	sums [][][]uint32
	base []uint32
	full []uint8
}

// part is a piece of a key with the masks that tables may use for it; the first is
// no mask.
type part struct{ choices []flow.Key }

const (
	sampleSize = 2048
	absent     = 1 // an odd sum, others are even
	slotBits   = 14
)

// newSurvey looks at the masks of all rules of t: addresses may be cut at any fourth
// bit, other fields have the two masks that are used most.
func newSurvey(t *flow.Table, limit int) *survey {
	s := &survey{table: t, limit: limit, full: make([]uint8, 1<<slotBits)}
	step := max(1, t.Len()/sampleSize)
	var sample []*flow.Key
	for i := 0; i < t.Len(); i += step {
		sample = append(sample, &t.Rule(i).Match.Mask)
	}
	for _, hi := range []int{3, 5} { // words of the source and the destination
		s.addPart(sample, prefixes(hi))
	}
	for f := range flow.NumFields {
		if f >= flow.SrcHi && f <= flow.DstLo {
			continue
		}
		count := map[uint64]int{}
		for _, m := range sample {
			count[m.Get(f)]++
		}
		delete(count, 0)
		masks := make([]uint64, 0, len(count))
		for m := range count {
			masks = append(masks, m)
		}
		slices.SortFunc(masks, func(a, b uint64) int { return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b)) })
		var choices []flow.Key
		for _, m := range masks[:min(2, len(masks))] {
			var k flow.Key
			k.Set(f, m)
			choices = append(choices, k)
		}
		s.addPart(sample, choices)
	}
	return s
}

// prefixes returns the masks that an address is cut by: the upper bits of an IPv4
// address, which sits in the lowest 32 bits of the second word, by 4, and of an IPv6
// address by 8.
func prefixes(hi int) []flow.Key {
	var out []flow.Key
	for length := 4; length <= 32; length += 4 {
		var k flow.Key
		k[hi+1] = 0xffffffff << (32 - length) & 0xffffffff
		out = append(out, k)
	}
	for length := 8; length <= 128; length += 8 {
		var k flow.Key
		k[hi] = ^uint64(0) << max(0, 64-length)
		if length > 64 {
			k[hi+1] = ^uint64(0) << (128 - length)
		}
		out = append(out, k)
	}
	return out
}

// addPart adds those choices that more than every 128th rule could use.
func (s *survey) addPart(sample []*flow.Key, choices []flow.Key) {
	p := part{choices: []flow.Key{{}}}
	for _, c := range choices {
		n := 0
		for _, m := range sample {
			if within(&c, m) {
				n++
			}
		}
		if n > len(sample)/128 {
			p.choices = append(p.choices, c)
		}
	}
	if len(p.choices) > 1 {
		s.parts = append(s.parts, p)
		s.sums = append(s.sums, make([][]uint32, len(p.choices)))
	}
}

// best returns the mask under which a table takes most of the rules left, and of
// those that take about as many the one with most bits.
func (s *survey) best(left []int32) flow.Key {
	step := max(1, len(left)/sampleSize)
	for p := range s.parts {
		for c := range s.parts[p].choices {
			mask := &s.parts[p].choices[c]
			sums := s.sums[p][c][:0]
			for i := 0; i < len(left); i += step {
				m := &s.table.Rule(int(left[i])).Match
				sum := uint32(absent)
				if within(mask, &m.Mask) {
					sum = uint32(digest(&m.Value, mask)>>32) &^ absent
				}
				sums = append(sums, sum)
			}
			s.sums[p][c] = sums
		}
	}
	chosen := make([]int, len(s.parts))
	for improved, score := true, 0; improved; {
		improved = false
		for p := range s.parts {
			s.sumOthers(chosen, p, (len(left)+step-1)/step)
			for c := range s.parts[p].choices {
				was := chosen[p]
				chosen[p] = c
				if n := s.score(s.sums[p][c], s.mask(chosen), step); n > score {
					score, improved = n, true
				} else {
					chosen[p] = was
				}
			}
		}
	}
	return s.mask(chosen)
}

func (s *survey) mask(chosen []int) (mask flow.Key) {
	for p, c := range chosen {
		for w := range mask {
			mask[w] |= s.parts[p].choices[c][w]
		}
	}
	return mask
}

// sumOthers sets s.base to what n rules have in all parts but one.
func (s *survey) sumOthers(chosen []int, except, n int) {
	s.base = append(s.base[:0], make([]uint32, n)...)
	for p, c := range chosen {
		if p == except {
			continue
		}
		for i, sum := range s.sums[p][c] {
			s.base[i] = s.base[i]&^absent ^ sum&^absent | (s.base[i]|sum)&absent
		}
	}
}

// score says how good a table under mask is: how many of the sampled rules it takes,
// and, much less, how many bits it looks at.
func (s *survey) score(sums []uint32, mask flow.Key, step int) int {
	clear(s.full)
	limit := uint8(max(1, s.limit/step))
	placed := 0
	for i, sum := range sums {
		b := s.base[i]
		if (b|sum)&absent != 0 {
			continue
		}
		at := (b ^ sum) * 0x9e3779b1 >> (32 - slotBits)
		if s.full[at] < limit {
			s.full[at]++
			placed++
		}
	}
	ones := 0
	for w, m := range mask {
		n := bits.OnesCount64(m)
		if w < 3 || w > 6 {
			n /= 4 // addresses tell rules apart best
		}
		ones += n
	}
	return placed*1000 + placed*ones/4
}
