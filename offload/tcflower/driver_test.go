package tcflower

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

var ports = []Port{{1, 11}, {2, 12}, {3, 13}}

// on returns a driver for three ports of a fake kernel, with a model that ships.
func on(t *testing.T, k *fake, model string, software bool) *Driver {
	t.Helper()
	m, err := device.Load(model)
	if err != nil {
		t.Fatal(err)
	}
	m.Entries = k.size / len(ports)
	d, err := open(Options{Model: m, Ports: ports, Software: software}, k)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// base is what every entry of the suite pins: untagged IPv4, which answers need.
func base() flow.Match {
	var m flow.Match
	m.Pin(flow.EthType, flow.EthIPv4, flow.EthType.Max())
	m.Pin(flow.VLAN, 0, flow.TagPresent)
	return m
}

// TestConformance runs the suite of all drivers on the fake kernel, with a card and
// without, for the models of cards that take tc flower.
func TestConformance(t *testing.T) {
	for _, model := range []string{"tcamsim", "mlx5"} {
		for _, software := range []bool{false, true} {
			t.Run(model+map[bool]string{false: "", true: "/software"}[software], func(t *testing.T) {
				k := &fake{}
				offloadtest.Run(t, func(t *testing.T) offload.Driver {
					*k = fake{interrupt: 3}
					if !software && model == "tcamsim" {
						k.size = 90
					}
					return on(t, k, model, software)
				}, offloadtest.Options{Ports: []flow.Port{1, 2, 3}, Base: base(), Admits: func(e *flow.Entry) bool {
					s := site{ports, software}
					_, why := s.encode(e)
					return why == nil
				}})
			})
		}
	}
}

// tcp is an entry that drops TCP of IPv4 to a port, from port 1 of the device.
func tcp(id flow.EntryID, priority uint64, to uint16) flow.Entry {
	e := flow.Entry{ID: id, Rule: flow.RuleID(id), Priority: priority, Match: base(), Actions: flow.Actions{{Op: flow.Drop}}}
	e.Match.Pin(flow.InPort, 1, flow.InPort.Max())
	e.Match.Pin(flow.Proto, flow.ProtoTCP, flow.Proto.Max())
	e.Match.SetPorts(flow.DstPort, to, to)
	return e
}

func adds(es ...flow.Entry) []offload.Op {
	var ops []offload.Op
	for _, e := range es {
		ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
	}
	return ops
}

// TestFragments: a card that does not look at what filters pin of fragments answers them,
// and its model has to say so, whatever is pinned.
func TestFragments(t *testing.T) {
	for model, looks := range map[string]bool{"ice": false, "bnxt": false, "mlx5": true, "nfp": true} {
		m, err := device.Load(model)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []Options{{Model: m, Ports: ports}, {Model: m, Ports: ports, Software: true}} {
			missed := narrowed(o).Missed
			for _, bit := range []uint64{flow.FlagOdd, flow.FlagFragFirst, flow.FlagFragLater} {
				var k flow.Key
				k.Set(flow.Flags, bit)
				want := bit == flow.FlagOdd || looks || o.Software
				if got := slices.ContainsFunc(missed, func(m flow.Match) bool { return m.Matches(&k) }); got != want {
					t.Errorf("%s, in software %t: packets with flag %#x are missed: %t", model, o.Software, bit, got)
				}
			}
		}
	}
}

// TestTyped: the planner learns from the model, and not from a refusal, that an entry that
// answers has to say its eth_type. Guards need not.
func TestTyped(t *testing.T) {
	m, err := device.Load("tcamsim")
	if err != nil {
		t.Fatal(err)
	}
	m = narrowed(Options{Model: m, Ports: ports})
	drop := flow.Actions{{Op: flow.Drop}}
	var all, ip flow.Match
	ip.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	ip.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
	if why, ok := errors.AsType[*device.Refusal](m.Admit(&all, drop, flow.RuleEntry)); !ok || why.Code != "E_FIELD_NEEDED" {
		t.Errorf("an answer for all packets: %v", why)
	}
	if err := m.Admit(&all, nil, flow.GuardEntry); err != nil {
		t.Errorf("a guard for all packets: %v", err)
	}
	if err := m.Admit(&ip, drop, flow.RuleEntry); err != nil {
		t.Errorf("an answer for IPv4: %v", err)
	}
}

// TestFull gives a table of 10 entries 100: ten are in, and each of the others is
// refused with a code and the card's own words.
func TestFull(t *testing.T) {
	k := &fake{size: 10}
	d := on(t, k, "tcamsim", false)
	var es []flow.Entry
	for i := range 100 {
		es = append(es, tcp(flow.EntryID(i+1), uint64(i/10), uint16(i)))
	}
	for i, out := range d.Apply(t.Context(), adds(es...)) {
		full := out.Code == offload.CodeFull && out.Text == "fake: TCAM full (no space left on device)" && out.Status == offload.Refused
		if i < 10 && out.Status != offload.Done || i >= 10 && !full {
			t.Errorf("entry %d: %+v", i, out)
		}
	}
	if have, err := d.Installed(t.Context()); err != nil || len(have) != 10 {
		t.Errorf("%d entries are in, %v", len(have), err)
	}
}

// TestFailures lets the card fail at every n-th filter, for entries of several filters:
// what is refused leaves nothing behind, and what is done is in.
func TestFailures(t *testing.T) {
	for every := 1; every < 20; every++ {
		k := &fake{failEvery: every}
		d := on(t, k, "tcamsim", false)
		var es []flow.Entry
		for i := range 40 {
			e := tcp(flow.EntryID(i+1), uint64(i), uint16(i))
			e.Match.Value.Set(flow.InPort, 0)
			e.Match.Mask.Set(flow.InPort, 0)
			es = append(es, e)
		}
		in := map[flow.EntryID]bool{}
		for i, out := range d.Apply(t.Context(), adds(es...)) {
			in[es[i].ID] = out.Status == offload.Done
			if out.Status == offload.Unknown || out.Status == offload.Refused && out.Code != offload.CodeDevice {
				t.Errorf("every %d: entry %d: %+v", every, i, out)
			}
		}
		have, err := d.Installed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := range es {
			there := slices.ContainsFunc(have, func(e flow.Entry) bool { return e.Equal(&es[i]) })
			if there != in[es[i].ID] {
				t.Errorf("every %d: entry %d: said %v, is %v", every, i, in[es[i].ID], there)
			}
		}
		for _, f := range k.filters {
			if f.Parent == Egress && !slices.ContainsFunc(k.filters, func(o Filter) bool { return o.Parent == Ingress && o.Device == f.Device && o.Priority == f.Priority }) {
				t.Errorf("every %d: a label of nothing: %s", every, &f)
			}
		}
	}
}

// TestSilence loses the answer to a batch: nothing is claimed, and a later driver reads
// what is there.
func TestSilence(t *testing.T) {
	k := &fake{}
	d := on(t, k, "tcamsim", false)
	ready := false // the port is made ready before anything is put in
	k.lose = func(_ uint32, b []byte) bool {
		lost := native.Uint16(b[4:]) == unix.NLMSG_ERROR && ready
		ready = ready || native.Uint16(b[4:]) == unix.NLMSG_ERROR
		return lost
	}
	for i, out := range d.Apply(t.Context(), adds(tcp(1, 1, 80), tcp(2, 1, 81))) {
		if out.Status != offload.Unknown || out.Code != offload.CodeTimeout {
			t.Errorf("entry %d: %+v", i, out)
		}
	}
	k.lose = nil
	if _, err := on(t, k, "tcamsim", false).Installed(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestForeign reads filters of others: one in the card is an entry, and one that software
// alone has is none. One with a key that nobody knows matches at most what the entry for it
// does, which is not everything, and one of another kind at most all of its port.
func TestForeign(t *testing.T) {
	k := &fake{}
	d := on(t, k, "tcamsim", false)
	theirs := Filter{Device: 11, Parent: Ingress, Priority: 7, Protocol: flow.EthIPv4, Handle: 1, Actions: []Action{{Kind: "gact", Verdict: Drop}}}
	theirs.put(KeyEthType, []byte{8, 0}, nil)
	k.add(theirs)
	soft := theirs
	soft.Priority, soft.Flags = 8, SkipHW
	k.add(soft)
	have, err := d.Installed(t.Context())
	if err != nil || len(have) != 1 || offload.Ours(have[0].ID) || have[0].Match.Value.Get(flow.EthType) != flow.EthIPv4 {
		t.Fatalf("installed %+v, %v", have, err)
	}
	if out := d.Apply(t.Context(), adds(tcp(1, 5, 80))); out[0].Status != offload.Done {
		t.Errorf("beside a foreign filter: %+v", out)
	}
	odd := theirs
	odd.Priority, odd.Unknown = 9, []Attribute{{200, []byte{1, 2}}}
	k.add(odd)
	police := Filter{Device: 11, Parent: Ingress, Priority: 10, Protocol: EthAll, Handle: 1, Flags: InHW, Other: "matchall"}
	elsewhere := police
	elsewhere.Priority, elsewhere.Flags = 11, NotInHW
	k.filters = append(k.filters, police, elsewhere)
	have, err = d.Installed(t.Context())
	if err != nil || len(have) != 4 {
		t.Fatalf("installed %+v, %v", have, err)
	}
	for _, e := range have {
		var want flow.Match
		switch want.Pin(flow.InPort, 1, flow.InPort.Max()); {
		case e.ID == 1: // what was put in
			continue
		case e.Priority != uint64(1<<16-1-10)<<48:
			want.Pin(flow.EthType, flow.EthIPv4, flow.EthType.Max())
			want.Pin(flow.VLAN, 0, flow.TagPresent)
		}
		if e.Match != want {
			t.Errorf("%x is read as %s", uint64(e.ID), flow.FormatMatch(&e.Match, nil))
		}
	}
}

// TestLabelLost takes labels away: what they were of is ours still, is no entry that anybody
// takes for right, and goes.
func TestLabelLost(t *testing.T) {
	k := &fake{}
	d := on(t, k, "tcamsim", false)
	e := tcp(0xb1ad<<48|1, 5, 80)
	d.Apply(t.Context(), adds(e))
	k.filters = slices.DeleteFunc(k.filters, func(f Filter) bool { return f.Parent == Egress })
	have, err := d.Installed(t.Context())
	if err != nil || len(have) != 1 || have[0].ID != e.ID || have[0].Equal(&e) {
		t.Fatalf("installed %+v, %v", have, err)
	}
	for i, out := range d.Apply(t.Context(), []offload.Op{{Kind: offload.Remove, Entry: have[0]}, {Kind: offload.Add, Entry: e}}) {
		if out.Status != offload.Done {
			t.Errorf("operation %d: %+v", i, out)
		}
	}
	if have, err := d.Installed(t.Context()); err != nil || len(have) != 1 || !have[0].Equal(&e) {
		t.Errorf("installed %+v, %v", have, err)
	}
}

// TestPortsComeAndGo takes a port away and gives it back under another number: the model
// says which there are, entries that other ports have stay, and one that has to be on all
// ports is altered until it is.
func TestPortsComeAndGo(t *testing.T) {
	k, there := &fake{}, []Port{{1, 11}, {2, 12}}
	m, err := device.Load("tcamsim")
	if err != nil {
		t.Fatal(err)
	}
	d, err := open(Options{Model: m, Find: func() []Port { return there }}, k)
	if err != nil {
		t.Fatal(err)
	}
	one, every := tcp(1, 5, 80), tcp(2, 6, 81)
	every.Match.Value.Set(flow.InPort, 0)
	every.Match.Mask.Set(flow.InPort, 0)
	for _, out := range d.Apply(t.Context(), adds(one, every)) {
		if out.Status != offload.Done {
			t.Fatalf("%+v", out)
		}
	}
	check := func(when string, ports []flow.Port, want ...flow.Entry) {
		t.Helper()
		m, _ := d.Model(t.Context())
		have, err := d.Installed(t.Context())
		if err != nil || !slices.Equal(m.Ports, ports) || !slices.EqualFunc(have, want, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
			t.Errorf("%s: ports %v, installed %+v, %v", when, m.Ports, have, err)
		}
	}
	check("at first", []flow.Port{1, 2}, one, every)
	there = there[:1]
	check("without the second", []flow.Port{1}, one, every)
	if out := d.Apply(t.Context(), adds(func() flow.Entry {
		e := tcp(3, 7, 82)
		e.Match.Pin(flow.InPort, 2, flow.InPort.Max())
		return e
	}())); out[0].Code != "E_PORT_ELSEWHERE" {
		t.Errorf("for a port that is not there: %+v", out)
	}
	there = append(there, Port{2, 99})
	check("with it back", []flow.Port{1, 2}, one, flow.Entry{ID: 2, Rule: every.Rule, Priority: 6})
	for i, out := range d.Apply(t.Context(), []offload.Op{{Kind: offload.Remove, Entry: every}, {Kind: offload.Add, Entry: every}}) {
		if out.Status != offload.Done {
			t.Errorf("operation %d: %+v", i, out)
		}
	}
	check("put right", []flow.Port{1, 2}, one, every)
}

// TestDelivered reads what left by a port and what of that software sent, and leaves ports
// out whose driver does not tell both.
func TestDelivered(t *testing.T) {
	stats := func(kind uint16, packets uint64) []byte {
		var w writer
		w.attribute(kind, native.AppendUint64(make([]byte, 8), packets)...)
		return w.b
	}
	head := make([]byte, statsMsgSize)
	var both writer
	both.b = append(append(both.b, head...), stats(statsLink64, 100)...)
	both.nest(statsOffload, func() { both.b = append(both.b, stats(statsCPUHit, 40)...) })
	if all, cpu, ok := sent(both.b); !ok || all != 100 || cpu != 40 {
		t.Errorf("%d, %d, %v", all, cpu, ok)
	}
	for what, body := range map[string][]byte{"nothing": nil, "a head": head, "no CPU hits": append(slices.Clone(head), stats(statsLink64, 1)...), "half an attribute": both.b[:len(both.b)-3]} {
		if _, _, ok := sent(body); ok {
			t.Errorf("%s was read", what)
		}
	}
}

// TestAltered changes a filter behind the driver's back: it is no longer the entry, and
// can be removed.
func TestAltered(t *testing.T) {
	for name, change := range map[string]func(f *Filter){
		"key":     func(f *Filter) { f.Keys = f.Keys[1:] },
		"action":  func(f *Filter) { f.Actions[0].Verdict = Pass },
		"not in":  func(f *Filter) { f.Flags = f.Flags&^InHW | NotInHW },
		"unknown": func(f *Filter) { f.Unknown = []Attribute{{200, nil}} },
	} {
		t.Run(name, func(t *testing.T) {
			k := &fake{}
			d := on(t, k, "tcamsim", false)
			e := tcp(1, 5, 80)
			if out := d.Apply(t.Context(), adds(e)); out[0].Status != offload.Done {
				t.Fatalf("%+v", out)
			}
			i := slices.IndexFunc(k.filters, func(f Filter) bool { return f.Parent == Ingress })
			k.filters[i].Actions = slices.Clone(k.filters[i].Actions)
			change(&k.filters[i])
			have, err := d.Installed(t.Context())
			if err != nil || len(have) != 1 || have[0].Equal(&e) || have[0].ID != e.ID {
				t.Fatalf("installed %+v, %v", have, err)
			}
			if out := d.Apply(t.Context(), []offload.Op{{Kind: offload.Remove, Entry: have[0]}}); out[0].Status != offload.Done {
				t.Errorf("remove: %+v", out)
			}
			if len(k.filters) != 0 {
				t.Errorf("left: %v", k.filters)
			}
		})
	}
}
