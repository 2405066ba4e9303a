package tcflower

import (
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
	k.lose = func(_ uint32, b []byte) bool { return native.Uint16(b[4:]) == unix.NLMSG_ERROR }
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

// TestForeign reads filters of others: one in the card is an entry, one that software
// alone has is none, and one with a key that nobody knows is an error, never a match of
// everything.
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
	if have, err := d.Installed(t.Context()); err == nil {
		t.Errorf("a filter with an unknown key was read as %+v", have)
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
