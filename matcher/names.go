package matcher

import (
	"hash/maphash"

	"github.com/bladeflow/bladeflow/flow"
)

// names is the numbers of rules that were inserted, by their IDs.
//
// A map of Go has 30 bytes for each; this one has 14, because it need not hold the ID: a
// slot is half of the ID's hash and the number, and the rule of the number has the ID. It is cut into
// parts, so that none is large when it grows and an update waits for that. Hashes are seeded, as those
// of Go's maps are, so that nobody can choose IDs that meet.
type names struct {
	seed  maphash.Seed
	rule  func(n int32) *flow.Rule
	parts []namesPart
	shift uint // of a hash, to its part
}

// namesPart is a hash table with linear probing.
type namesPart struct {
	slots []uint64 // the lower half of a hash, then a number; 0 where there is none
	used  int      // slots that are not 0
	live  int      // of these not dropped
}

const (
	partNames = 512       // in a part when half of the rules are new
	dropped   = 1<<32 - 1 // the number in a slot whose rule is gone
	numberOf  = 1<<32 - 1 // the bits of the number in a slot
)

// newNames returns names for an engine that begins with that many rules.
func newNames(rules int, rule func(n int32) *flow.Rule) names {
	parts, shift := 1, uint(64)
	for ; parts < rules/(2*partNames); parts *= 2 {
		shift--
	}
	return names{seed: maphash.MakeSeed(), rule: rule, parts: make([]namesPart, parts), shift: shift}
}

func (m *names) part(id flow.RuleID) (p *namesPart, hash uint32) {
	h := maphash.Comparable(m.seed, id)
	return &m.parts[h>>m.shift], uint32(h >> 16)
}

// slot returns where id is in p, or -1.
func (m *names) slot(p *namesPart, hash uint32, id flow.RuleID) int {
	if len(p.slots) == 0 {
		return -1
	}
	for i := int(hash) & (len(p.slots) - 1); p.slots[i] != 0; i = (i + 1) & (len(p.slots) - 1) {
		s := p.slots[i]
		if uint32(s>>32) == hash && s&numberOf != dropped && m.rule(int32(s&numberOf)).ID == id {
			return i
		}
	}
	return -1
}

// find returns the number of the rule with this ID.
func (m *names) find(id flow.RuleID) (n int32, ok bool) {
	p, hash := m.part(id)
	i := m.slot(p, hash, id)
	if i < 0 {
		return 0, false
	}
	return int32(p.slots[i] & numberOf), true
}

// add adds a rule with an ID that is not there.
func (m *names) add(id flow.RuleID, n int32) {
	p, hash := m.part(id)
	if 4*(p.used+1) > 3*len(p.slots) {
		p.clean()
	}
	p.put(uint64(hash)<<32 | uint64(n))
}

// put uses the first slot that is not used.
func (p *namesPart) put(slot uint64) {
	i := int(slot>>32) & (len(p.slots) - 1)
	for p.slots[i] != 0 {
		i = (i + 1) & (len(p.slots) - 1)
	}
	p.slots[i] = slot
	p.used++
	p.live++
}

// clean makes slots for those that live and some more.
func (p *namesPart) clean() {
	size := 8
	for 5*size < 8*(p.live+1) {
		size *= 2
	}
	old := p.slots
	*p = namesPart{slots: make([]uint64, size)}
	for _, s := range old {
		if s != 0 && s&numberOf != dropped {
			p.put(s)
		}
	}
}

// remove takes out an ID that may be there.
func (m *names) remove(id flow.RuleID) {
	p, hash := m.part(id)
	if i := m.slot(p, hash, id); i >= 0 {
		p.slots[i] |= dropped
		p.live--
	}
}

// bytes returns the memory of m.
func (m *names) bytes() int {
	n := 40 * len(m.parts)
	for i := range m.parts {
		n += 8 * len(m.parts[i].slots)
	}
	return n
}
