package device

import "github.com/bladeflow/bladeflow/flow"

// How far actions on tags may go without knowing the tags: a filter of tc flower does to every
// packet that it matches what it says, so what depends on tags has to be matched. The model
// (Admit) and the driver (offload/tcflower) ask the same here.

// Stack is what is known of the tags of a frame on its way through a list of actions.
type Stack struct {
	Most  int    // tags that it has at most
	Outer uint16 // type of the outer tag; 0 is none, 1 is not known
}

// StackOf returns what a match says of the tags of its packets.
func StackOf(m *flow.Match) Stack {
	here := func(f flow.Field) (pinned, there bool) {
		return m.Mask.Get(f)&flow.TagPresent != 0, m.Value.Get(f)&flow.TagPresent != 0
	}
	pinned, there := here(flow.VLAN)
	switch inner, second := here(flow.CVLAN); {
	case pinned && !there:
		return Stack{0, 0}
	case !pinned:
		return Stack{2, 1}
	case inner && !second || m.Mask.Get(flow.EthType) != 0 && !second:
		return Stack{1, flow.EthVLAN}
	default:
		return Stack{2, flow.EthVLAN}
	}
}

// After returns what is known after an action, or why no filter of tc flower can do it to
// all such packets.
func (s Stack) After(a *flow.Action) (Stack, *Refusal) {
	switch a.Op {
	case flow.VLANPush:
		if s.Most == flow.MaxTags {
			return s, &Refusal{"E_FIELD_NEEDED", "tc flower: a frame with two tags would get a third", "match vlan_id: none, or one tag"}
		}
		return Stack{s.Most + 1, a.Proto}, nil
	case flow.VLANPop:
		outer := uint16(1)
		if s.Most <= 1 {
			outer = 0
		}
		return Stack{max(s.Most-1, 0), outer}, nil
	case flow.VLANSet:
		if s.Outer == 1 {
			return s, &Refusal{"E_FIELD_NEEDED", "tc flower: the type of the tag that it sets is not known", "match a vlan_id"}
		}
	}
	return s, nil
}
