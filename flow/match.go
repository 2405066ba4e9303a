package flow

import (
	"fmt"
	"math/bits"
)

// PortRange is a range of L4 ports, both ends included. The zero value is no
// range. A range has Lo < Hi: a single port is a mask in [Match].
type PortRange struct{ Lo, Hi uint16 }

// Any reports whether the range constrains nothing.
func (r PortRange) Any() bool { return r == PortRange{} }

// Match is a set of keys. k is in it iff (k XOR Value) AND Mask is zero and each
// port is in its range. Value has no bit outside Mask. A port has a range or a
// mask, not both, so that every Match has one form; [Match.SetPorts] keeps it.
// The zero Match holds every key. Matches compare with ==.
type Match struct {
	Value, Mask      Key
	SrcPort, DstPort PortRange
}

// Matches reports whether k is in m.
func (m *Match) Matches(k *Key) bool {
	var diff uint64
	for i := range k {
		diff |= (k[i] ^ m.Value[i]) & m.Mask[i]
	}
	return diff == 0 && m.SrcPort.holds(k.Get(SrcPort)) && m.DstPort.holds(k.Get(DstPort))
}

func (r PortRange) holds(p uint64) bool {
	return r.Any() || uint64(r.Lo) <= p && p <= uint64(r.Hi)
}

// Pin makes field f equal v in m, under mask. It replaces what m said of f's bits
// in mask. For ports use [Match.SetPorts].
func (m *Match) Pin(f Field, v, mask uint64) {
	m.Value.Set(f, m.Value.Get(f)&^mask|v&mask)
	m.Mask.Set(f, m.Mask.Get(f)|mask)
}

// SetPorts restricts f, which is SrcPort or DstPort, to lo … hi. The whole range
// leaves it free; one port becomes a mask.
func (m *Match) SetPorts(f Field, lo, hi uint16) {
	m.Value.Set(f, 0)
	m.Mask.Set(f, 0)
	r := m.ports(f)
	*r = PortRange{}
	switch {
	case lo == hi:
		m.Pin(f, uint64(lo), 0xffff)
	case lo != 0 || hi != 0xffff:
		*r = PortRange{lo, hi}
	}
}

// SetPortMask restricts f, which is SrcPort or DstPort, to v under mask. A
// contiguous mask becomes a range.
func (m *Match) SetPortMask(f Field, v, mask uint16) {
	if host := ^mask; host&(host+1) == 0 { // ones, then zeros
		m.SetPorts(f, v&mask, v&mask|host)
		return
	}
	m.SetPorts(f, 0, 0xffff)
	m.Pin(f, uint64(v), uint64(mask))
}

func (m *Match) ports(f Field) *PortRange {
	if f == SrcPort {
		return &m.SrcPort
	}
	return &m.DstPort
}

// Valid returns nil iff m has its one form, see [Match].
func (m *Match) Valid() error {
	for i := range m.Value {
		if m.Value[i]&^m.Mask[i] != 0 {
			return &Fault{Code: "E_MATCH", What: fmt.Sprintf("match word %d", i), Why: "value bits outside the mask", Remedy: "clear them"}
		}
	}
	for _, f := range []Field{SrcPort, DstPort} {
		r, mask := *m.ports(f), m.Mask.Get(f)
		if host := ^uint16(mask); !r.Any() && (mask != 0 || r.Lo >= r.Hi || r == PortRange{0, 0xffff}) ||
			mask != 0 && mask != 0xffff && host&(host+1) == 0 {
			return &Fault{Code: "E_MATCH", What: "match of a port", Why: "not in its one form", Remedy: "set it with SetPorts or SetPortMask"}
		}
	}
	return nil
}

// Overlaps reports whether some key is in both m and o. Exact for every mix of
// ranges and masks. Not every key can come from a packet; see [Shared] for that.
func (m *Match) Overlaps(o *Match) bool {
	var diff uint64
	for i := range m.Value {
		diff |= (m.Value[i] ^ o.Value[i]) & m.Mask[i] & o.Mask[i]
	}
	if diff != 0 {
		return false
	}
	if m.SrcPort.Any() && o.SrcPort.Any() && m.DstPort.Any() && o.DstPort.Any() {
		return true
	}
	_, src := commonPort(SrcPort, m, o)
	_, dst := commonPort(DstPort, m, o)
	return src && dst
}

