package softnic

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// An entry is two things in the card: a line of the match table, and a slot with its
// actions and counters. Encoding loses nothing, and the programs work on exactly
// what Installed decodes: there is no second, friendlier copy for the driver.

// refusal is what the card cannot take, in its own words.
type refusal struct{ code, text string }

// encode returns the two halves of e, or why the card cannot hold it. The slot's
// number is not set.
func (n *NIC) encode(e *flow.Entry) (line xdp.CardEntry, slot xdp.CardSlot, no *refusal) {
	if err := e.Match.Valid(); err != nil {
		return line, slot, &refusal{"E_MATCH", err.Error()}
	}
	if e.Match.Mask.Get(flow.CTState)|e.Match.Mask.Get(flow.Reserved) != 0 {
		return line, slot, &refusal{"E_FIELD_UNSUPPORTED", "softnic: the parser knows no connection state"}
	}
	line = xdp.CardEntry{
		Value: e.Match.Value, Mask: e.Match.Mask,
		Id: uint64(e.ID), Rule: uint64(e.Rule), Priority: e.Priority, Kind: uint32(e.Kind),
	}
	line.SrcLo, line.SrcHi = bounds(e.Match.SrcPort)
	line.DstLo, line.DstHi = bounds(e.Match.DstPort)
	switch e.Kind {
	case flow.GuardEntry:
		if len(e.Actions) > 0 {
			return line, slot, &refusal{"E_ACTION", "softnic: a punt has no actions"}
		}
	case flow.RuleEntry, flow.PieceEntry:
		no = n.encodeActions(e.Actions, &slot)
	default:
		no = &refusal{"E_ENTRY_KIND", fmt.Sprintf("softnic: unknown kind of entry %d", e.Kind)}
	}
	return line, slot, no
}

// bounds is a port range as the programs compare it: a free port is in 0 … 65535,
// which is no valid range of its own.
func bounds(r flow.PortRange) (lo, hi uint16) {
	if r.Any() {
		return 0, 0xffff
	}
	return r.Lo, r.Hi
}

func unbounds(lo, hi uint16) flow.PortRange {
	if lo == 0 && hi == 0xffff {
		return flow.PortRange{}
	}
	return flow.PortRange{Lo: lo, Hi: hi}
}

// What the actions of one entry may be at most; with the drop that may end them they
// fill the steps of a slot.
const maxCopies, maxVLANOps = 16, 2

// encodeActions spreads actions into steps, one for each port of a list.
func (n *NIC) encodeActions(actions flow.Actions, s *xdp.CardSlot) *refusal {
	if err := actions.Valid(); err != nil {
		return &refusal{"E_ACTION", err.Error()}
	}
	sent := map[flow.Port]bool{}
	vlanOps := 0
	add := func(step xdp.CardAction) {
		s.Step[s.Steps] = step
		s.Steps++
	}
	for _, a := range actions {
		switch a.Op {
		case flow.Normal, flow.Pass, flow.Set, flow.Police:
			return &refusal{"E_ACTION_UNSUPPORTED", "softnic: no action " + a.Op.String()}
		case flow.Output, flow.Mirror:
			for i, p := range a.Ports {
				if !n.has(p) {
					return &refusal{"E_PORT_ELSEWHERE", fmt.Sprintf("softnic: no port %d on this card", p)}
				}
				if sent[p] {
					return &refusal{"E_COPIES", fmt.Sprintf("softnic: a second copy to port %d", p)}
				}
				if s.Copies == maxCopies {
					return &refusal{"E_OUTPUTS", fmt.Sprintf("softnic: more than %d copies", maxCopies)}
				}
				sent[p] = true
				s.Copies++
				s.Only = uint16(p)
				add(xdp.CardAction{Op: uint8(a.Op), First: first(i), Port: uint16(p)})
			}
		case flow.VLANPush, flow.VLANPop, flow.VLANSet:
			if vlanOps++; vlanOps > maxVLANOps {
				return &refusal{"E_VLAN_OPS", fmt.Sprintf("softnic: more than %d VLAN actions", maxVLANOps)}
			}
			fallthrough
		default:
			add(xdp.CardAction{Op: uint8(a.Op), First: 1, Tag: a.Tag, Proto: a.Proto})
		}
	}
	return nil
}

func first(i int) uint8 {
	if i == 0 {
		return 1
	}
	return 0
}

func (n *NIC) has(p flow.Port) bool {
	for i := range n.about.Ports {
		if n.about.Ports[i].Port == p {
			return true
		}
	}
	return false
}

// unreadable stands for a line whose meaning is not known: it may answer any packet,
// and does nothing that an entry can do.
func unreadable(line *xdp.CardEntry) flow.Entry {
	return flow.Entry{ID: flow.EntryID(line.Id), Kind: flow.RuleEntry, Rule: flow.RuleID(line.Rule), Priority: line.Priority}
}

// decode is the inverse of encode. An error means that the card's memory holds what
// no driver wrote.
func decode(line *xdp.CardEntry, s *xdp.CardSlot) (flow.Entry, error) {
	e := flow.Entry{
		ID: flow.EntryID(line.Id), Kind: flow.EntryKind(line.Kind), Rule: flow.RuleID(line.Rule), Priority: line.Priority,
		Match: flow.Match{
			Value: line.Value, Mask: line.Mask,
			SrcPort: unbounds(line.SrcLo, line.SrcHi), DstPort: unbounds(line.DstLo, line.DstHi),
		},
	}
	if line.Kind > uint32(flow.PieceEntry) || int(s.Steps) > len(s.Step) {
		return e, fmt.Errorf("entry %x: kind %d with %d steps", e.ID, line.Kind, s.Steps)
	}
	if err := e.Match.Valid(); err != nil {
		return e, fmt.Errorf("entry %x: %w", e.ID, err)
	}
	for _, st := range s.Step[:s.Steps] {
		switch op := flow.Op(st.Op); {
		case op != flow.Output && op != flow.Mirror:
			e.Actions = append(e.Actions, flow.Action{Op: op, Tag: st.Tag, Proto: st.Proto})
		case st.First == 1:
			e.Actions = append(e.Actions, flow.Action{Op: op, Ports: []flow.Port{flow.Port(st.Port)}})
		case len(e.Actions) == 0:
			return e, fmt.Errorf("entry %x: a list of ports without a beginning", e.ID)
		default:
			a := &e.Actions[len(e.Actions)-1]
			a.Ports = append(a.Ports, flow.Port(st.Port))
		}
	}
	if e.Kind == flow.GuardEntry {
		return e, nil
	}
	if err := e.Actions.Valid(); err != nil {
		return e, fmt.Errorf("entry %x: %w", e.ID, err)
	}
	return e, nil
}
