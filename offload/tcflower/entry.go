package tcflower

import (
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Port is one port of a device: its number in the tables and its netdev.
type Port struct {
	Port   flow.Port
	Device uint32 // index of the netdev: the representor
}

// site is where entries go: the ports of one device, and who works the filters.
type site struct {
	ports    []Port
	software bool // the kernel does, and no card
}

func (s *site) device(p flow.Port) (uint32, bool) {
	i := slices.IndexFunc(s.ports, func(x Port) bool { return x.Port == p })
	if i < 0 {
		return 0, false
	}
	return s.ports[i].Device, true
}

func (s *site) port(device uint32) (flow.Port, bool) {
	i := slices.IndexFunc(s.ports, func(x Port) bool { return x.Device == device })
	if i < 0 {
		return 0, false
	}
	return s.ports[i].Port, true
}

// placed is a filter and the label it belongs to.
type placed struct {
	Filter
	label label
}

// encode returns the filters of an entry, all but their tc priority and handle.
func (s *site) encode(e *flow.Entry) ([]placed, *device.Refusal) {
	if err := e.Match.Valid(); err != nil {
		return nil, unsaid("E_MATCH", err.Error(), "report it")
	}
	devices, why := s.devices(e)
	if why != nil {
		return nil, why
	}
	m := e.Match
	m.Value.Set(flow.InPort, 0)
	m.Mask.Set(flow.InPort, 0)
	answers := e.Kind != flow.GuardEntry
	fs, rest, why := saying(&m, answers)
	if why != nil {
		return nil, why
	}
	actions, why := s.actions(e)
	if why != nil {
		return nil, why
	}
	if n := len(devices) * len(fs); n > 1 && e.Actions.Metered() {
		return nil, unsaid("E_POLICE_PART", fmt.Sprintf("it polices, and would be %d filters, each with a meter of its own", n), "match one in_port, eth_type, ip_proto and vlan_id")
	}
	l := label{priority: e.Priority, kind: e.Kind, rest: rest, anyPort: e.Match.Mask.Get(flow.InPort) == 0}
	l.typeOpen, l.protOpen = m.Mask.Get(flow.EthType) == 0, m.Mask.Get(flow.Proto) == 0
	l.tagsOpen = m.Mask.Get(flow.CVLAN) == 0
	var out []placed
	for i := range actions {
		actions[i].Shared = !s.software
	}
	for _, dev := range devices {
		for _, f := range fs {
			f.Device, f.Parent, f.Actions = dev, Ingress, actions
			f.Flags = Verbose | SkipSW
			if s.software {
				f.Flags = SkipHW
			}
			l.protocol = f.Protocol
			out = append(out, placed{f, l})
		}
	}
	return out, nil
}

// devices returns the netdevs on which an entry is looked up.
func (s *site) devices(e *flow.Entry) ([]uint32, *device.Refusal) {
	switch e.Match.Mask.Get(flow.InPort) {
	case 0:
		var all []uint32
		for _, p := range s.ports {
			all = append(all, p.Device)
		}
		if len(all) == 0 {
			return nil, unsaid("E_DEVICE_AWAY", "none of the device's ports is there", "none needed: all packets come to software")
		}
		return all, nil
	case flow.InPort.Max():
		if dev, ok := s.device(flow.Port(e.Match.Value.Get(flow.InPort))); ok {
			return []uint32{dev}, nil
		}
		return nil, unsaid("E_PORT_ELSEWHERE", fmt.Sprintf("port %d is not one of this device", e.Match.Value.Get(flow.InPort)), "none needed: that port's device holds the rule")
	}
	return nil, unsaid("E_MASK_UNSUPPORTED", "in_port is matched whole", "name one in_port")
}

// cookie is the mark on a filter's first action: whose entry it is.
func cookie(e *flow.Entry) []byte {
	return be.AppendUint64(be.AppendUint64(nil, uint64(e.ID)), uint64(e.Rule))
}

// The cookie of every further action says whether it is one more port of the action
// before it, or begins another.
const (
	furtherPort byte = iota
	nextAction
)

// actions writes an entry's actions.
func (s *site) actions(e *flow.Entry) ([]Action, *device.Refusal) {
	mark := cookie(e)
	if e.Kind == flow.GuardEntry {
		punt := Trap
		if s.software {
			punt = Pass // a trap is for cards: software would drop the packet
		}
		return []Action{{Kind: "gact", Verdict: punt, Cookie: mark}}, nil
	}
	if err := e.Actions.Valid(); err != nil {
		return nil, unsaid("E_ACTION", err.Error(), "report it")
	}
	var out []Action
	tagged := device.StackOf(&e.Match)
	for i := range e.Actions {
		steps, why := s.action(&e.Actions[i], &e.Match, tagged)
		if why == nil {
			tagged, why = tagged.After(&e.Actions[i])
		}
		if why != nil {
			return nil, why
		}
		for j := range steps {
			steps[j].Cookie = []byte{furtherPort}
			if j == 0 {
				steps[j].Cookie = []byte{nextAction}
			}
			if j == 0 && i > 0 && e.Actions[i-1].Op == flow.Police {
				steps[j].Cookie = be.AppendUint32([]byte{nextAction}, e.Actions[i-1].Burst)
			}
		}
		out = append(out, steps...)
	}
	out[0].Cookie = mark
	return out, nil
}

// action writes one action for the packets of m, which come to it tagged as t says: a step for
// each port of a list.
func (s *site) action(a *flow.Action, m *flow.Match, t device.Stack) ([]Action, *device.Refusal) {
	if (a.Op == flow.VLANPush || a.Op == flow.VLANSet) && a.Tag&flow.TagID == flow.TagID {
		return nil, unsaid("E_ACTION_UNSUPPORTED", "the kernel gives no frame VLAN 4095", "use another VLAN")
	}
	switch a.Op {
	case flow.Drop:
		return []Action{{Kind: "gact", Verdict: Drop}}, nil
	case flow.VLANPush:
		return []Action{{Kind: "vlan", Verdict: Pipe, VLAN: VLAN{How: Push, ID: a.Tag & flow.TagID, HasID: true, Prio: byte(a.Tag >> 13), HasPrio: true, Proto: a.Proto}}}, nil
	case flow.VLANPop:
		return []Action{{Kind: "vlan", Verdict: Pipe, VLAN: VLAN{How: Pop}}}, nil
	case flow.VLANSet:
		return []Action{{Kind: "vlan", Verdict: Pipe, VLAN: VLAN{How: Modify, ID: a.Tag, HasID: true, Proto: flow.EthVLAN}}}, nil
	case flow.Output, flow.Mirror:
		var out []Action
		for i, p := range a.Ports {
			dev, ok := s.device(p)
			if !ok {
				return nil, unsaid("E_PORT_ELSEWHERE", fmt.Sprintf("port %d is not one of this device", p), "send to a port of the same device")
			}
			step := Action{Kind: "mirred", Verdict: Pipe, Mirred: Mirred{Mirror, dev}}
			if a.Op == flow.Output && i == len(a.Ports)-1 {
				step.Verdict, step.Mirred.How = Stolen, Redirect
			}
			out = append(out, step)
		}
		return out, nil
	case flow.Set:
		return setActions(a, m, t)
	case flow.Police:
		step, why := policeAction(a)
		return []Action{step}, why
	}
	return nil, unsaid("E_ACTION_UNSUPPORTED", "no action "+a.Op.String(), "leave it out: software does it")
}

// readActions is the inverse of actions, for a kind that is no guard.
func (s *site) readActions(as []Action) (flow.Actions, error) {
	var out flow.Actions
	for i := range as {
		a := &as[i]
		if len(a.Unknown) > 0 {
			return nil, fmt.Errorf("action %s: attribute %d is not known", a.Kind, a.Unknown[0].Kind)
		}
		further := i > 0 && len(a.Cookie) == 1 && a.Cookie[0] == furtherPort
		switch {
		case a.Kind == "gact" && a.Verdict == Drop:
			out = append(out, flow.Action{Op: flow.Drop})
		case a.Kind == "vlan" && a.VLAN.How == Pop && a.Verdict == Pipe:
			out = append(out, flow.Action{Op: flow.VLANPop})
		case a.Kind == "vlan" && a.VLAN.How == Push && a.VLAN.HasID && a.Verdict == Pipe:
			out = append(out, flow.Action{Op: flow.VLANPush, Tag: uint16(a.VLAN.Prio)<<13 | a.VLAN.ID, Proto: a.VLAN.Proto})
		case a.Kind == "vlan" && a.VLAN.How == Modify && a.VLAN.HasID && !a.VLAN.HasPrio && a.Verdict == Pipe:
			out = append(out, flow.Action{Op: flow.VLANSet, Tag: a.VLAN.ID})
		case a.Kind == "mirred" && (a.Mirred.How == Mirror && a.Verdict == Pipe || a.Mirred.How == Redirect && a.Verdict == Stolen):
			p, ok := s.port(a.Mirred.Device)
			if !ok {
				return nil, fmt.Errorf("action mirred: device #%d is no port here", a.Mirred.Device)
			}
			if !further || len(out) == 0 {
				out = append(out, flow.Action{Op: flow.Mirror})
			}
			last := &out[len(out)-1]
			last.Ports = append(last.Ports, p)
			if a.Mirred.How == Redirect {
				last.Op = flow.Output
			}
		case a.Kind == "pedit" && a.Verdict == Pipe:
			set, err := readSet(a)
			if err != nil {
				return nil, err
			}
			out = append(out, set)
		case a.Kind == "csum" && a.Verdict == Pipe && further && len(out) > 0 && out[len(out)-1].Op == flow.Set: // what it says is compared with what it would have to
		case a.Kind == "police":
			var next *Action
			if i+1 < len(as) {
				next = &as[i+1]
			}
			police, err := readPolice(a, next)
			if err != nil {
				return nil, err
			}
			out = append(out, police)
		default:
			return nil, fmt.Errorf("action %s with verdict %d, which no entry has", a.Kind, a.Verdict)
		}
	}
	return out, out.Valid()
}

// owner reads a filter's mark.
func owner(f *Filter) (id flow.EntryID, rule flow.RuleID, ok bool) {
	if len(f.Actions) == 0 || len(f.Actions[0].Cookie) != CookieSize {
		return 0, 0, false
	}
	c := f.Actions[0].Cookie
	return flow.EntryID(be.Uint64(c)), flow.RuleID(be.Uint64(c[8:])), true
}

// assemble returns the entry that these filters are, all of which have its ID. A set
// that is not whole, or not as encode makes it, is an entry for every packet that does
// nothing: nobody takes that for right, and it can be removed like any other.
func (s *site) assemble(fs []*placed) flow.Entry {
	e, err := s.read(fs)
	if err == nil {
		var want []placed
		var why *device.Refusal
		if want, why = s.encode(&e); why == nil && same(want, fs) {
			return e
		}
	}
	id, rule, _ := owner(&fs[0].Filter)
	return flow.Entry{ID: id, Kind: flow.RuleEntry, Rule: rule, Priority: fs[0].label.priority}
}

// read takes the entry from the first of its filters: all of them have the same label,
// but for the protocol.
func (s *site) read(fs []*placed) (flow.Entry, error) {
	f := fs[0]
	id, rule, _ := owner(&f.Filter)
	e := flow.Entry{ID: id, Kind: f.label.kind, Rule: rule, Priority: f.label.priority}
	m, _, err := hear(&f.Filter)
	if err != nil {
		return e, err
	}
	forget := func(field flow.Field) {
		m.Value.Set(field, 0)
		m.Mask.Set(field, 0)
	}
	if f.label.typeOpen {
		forget(flow.EthType)
	}
	if f.label.protOpen {
		forget(flow.Proto)
	}
	if f.label.tagsOpen {
		forget(flow.CVLAN)
	}
	for i := range m.Mask {
		m.Mask[i] |= f.label.rest.Mask[i]
		m.Value[i] |= f.label.rest.Value[i]
	}
	if r := f.label.rest.SrcPort; !r.Any() {
		m.SrcPort = r
	}
	if r := f.label.rest.DstPort; !r.Any() {
		m.DstPort = r
	}
	if !f.label.anyPort {
		p, ok := s.port(f.Device)
		if !ok {
			return e, fmt.Errorf("%s: no port of this device", &f.Filter)
		}
		m.Pin(flow.InPort, uint64(p), flow.InPort.Max())
	}
	e.Match = m
	if f.label.kind != flow.GuardEntry {
		e.Actions, err = s.readActions(f.Actions)
	}
	return e, err
}

// same reports whether the filters that are there are those wanted, in any order, and
// each is where it has to work.
func same(want []placed, have []*placed) bool {
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if !slices.ContainsFunc(have, func(h *placed) bool {
			return h.Device == want[i].Device && h.label == want[i].label && slices.EqualFunc(h.Keys, want[i].told(), equalKeys) && works(h, want[i].Flags) &&
				slices.EqualFunc(h.Actions, want[i].Actions, equalActions)
		}) {
			return false
		}
	}
	return true
}