// Covers reports whether every key of o is in m. Exact.
func (m *Match) Covers(o *Match) bool {
	var bad uint64
	for i := range m.Value {
		bad |= m.Mask[i]&^o.Mask[i] | (m.Value[i]^o.Value[i])&m.Mask[i]
	}
	if bad != 0 { // maybe only because a port of o is a range
		if o.SrcPort.Any() && o.DstPort.Any() {
			return false
		}
		p := *m
		for _, f := range []Field{SrcPort, DstPort} {
			if !o.ports(f).Any() {
				p.Value.Set(f, 0)
				p.Mask.Set(f, 0)
			}
		}
		for i := range p.Value {
			if p.Mask[i]&^o.Mask[i]|(p.Value[i]^o.Value[i])&p.Mask[i] != 0 {
				return false
			}
		}
	}
	return coversPort(SrcPort, m, o) && coversPort(DstPort, m, o)
}

func coversPort(f Field, m, o *Match) bool {
	r, in := *m.ports(f), *o.ports(f)
	if !r.Any() {
		lo, hi := portBounds(f, o)
		return r.Lo <= lo && hi <= r.Hi
	}
	if in.Any() {
		return true // mask against mask was compared with the other words
	}
	// A range holds both values of every bit from the highest in which its ends
	// differ down to the lowest, and one value of each bit above.
	mask := uint16(m.Mask.Get(f))
	vary := uint16(1)<<bits.Len16(in.Lo^in.Hi) - 1
	return mask&vary == 0 && in.Lo&mask == uint16(m.Value.Get(f))
}

func portBounds(f Field, m *Match) (lo, hi uint16) {
	if r := *m.ports(f); !r.Any() {
		return r.Lo, r.Hi
	}
	v, mask := uint16(m.Value.Get(f)), uint16(m.Mask.Get(f))
	return v, v | ^mask
}

// Witness returns a key that is in every match given; ok is false if there is
// none. What no match constrains is zero, or as near to it as the others allow.
func Witness(ms ...*Match) (k Key, ok bool) {
	var mask Key
	for _, m := range ms {
		for i := range k {
			if (k[i]^m.Value[i])&mask[i]&m.Mask[i] != 0 {
				return Key{}, false
			}
			k[i] |= m.Value[i]
			mask[i] |= m.Mask[i]
		}
	}
	for _, f := range []Field{SrcPort, DstPort} {
		v, found := commonPort(f, ms...)
		if !found {
			return Key{}, false
		}
		k.Set(f, uint64(v))
	}
	return k, true
}

// commonPort returns the lowest value of a port field that every match allows. Any
// two of their masks must agree where both look.
func commonPort(f Field, ms ...*Match) (uint16, bool) {
	var value, mask uint16
	lo, hi := uint16(0), uint16(0xffff)
	for _, m := range ms {
		v, w := uint16(m.Value.Get(f)), uint16(m.Mask.Get(f))
		if (v^value)&w&mask != 0 {
			return 0, false
		}
		value |= v
		mask |= w
		if r := *m.ports(f); !r.Any() {
			lo, hi = max(lo, r.Lo), min(hi, r.Hi)
		}
	}
	v, ok := nextMasked(lo, value, mask)
	return v, ok && v <= hi
}

// nextMasked returns the smallest v >= lo with v&mask == value.
func nextMasked(lo, value, mask uint16) (uint16, bool) {
	v := lo&^mask | value
	if v == lo {
		return v, true
	}
	// Where v and lo first differ v is already greater (clear what is free below),
	// or smaller (the next free zero above has to become one).
	h := bits.Len16(v^lo) - 1
	if v&(1<<h) == 0 {
		up := ^v &^ mask & (0xffff << (h + 1))
		if up == 0 {
			return 0, false
		}
		h = bits.TrailingZeros16(up)
		v |= 1 << h
	}
	below := uint16(1)<<h - 1
	return v&^below | value&below, true
}
