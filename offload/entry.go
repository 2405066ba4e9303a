package offload

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// An entry's priority says what it is, and nothing about its neighbours, so that
// no edit of other rules moves it:
//
//	bits 63-61  band: 7 station guards, 6 pieces, 5 … 0 the tiers, system first
//	bits 60-29  the rule's priority + 1; the default rule has 0 here
//	bits 28-1   the upper bits of the rule's ID, inverted: a lower ID is asked first
//	bit  0      1 for the rule itself, 0 for its guard, which is asked right after it
//
// A guard of rule Q punts what is left of Q's packets before a later rule can
// answer them. It sits below Q's own entries, so a rule that is only partly in
// hardware can have both.
//
// Two rules of one priority whose IDs agree in 28 bits share a level. If they also
// overlap, the later one stays in software with E_ORDER. IDs are hashes: among
// 1,000 such rules that happens with a probability of 0.2 %.
const (
	bandShift    = 61
	ruleShift    = 29
	bandGuard    = 7
	bandPiece    = 6
	levelIsRule  = 1
	idBits       = ruleShift - 1
	stationGuard = uint64(bandGuard) << bandShift
	pieceLevel   = uint64(bandPiece) << bandShift
)

// guardLevel returns the priority of r's guard.
func guardLevel(r *flow.Rule) uint64 {
	tier := uint64(flow.TierDefault) - min(uint64(r.Tier), uint64(flow.TierDefault))
	id := ^uint64(r.ID) >> (64 - idBits)
	return tier<<bandShift | uint64(int64(r.Priority)+1)<<ruleShift | id<<1
}

// ruleLevel returns the priority of r's own entries: one above its guard.
func ruleLevel(r *flow.Rule) uint64 { return guardLevel(r) | levelIsRule }

// sealed returns e with its ID: our mark and 48 bits of a hash over everything
// else. Equal entries have equal IDs on every blade and in every generation, and
// an entry that was altered in the device gives itself away.
func sealed(e flow.Entry) flow.Entry {
	h := sha256.New()
	var b []byte
	be := binary.BigEndian
	b = append(b, byte(e.Kind))
	b = be.AppendUint64(b, uint64(e.Rule))
	b = be.AppendUint64(b, e.Priority)
	for i := range e.Match.Value {
		b = be.AppendUint64(b, e.Match.Value[i])
		b = be.AppendUint64(b, e.Match.Mask[i])
	}
	for _, r := range []flow.PortRange{e.Match.SrcPort, e.Match.DstPort} {
		b = be.AppendUint16(b, r.Lo)
		b = be.AppendUint16(b, r.Hi)
	}
	for _, a := range e.Actions {
		b = append(b, byte(a.Op), byte(len(a.Ports)>>8), byte(len(a.Ports)))
		for _, p := range a.Ports {
			b = be.AppendUint16(b, uint16(p))
		}
		b = be.AppendUint16(b, a.Tag)
		b = be.AppendUint16(b, a.Proto)
		if a.Op == flow.Police {
			b = be.AppendUint64(be.AppendUint32(b, a.Burst), a.Rate)
		}
		if a.Op == flow.Set {
			b = append(b, byte(len(a.Settings)))
		}
		for _, s := range a.Settings {
			b = be.AppendUint64(be.AppendUint64(append(b, byte(s.Field)), s.Value), s.Mask)
		}
	}
	h.Write(b)
	e.ID = mark | flow.EntryID(be.Uint64(h.Sum(nil))>>16)
	return e
}

// Canary returns a guard, above all that answers, for the packets of k's flow as far as a
// device of model m can tell them from others: it changes no verdict. ok is false if the
// device cannot hold it.
func Canary(m *device.Model, k *flow.Key) (e flow.Entry, ok bool) {
	match := flow.Match{}
	for _, f := range [...]flow.Field{flow.InPort, flow.SrcMAC, flow.DstMAC, flow.EthType, flow.SrcHi, flow.SrcLo, flow.DstHi, flow.DstLo, flow.Proto} {
		match.Pin(f, k.Get(f), f.Max())
	}
	match.Pin(flow.VLAN, k.Get(flow.VLAN), flow.TagPresent|flow.TagID)
	match.Pin(flow.Flags, k.Get(flow.Flags), flow.FlagIP|flow.FlagL4)
	if k.Get(flow.Flags)&flow.FlagL4 != 0 {
		match.SetPorts(flow.SrcPort, uint16(k.Get(flow.SrcPort)), uint16(k.Get(flow.SrcPort)))
		match.SetPorts(flow.DstPort, uint16(k.Get(flow.DstPort)), uint16(k.Get(flow.DstPort)))
	}
	match = m.Widen(&match)
	return sealed(flow.Entry{Kind: flow.GuardEntry, Rule: flow.DefaultRule, Priority: stationGuard, Match: match}), m.Admit(&match, nil, flow.GuardEntry) == nil
}

// Shield returns a guard right above e, for the packets of match, which lies in e's: what it
// punts is what e would have answered. ok is false if the device cannot hold it.
func Shield(m *device.Model, e *flow.Entry, match *flow.Match) (guard flow.Entry, ok bool) {
	guard = flow.Entry{Kind: flow.GuardEntry, Rule: flow.DefaultRule, Priority: e.Priority + 1, Match: *match}
	return sealed(guard), e.Priority+1 != 0 && m.Admit(match, nil, flow.GuardEntry) == nil
}

// genuine reports whether e is ours and as we made it.
func genuine(e *flow.Entry) bool { return Ours(e.ID) && sealed(*e).ID == e.ID }

// highestFirst orders entries as they are added: whatever an entry relies on has a
// higher priority and so comes before it.
func highestFirst(a, b *flow.Entry) int {
	return cmp.Or(cmp.Compare(b.Priority, a.Priority), cmp.Compare(a.ID, b.ID))
}

// lowestFirst orders entries as they are removed.
func lowestFirst(a, b *flow.Entry) int { return highestFirst(b, a) }
