package flow

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"
)

// Emission is one copy of a frame leaving the blade's switch.
type Emission struct {
	Port   Port // where it leaves; for Kernel, the port whose representor hands it over
	Kernel bool // handed to the blade's own kernel instead of the port
	Bytes  []byte
	Rule   RuleID // the rule that sent it; [DefaultRule] for the default
}

// Judge says what happens to a frame that comes in by port in: parse, look up, act
// in order. It is the definition of what t means for packets. A frame too short to
// have a key, and a dropped one, has no emission. Meters are full: what they make of
// one frame after another is defined by [Meters.Judge].
func Judge(t *Table, frame []byte, in Port) []Emission {
	k, err := Parse(frame, in)
	if err != nil {
		return nil
	}
	r := t.Rule(t.Lookup(&k))
	return Act(r.Actions, t.Switch(), r.ID, frame, in)
}

// Act carries out actions on a frame that came in by port in, and is the
// definition of what they mean. The frame has an Ethernet header and is not changed.
// Meters are full.
func Act(actions Actions, sw *Switch, rule RuleID, frame []byte, in Port) []Emission {
	return act(actions, sw, rule, frame, in, func(at, length int) bool {
		_, passes := Meter{}.Pass(actions[at], 0, length)
		return passes
	})
}

// act is Act; meter says whether a frame of some length passes the police action at
// some place of the list.
func act(actions Actions, sw *Switch, rule RuleID, frame []byte, in Port, meter func(at, length int) bool) []Emission {
	var out []Emission
	f := slices.Clone(frame)
	emit := func(p Port, kernel bool) {
		out = append(out, Emission{Port: p, Kernel: kernel, Bytes: slices.Clone(f), Rule: rule})
	}
	for i, a := range actions {
		switch a.Op {
		case Drop:
			return out
		case Normal:
			vlan, dst := station(f)
			for _, p := range sw.Deliver(nil, vlan, dst, in) {
				emit(p, false)
			}
			return out
		case Pass:
			emit(in, true)
			return out
		case Output, Mirror:
			for _, p := range a.Ports {
				emit(p, false)
			}
			if a.Op == Output {
				return out
			}
		case VLANPush:
			if tags(f) >= MaxTags {
				return out
			}
			tag := binary.BigEndian.AppendUint16(nil, a.Proto)
			f = slices.Insert(f, 12, binary.BigEndian.AppendUint16(tag, a.Tag)...)
		case VLANPop:
			if tags(f) > 0 {
				f = slices.Delete(f, 12, 16)
			}
		case VLANSet:
			if tags(f) > 0 {
				tci := binary.BigEndian.Uint16(f[14:])
				binary.BigEndian.PutUint16(f[14:], tci&^TagID|a.Tag)
			}
		case Set:
			k, _ := Parse(frame, in) // as the packet came in: what is set is what rules could see
			Put(f, Locate(&k, frame).Moved(len(f)-len(frame)), a.Settings)
		case Police:
			if !meter(i, len(f)) {
				return out
			}
		}
	}
	return out
}

// tags counts the whole VLAN tags at the front of a frame, up to three.
func tags(f []byte) int {
	n := 0
	for off := 12; n < 3 && len(f) >= off+6; off += 4 {
		if p := binary.BigEndian.Uint16(f[off:]); p != EthVLAN && p != EthQinQ {
			break
		}
		n++
	}
	return n
}

// station returns the VLAN (0 if untagged) and the destination MAC of a frame.
func station(f []byte) (vlan uint16, dst uint64) {
	if tags(f) > 0 {
		vlan = binary.BigEndian.Uint16(f[14:]) & TagID
	}
	return vlan, uint64(binary.BigEndian.Uint16(f))<<32 | uint64(binary.BigEndian.Uint32(f[2:]))
}

// SameEmissions reports whether two verdicts are equal: the same copies, byte for
// byte and port for port, in whatever order, whichever rule sent them.
func SameEmissions(a, b []Emission) bool {
	order := func(x, y Emission) int {
		k := 0
		if x.Kernel != y.Kernel {
			k = 1
			if y.Kernel {
				k = -1
			}
		}
		return cmp.Or(cmp.Compare(x.Port, y.Port), k, bytes.Compare(x.Bytes, y.Bytes))
	}
	a, b = slices.Clone(a), slices.Clone(b)
	slices.SortFunc(a, order)
	slices.SortFunc(b, order)
	return slices.EqualFunc(a, b, func(x, y Emission) bool { return order(x, y) == 0 })
}
