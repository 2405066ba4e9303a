package tcflower

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Asking a card what it takes.
//
// Problem. A model is of a family of cards, and what one of them takes is decided by its
// generation, its firmware and its driver. None of these tells.
//
// Idea. Each claim of the model is tried: an entry that needs it is put in, read back, and
// taken out again. What is tried for a field is a guard, so that a card which does not look
// at the field it takes punts too much and answers nothing wrongly; what is tried for an
// action is for frames from and to addresses that nobody has, of a type that nobody uses.
// A refusal for want of room or by a failure says nothing about the claim, which stands.
//
// What it cannot show is whether a card that takes an entry does what it says: that is for
// packets (hwtests) and for the audit of whoever uses the card.

// Addresses and a type that no frame has.
const (
	unusedMAC  = 0x02b1adfffff0
	unusedType = 0x88b5 // for experiments
)

// probeID is the first ID of the entries that ask: one that is left behind by a process that
// died is ours, and wanted by nobody.
const probeID flow.EntryID = 0xb1adffffffff0000

// question is a claim and the entry that needs it.
type question struct {
	claim string
	entry flow.Entry
	deny  func(m *device.Model, again func(question)) // the card does not take it
}

// Probe asks the card for everything that the model claims. From then on the driver's model
// is without what the card surely refused. It costs some thirty entries for a moment.
func (d *Driver) Probe(ctx context.Context) ([]device.Answer, error) {
	m, err := d.Model(ctx)
	if err != nil || len(m.Ports) == 0 {
		return nil, err
	}
	m.Actions, m.Evidence = slices.Clone(m.Actions), maps.Clone(m.Evidence)
	var all []device.Answer
	ask := questions(&m)
	for len(ask) > 0 {
		answers, err := d.try(ctx, ask)
		if err != nil {
			return all, err
		}
		var more []question
		for i, a := range answers {
			if all = append(all, a); !a.Taken && a.Sure {
				ask[i].deny(&m, func(q question) { more = append(more, q) })
			}
		}
		ask = more
	}
	refused := 0
	for _, a := range all {
		if !a.Taken && a.Sure {
			refused++
		}
	}
	for _, claim := range []string{"fields", "actions"} {
		m.Evidence[claim] = device.Evidence{Tier: device.Learned, Source: fmt.Sprintf("asked of the card, which refused %d of %d claims; else %s", refused, len(all), m.Evidence[claim].Source)}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model = m
	return all, nil
}

// try puts the entries in, reads them back and takes them out.
func (d *Driver) try(ctx context.Context, ask []question) ([]device.Answer, error) {
	var add, remove []offload.Op
	for i := range ask {
		ask[i].entry.ID = probeID + flow.EntryID(i)
		add = append(add, offload.Op{Kind: offload.Add, Entry: ask[i].entry})
	}
	said := d.Apply(ctx, add)
	have, err := d.Installed(ctx)
	out := make([]device.Answer, len(ask))
	for i, o := range said {
		at := slices.IndexFunc(have, func(e flow.Entry) bool { return e.ID == ask[i].entry.ID })
		out[i] = device.Answer{Claim: ask[i].claim, Sure: true}
		switch {
		case at >= 0 && have[at].Equal(&ask[i].entry):
			out[i].Taken = true
		case at >= 0:
			out[i].Words = "it is read back as another entry"
		default:
			out[i].Words, out[i].Sure = o.Text, certain(o)
		}
		if at >= 0 || o.Status != offload.Refused {
			remove = append(remove, add[i])
			remove[len(remove)-1].Kind = offload.Remove
		}
	}
	for _, o := range d.Apply(ctx, remove) {
		if o.Status != offload.Done && o.Code != offload.CodeMissing && err == nil {
			err = fmt.Errorf("an entry that asked the card cannot be taken out: %s", o.Text)
		}
	}
	return out, err
}

// certain reports whether a refusal is about what the entry is.
func certain(o offload.Outcome) bool {
	switch o.Code {
	case "E_FIELD_UNSUPPORTED", "E_MASK_UNSUPPORTED", "E_ACTION_UNSUPPORTED", "E_RANGE_UNSUPPORTED":
		return true
	case offload.CodeDevice:
		return strings.HasSuffix(o.Text, unix.EOPNOTSUPP.Error()) || strings.HasSuffix(o.Text, unix.EOPNOTSUPP.Error()+")") || strings.HasSuffix(o.Text, unix.EINVAL.Error()+")")
	}
	return false
}

// questions are what a model claims, by itself and by its fields and actions.
func questions(m *device.Model) (out []question) {
	for p := range device.NumParts {
		if m.Fields[p] != device.No {
			if q, ok := fieldQuestion(m, p, m.Fields[p]); ok {
				out = append(out, q)
			}
		}
	}
	if m.Ranges {
		q := question{claim: "ranges", entry: blank(m), deny: func(m *device.Model, _ func(question)) { m.Ranges = false }}
		transport(&q.entry.Match)
		q.entry.Match.SetPorts(flow.DstPort, 1001, 1006)
		out = append(out, q)
	}
	if m.Punt {
		q := question{claim: "punt", entry: blank(m), deny: func(m *device.Model, _ func(question)) { m.Punt = false }}
		out = append(out, q)
	}
	to := []flow.Port{m.Ports[len(m.Ports)-1]}
	for _, op := range m.Actions {
		var does flow.Actions
		switch op {
		case flow.Drop:
		case flow.Output:
			does = flow.Actions{{Op: op, Ports: to}}
		case flow.Mirror:
			does = flow.Actions{{Op: op, Ports: to}, {Op: flow.Drop}}
		case flow.VLANPush:
			does = flow.Actions{{Op: op, Tag: 7, Proto: flow.EthVLAN}, {Op: flow.Output, Ports: to}}
		case flow.VLANPop, flow.VLANSet:
			does = flow.Actions{{Op: op}, {Op: flow.Output, Ports: to}}
			if op == flow.VLANSet {
				does[0].Tag = 7
			}
		default:
			continue
		}
		if does == nil {
			does = flow.Actions{{Op: flow.Drop}}
		}
		q := question{claim: op.String(), entry: nowhere(m, op == flow.VLANPop || op == flow.VLANSet), deny: func(m *device.Model, _ func(question)) {
			m.Actions = slices.DeleteFunc(m.Actions, func(o flow.Op) bool { return o == op })
		}}
		q.entry.Actions = does
		q.entry.Match.Pin(flow.DstMAC, unusedMAC+2+uint64(len(out)), flow.DstMAC.Max()) // no two of one priority match the same
		out = append(out, q)
	}
	return out
}

// fieldQuestion is whether a part can be matched in a way; if not, the next less is asked.
func fieldQuestion(m *device.Model, p device.Part, how device.How) (question, bool) {
	e := blank(m)
	if !matchPart(&e.Match, p, how) {
		return question{}, false
	}
	return question{claim: fmt.Sprintf("%s: %s", p, how), entry: e, deny: func(m *device.Model, again func(question)) {
		if m.Fields[p] = how - 1; m.Fields[p] != device.No {
			if q, ok := fieldQuestion(m, p, m.Fields[p]); ok {
				again(q)
			}
		}
	}}, true
}

// blank is the least that an entry of the device says: a guard for one source, or, where
// none can punt, a drop of what nobody sends.
func blank(m *device.Model) flow.Entry {
	if !m.Punt {
		return nowhere(m, false)
	}
	e := flow.Entry{Kind: flow.GuardEntry, Rule: flow.DefaultRule}
	e.Match.Pin(flow.SrcMAC, unusedMAC, flow.SrcMAC.Max())
	if m.Tags == device.TagsSaid {
		e.Match.Pin(flow.VLAN, 0, flow.TagPresent)
	}
	return e
}

// nowhere is a drop of frames that nobody sends to nobody, with a tag or without.
func nowhere(m *device.Model, tagged bool) flow.Entry {
	e := flow.Entry{Kind: flow.RuleEntry, Rule: flow.DefaultRule, Actions: flow.Actions{{Op: flow.Drop}}}
	e.Match.Pin(flow.SrcMAC, unusedMAC, flow.SrcMAC.Max())
	e.Match.Pin(flow.DstMAC, unusedMAC+1, flow.DstMAC.Max())
	e.Match.Pin(flow.EthType, unusedType, flow.EthType.Max())
	switch {
	case tagged:
		e.Match.Pin(flow.VLAN, flow.TagPresent|5, flow.TagPresent|flow.TagID)
	case m.Tags != device.TagsThere:
		e.Match.Pin(flow.VLAN, 0, flow.TagPresent)
	}
	return e
}

// transport makes m match TCP over IPv4.
func transport(m *flow.Match) {
	internet(m)
	m.Pin(flow.Proto, flow.ProtoTCP, flow.Proto.Max())
	m.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
}

// internet makes m match IPv4.
func internet(m *flow.Match) {
	m.Pin(flow.EthType, flow.EthIPv4, flow.EthType.Max())
	m.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
}

// matchPart makes m look at a part in a way; ok is false for parts that others imply.
func matchPart(m *flow.Match, p device.Part, how device.How) (ok bool) {
	pin := func(f flow.Field, v, all uint64) {
		mask := all
		switch how {
		case device.Any:
			mask &= 0xa5a5a5a5a5a5
		case device.Prefix:
			mask &^= all >> 4
		}
		m.Pin(f, v&mask, mask)
	}
	switch p {
	case device.SrcMAC:
		m.Value.Set(flow.SrcMAC, 0)
		m.Mask.Set(flow.SrcMAC, 0)
		pin(flow.SrcMAC, unusedMAC, flow.SrcMAC.Max())
	case device.DstMAC:
		m.Value.Set(flow.DstMAC, 0)
		m.Mask.Set(flow.DstMAC, 0)
		pin(flow.DstMAC, unusedMAC+1, flow.DstMAC.Max())
	case device.EthType:
		m.Pin(flow.EthType, unusedType, flow.EthType.Max())
	case device.VLANID, device.VLANPrio, device.CVLANID, device.CVLANPrio:
		f, prio := flow.VLAN, p == device.VLANPrio || p == device.CVLANPrio
		if p == device.CVLANID || p == device.CVLANPrio {
			m.Pin(flow.VLAN, flow.TagPresent, flow.TagPresent)
			f = flow.CVLAN
		}
		if prio {
			m.Pin(f, flow.TagPresent|3<<13, flow.TagPresent|flow.TagPrio)
		} else {
			m.Pin(f, flow.TagPresent|5, flow.TagPresent|flow.TagID)
		}
	case device.SrcIP, device.DstIP:
		internet(m)
		pin(map[device.Part]flow.Field{device.SrcIP: flow.SrcLo, device.DstIP: flow.DstLo}[p], 0xc0000201, 1<<32-1) // for documentation
	case device.Proto:
		internet(m)
		m.Pin(flow.Proto, 253, flow.Proto.Max()) // for experiments
	case device.TOS, device.TTL:
		internet(m)
		pin(map[device.Part]flow.Field{device.TOS: flow.TOS, device.TTL: flow.TTL}[p], 0xff, 0xff)
	case device.SrcPort, device.DstPort:
		transport(m)
		f := map[device.Part]flow.Field{device.SrcPort: flow.SrcPort, device.DstPort: flow.DstPort}[p]
		switch how {
		case device.Any:
			m.SetPortMask(f, 0xa5a5, 0xa5a5)
		case device.Prefix:
			m.SetPorts(f, 0xa000, 0xafff)
		default:
			m.SetPorts(f, 0xa5a5, 0xa5a5)
		}
	case device.TCPFlags:
		transport(m)
		pin(flow.TCPFlags, 0xfff, 0xfff)
	default:
		return false
	}
	return true
}
