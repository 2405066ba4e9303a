package flow

import (
	"slices"
	"strings"
)

// Op is what one action does.
type Op uint8

// The actions. Drop, Normal, Pass and Output are terminal: they end a list.
const (
	Drop     Op = iota // nothing leaves; the zero value is the safe one
	Normal             // deliver by the table's static switch
	Pass               // hand to the blade's own kernel through the representor of the in_port
	Output             // one copy to each of Ports, in order
	Mirror             // one copy of the frame as it is now to each of Ports, and go on
	VLANPush           // put a tag (Tag, Proto) in front; a frame with two tags is dropped instead
	VLANPop            // take the outer tag off; a frame without one stays as it is
	VLANSet            // set the id of the outer tag (Tag & TagID); a frame without one stays as it is
	Set                // set what Settings say, where the packet has it, and the checksums over it, see [Put]
	Police             // drop what comes faster than Rate after a Burst, see [Meter]
	numOps
)

// Terminal reports whether op ends a list of actions.
func (op Op) Terminal() bool { return op <= Output }

// Action is one step of what a rule does to a frame.
type Action struct {
	Op       Op
	Tag      uint16    // VLANPush: prio<<13 | id; VLANSet: id
	Proto    uint16    // valid iff Op is VLANPush: EthVLAN or EthQinQ
	Burst    uint32    // valid iff Op is Police: bytes that may come at once, 1 to MaxBurst
	Rate     uint64    // valid iff Op is Police: bits a second, 1 to MaxRate
	Ports    []Port    // valid iff Op is Output or Mirror; never empty then
	Settings []Setting // valid iff Op is Set: in the order of fields, each once; never empty then
}

// Equal reports whether a and b do the same.
func (a Action) Equal(b Action) bool {
	return a.Op == b.Op && a.Tag == b.Tag && a.Proto == b.Proto && a.Burst == b.Burst && a.Rate == b.Rate &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Settings, b.Settings)
}

// Actions is what a rule does, in order. Exactly one action is terminal: the last.
type Actions []Action

// Equal reports whether a and b are the same list. Most that are equal were never
// copied, which is seen at once.
func (a Actions) Equal(b Actions) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.EqualFunc(a, b, Action.Equal))
}

// Terminal returns the action that ends the list; an empty list drops.
func (a Actions) Terminal() Action {
	if len(a) == 0 {
		return Action{Op: Drop}
	}
	return a[len(a)-1]
}

// Valid returns nil iff a is a list that [Judge] gives a meaning to, else a *Fault
// whose What names the action.
func (a Actions) Valid() error {
	fail := func(what, why, remedy string) error {
		return &Fault{Code: "E_ACTION", What: what, Why: why, Remedy: remedy}
	}
	if len(a) == 0 || !a[len(a)-1].Op.Terminal() {
		return fail("actions", "the list has no end", "end it with drop, normal, pass or output")
	}
	for i, x := range a {
		name := x.Op.String()
		switch {
		case x.Op >= numOps:
			return fail("action "+name, "unknown", "use one of "+strings.Join(opNames[:], ", "))
		case x.Op.Terminal() && i < len(a)-1:
			return fail("action "+name, "nothing after it can happen", "make it the last action")
		case (x.Op == Output || x.Op == Mirror) && (len(x.Ports) == 0 || slices.Contains(x.Ports, 0)):
			return fail("action "+name, "no port", "name at least one port")
		case x.Op == VLANPush && x.Proto != EthVLAN && x.Proto != EthQinQ:
			return fail("action "+name, "not a VLAN protocol", "use 0x8100 or 0x88a8")
		case x.Op == VLANPush && x.Tag&TagPresent != 0, x.Op == VLANSet && x.Tag&^TagID != 0:
			return fail("action "+name, "tag out of range", "use an id of 0-4095 and a prio of 0-7")
		case x.Op == Set && !inOneForm(x.Settings):
			return fail("action "+name, "a field cannot be set, or not so", "name each field once and in order, and whole addresses")
		case x.Op == Police && (x.Rate < 1 || x.Rate > MaxRate):
			return fail("action "+name, "rate out of range", "use 1 bit a second to 1000T")
		case x.Op == Police && (x.Burst < 1 || x.Burst > MaxBurst):
			return fail("action "+name, "burst out of range", "use 1 byte to 2G")
		}
	}
	return nil
}

// inOneForm reports whether settings are as [Action] and [Setting] say they are.
func inOneForm(settings []Setting) bool {
	var last Field
	for i, s := range settings {
		if i > 0 && s.Field <= last || s.Value&^s.Mask != 0 {
			return false
		}
		upper := i > 0 && s.Field == last+1 && (last == SrcHi || last == DstHi)
		last = s.Field
		switch s.Field {
		case SrcMAC, DstMAC, SrcPort, DstPort, TTL, SrcHi, DstHi:
			if s.Mask != s.Field.Max() {
				return false
			}
		case SrcLo, DstLo:
			if upper && s.Mask != s.Field.Max() || !upper && s.Mask != ipv4Mask {
				return false
			}
		case TOS:
			if s.Mask == 0 || s.Mask > TOS.Max() {
				return false
			}
		default:
			return false
		}
		if lower := s.Field + 1; (s.Field == SrcHi || s.Field == DstHi) && (i == len(settings)-1 || settings[i+1].Field != lower) {
			return false
		}
	}
	return len(settings) > 0
}

// Metered reports whether a polices: what it does then depends on what came before.
func (a Actions) Metered() bool {
	return slices.ContainsFunc(a, func(x Action) bool { return x.Op == Police })
}

// validOn returns nil iff every packet that m matches can have what a sets: a port
// only where one is, and no address of another version than that of all packets.
func (a Actions) validOn(m *Match) error {
	for _, x := range a {
		for _, s := range x.Settings {
			version, pinned := s.IPVersion(), m.Mask.Get(EthType) == EthType.Max()
			switch {
			case s.SetsPort() && m.Value.Get(Flags)&FlagL4 == 0:
				return &Fault{Code: "E_SET_NEEDS", What: "action set: " + fieldName(s), Why: "the rule also matches packets without ports",
					Remedy: "match src_port or dst_port, or add flags=+l4 to the match"}
			case version != 0 && pinned && m.Value.Get(EthType) != version:
				return &Fault{Code: "E_SET_NEEDS", What: "action set: " + fieldName(s), Why: "no packet that the rule matches has an address of this version",
					Remedy: "set an address of the version that the match names"}
			}
		}
	}
	return nil
}

// opNames are the contract's words.
var opNames = [numOps]string{"drop", "normal", "pass", "output", "mirror", "vlan_push", "vlan_pop", "vlan_set", "set", "police"}

// String returns the contract's word for op.
func (op Op) String() string {
	if op < numOps {
		return opNames[op]
	}
	return "unknown"
}