// works reports whether a filter is where the flags asked for it: one that only a card
// should work has to be in a card.
func works(h *placed, asked Flags) bool {
	return asked&SkipSW == 0 && h.Flags&SkipHW != 0 || asked&SkipSW != 0 && h.Flags&(SkipSW|InHW) == SkipSW|InHW
}

func equalKeys(a, b Key) bool {
	return a.ID == b.ID && slices.Equal(a.Value, b.Value) && slices.Equal(a.Mask, b.Mask)
}

func equalActions(a, b Action) bool {
	if a.VLAN.How == Pop { // the kernel tells the type of a tag that it takes off, too
		a.VLAN, b.VLAN = VLAN{How: a.VLAN.How}, VLAN{How: b.VLAN.How}
	}
	if a.VLAN.How == Modify {
		a.VLAN.HasPrio, b.VLAN.HasPrio = false, false
	}
	return a.Kind == b.Kind && a.Verdict == b.Verdict && slices.Equal(a.Cookie, b.Cookie) && a.Mirred == b.Mirred && a.VLAN == b.VLAN &&
		slices.Equal(a.Edits, b.Edits) && a.Csum == b.Csum && a.Police == b.Police
}

// foreign returns what a filter that is not bladeflow's is to the planner: what it
// matches, and more where it looks at what no entry does, or is of another kind; and what it
// does, if it is wholly understood. ok is
// false if no card has it. Its ID is made of where it is.
func (s *site) foreign(f *Filter) (e flow.Entry, ok bool) {
	if !s.software && f.Flags&InHW == 0 {
		return e, false
	}
	p, ok := s.port(f.Device)
	if !ok {
		return e, false
	}
	m, whole := atLeast(f)
	m.Pin(flow.InPort, uint64(p), flow.InPort.Max())
	where := uint64(p)<<48 | uint64(f.Priority)<<32 | uint64(f.Handle)
	e = flow.Entry{ID: flow.EntryID(where &^ (1 << 63)), Kind: flow.RuleEntry, Priority: uint64(1<<16-1-f.Priority) << 48, Match: m}
	switch as, err := s.readActions(f.Actions); {
	case !whole:
	case len(f.Actions) == 1 && f.Actions[0].Kind == "gact" && f.Actions[0].Verdict == Trap:
		e.Kind = flow.GuardEntry
	case err == nil && !slices.ContainsFunc(as, func(a flow.Action) bool { return a.Op == flow.Set || a.Op == flow.Police }): // theirs may be where the packet has no such header, and their meters are theirs
		e.Actions = as
	}
	return e, true
}

// atLeast returns the packets that a filter may match, without its port: those of the keys
// that a match can say. Every key and every attribute that is not known matches less; whole
// says that there are none, and that it is these packets.
func atLeast(f *Filter) (m flow.Match, whole bool) {
	said := Filter{Protocol: f.Protocol}
	for _, k := range f.Keys {
		if _, _, err := hear(&Filter{Keys: []Key{k}}); err == nil {
			said.Keys = append(said.Keys, k)
		}
	}
	m, _, err := hear(&said)
	if f.Other != "" || err != nil || m.Valid() != nil {
		return flow.Match{}, false
	}
	return m, len(said.Keys) == len(f.Keys) && len(f.Unknown) == 0
}
