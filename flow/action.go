package flow

import "slices"

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
)

// Terminal reports whether op ends a list of actions.
func (op Op) Terminal() bool { return op <= Output }

// Action is one step of what a rule does to a frame.
type Action struct {
	Op    Op
	Ports []Port // valid iff Op is Output or Mirror; never empty then
	Tag   uint16 // VLANPush: prio<<13 | id; VLANSet: id
	Proto uint16 // valid iff Op is VLANPush: EthVLAN or EthQinQ
}

// Equal reports whether a and b do the same.
func (a Action) Equal(b Action) bool {
	return a.Op == b.Op && a.Tag == b.Tag && a.Proto == b.Proto && slices.Equal(a.Ports, b.Ports)
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
		case x.Op > VLANSet:
			return fail("action "+name, "unknown", "use drop, normal, pass, output, mirror, vlan_push, vlan_pop or vlan_set")
		case x.Op.Terminal() && i < len(a)-1:
			return fail("action "+name, "nothing after it can happen", "make it the last action")
		case (x.Op == Output || x.Op == Mirror) && (len(x.Ports) == 0 || slices.Contains(x.Ports, 0)):
			return fail("action "+name, "no port", "name at least one port")
		case x.Op == VLANPush && x.Proto != EthVLAN && x.Proto != EthQinQ:
			return fail("action "+name, "not a VLAN protocol", "use 0x8100 or 0x88a8")
		case x.Op == VLANPush && x.Tag&TagPresent != 0, x.Op == VLANSet && x.Tag&^TagID != 0:
			return fail("action "+name, "tag out of range", "use an id of 0-4095 and a prio of 0-7")
		}
	}
	return nil
}

var opNames = [...]string{"drop", "normal", "pass", "output", "mirror", "vlan_push", "vlan_pop", "vlan_set"}

// String returns the contract's word for op.
func (op Op) String() string {
	if int(op) < len(opNames) {
		return opNames[op]
	}
	return "unknown"
}
