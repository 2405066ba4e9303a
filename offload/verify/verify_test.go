package verify

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

var blade = flow.NewPorts("uplink", "vf0", "vf1")

// read makes a table of rules in text, and entries of lines that look like rules:
// the name is that of the rule they answer for, and a guard starts with `guard`.
func read(t *testing.T, rules, entries []string) (*flow.Table, []flow.Entry) {
	t.Helper()
	parse := func(s string) flow.Rule {
		r, err := flow.ParseRule(s, blade)
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		return r
	}
	spec := flow.TableSpec{Switch: testSwitch, Ports: blade}
	for _, s := range rules {
		spec.Rules = append(spec.Rules, parse(s))
	}
	table, err := flow.NewTable(spec)
	if err != nil {
		t.Fatal(err)
	}
	var out []flow.Entry
	for i, s := range entries {
		s, guard := strings.CutPrefix(s, "guard ")
		if guard {
			s += " actions=drop"
		}
		r := parse(s)
		e := flow.Entry{ID: flow.EntryID(i + 1), Rule: r.ID, Priority: uint64(r.Priority), Match: r.Match, Actions: r.Actions}
		if guard {
			e.Kind, e.Actions = flow.GuardEntry, nil
		}
		if r.Name == "default" {
			e.Rule = flow.DefaultRule
		}
		out = append(out, e)
	}
	return table, out
}

// TestCheck is the cases that a reader would ask for. complaint is part of the
// error, or empty if the device is right.
func TestCheck(t *testing.T) {
	const (
		web  = "name=web,priority=200,ip_proto=tcp,dst_port=80-443 actions=output:vf0"
		host = "name=host,priority=100,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1"
		sw   = "name=switched,priority=50,eth_type=arp actions=normal"
	)
	rules := []string{web, host, sw}
	none := flow.Match{}
	odd := pin(flow.Flags, flow.FlagOdd, flow.FlagOdd)
	for _, c := range []struct {
		name      string
		entries   []string
		order     device.Order
		missed    []flow.Match
		complaint string
	}{
		{name: "nothing is right"},
		{name: "the first rule needs no guard",
			entries: []string{"name=web,priority=9,ip_proto=tcp,dst_port=80-443 actions=output:vf0"}},
		{name: "a later rule without a guard",
			entries:   []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1"},
			complaint: "the table asks rule web first"},
		{name: "a guard of the same priority is none",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"guard name=host,priority=9,ip_proto=tcp,dst_port=80-443"},
			complaint: "the table asks rule web first"},
		{name: "a guard",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"guard name=host,priority=10,ip_proto=tcp,dst_port=80-443"}},
		{name: "a guard where the order is undefined",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"guard name=host,priority=10,ip_proto=tcp,dst_port=80-443"},
			order: device.Undefined, complaint: "the table asks rule web first"},
		{name: "the rule before it is a guard too",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"name=web,priority=10,ip_proto=tcp,dst_port=80-443 actions=output:vf0"}},
		{name: "two guards that leave no port between them",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"guard name=host,priority=10,ip_proto=tcp,dst_port=80-300", "guard name=host,priority=11,ip_proto=tcp,dst_port=301-65535"}},
		{name: "two guards that leave one",
			entries: []string{"name=host,priority=9,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1",
				"guard name=host,priority=10,ip_proto=tcp,dst_port=80-300", "guard name=host,priority=11,ip_proto=tcp,dst_port=302-65535"},
			complaint: "dst_port=301"},
		{name: "a piece beside the rule before it",
			entries: []string{"name=host,eth_type=ipv4,dst_ip=10.0.0.7,ip_proto=udp,dst_port=53 actions=output:vf1"}, order: device.Undefined},
		{name: "a piece beside its own rule",
			entries:   []string{"name=host,eth_type=ipv4,dst_ip=10.0.1.7,ip_proto=udp,dst_port=53 actions=output:vf1"},
			complaint: "the match of rule host does not hold the packet, which the table answers by rule default"},
		{name: "wrong actions",
			entries:   []string{"name=web,ip_proto=tcp,dst_port=80 actions=output:vf1"},
			complaint: "its actions do not do to the packet what those of rule web do"},
		{name: "other actions that do the same",
			entries: []string{"name=web,ip_proto=tcp,dst_port=80 actions=vlan_push:1,vlan_pop,output:vf0"},
			// On a frame with two tags the push drops it.
			complaint: "its actions do not do to the packet what those of rule web do"},
		{name: "the same where only one tag is possible",
			entries: []string{"name=web,ip_proto=tcp,dst_port=80,vlan_id=none actions=vlan_push:1,vlan_pop,output:vf0"}},
		{name: "a foreign entry", entries: []string{"name=stranger,ip_proto=udp actions=output:vf1"}, complaint: "is not in the table"},
		{name: "a foreign entry that answers nothing real",
			entries: []string{"name=stranger,bare,ip_proto=udp actions=output:vf1"}, missed: []flow.Match{none}},
		{name: "a foreign guard", entries: []string{"guard name=stranger,ip_proto=udp"}},
		{name: "the default", entries: []string{"name=default,eth_type=0x88cc actions=drop"}},
		{name: "booked to the wrong rule",
			entries:   []string{"name=host,eth_type=0x88cc actions=drop"},
			complaint: "the same is emitted, but the wrong rule would count it"},
		{name: "normal without a station",
			entries: []string{"name=switched,eth_type=arp actions=output:uplink"}, complaint: "dst_mac"},
		{name: "normal, and it may come from there",
			entries:   []string{"name=switched,eth_type=arp,vlan_id=none,dst_mac=02:00:00:00:00:0a actions=output:vf0"},
			complaint: "in_port=vf0"},
		{name: "normal, from elsewhere",
			entries: []string{"name=switched,eth_type=arp,vlan_id=none,dst_mac=02:00:00:00:00:0a,in_port=vf1 actions=output:vf0"}},
		{name: "normal, below a guard for what comes from there",
			entries: []string{"name=switched,priority=1,eth_type=arp,vlan_id=none,dst_mac=02:00:00:00:00:0a actions=output:vf0",
				"guard name=switched,priority=2,in_port=vf0"}},
		{name: "normal in the other VLAN",
			entries:   []string{"name=switched,eth_type=arp,vlan_id=2,dst_mac=02:00:00:00:00:0a,in_port=vf1 actions=output:vf0"},
			complaint: "its actions do not do"},
		{name: "normal to nobody known, and floods",
			entries: []string{"name=switched,priority=1,eth_type=arp,vlan_id=none actions=output:uplink",
				"guard name=switched,priority=2,in_port=uplink", "guard name=switched,priority=2,dst_mac=02:00:00:00:00:0a",
				"guard name=switched,priority=2,dst_mac=02:00:00:00:00:0b"},
			complaint: "dst_mac=01:00:00:00:00:00"},
		{name: "normal to nobody known",
			entries: []string{"name=switched,priority=1,eth_type=arp,vlan_id=none actions=output:uplink",
				"guard name=switched,priority=2,in_port=uplink", "guard name=switched,priority=2,dst_mac=02:00:00:00:00:0a",
				"guard name=switched,priority=2,dst_mac=02:00:00:00:00:0b",
				"guard name=switched,priority=2,dst_mac=01:00:00:00:00:00/01:00:00:00:00:00"}},
		{name: "normal itself", entries: []string{sw}, complaint: "neither the table's switch"},
		{name: "what the device misses needs no guard",
			entries: []string{"name=host,eth_type=ipv4,dst_ip=10.0.0.0/24 actions=output:vf1"},
			missed:  []flow.Match{odd, pin(flow.Proto, flow.ProtoTCP, 0xff)}},
	} {
		t.Run(c.name, func(t *testing.T) {
			table, entries := read(t, rules, c.entries)
			m := anyDevice(c.order, c.missed...)
			if m.Order == "" {
				m.Order = device.Honoured
			}
			err := Check(table, entries, m)
			if (err == nil) != (c.complaint == "") || err != nil && !strings.Contains(err.Error(), c.complaint) {
				t.Fatalf("got %v, want %q", err, c.complaint)
			}
			var bad *Mismatch
			if errors.As(err, &bad) {
				if why := (&trial{table: table, entries: entries, model: m}).confirm(bad); why != nil {
					t.Fatal(why)
				}
			}
			var fault *flow.Fault
			if err != nil && (!errors.As(err, &fault) || fault.Code == "") {
				t.Fatalf("%v has no code", err)
			}
		})
	}
}

// TestUnreadable gives entries whose meaning is not known.
func TestUnreadable(t *testing.T) {
	table, good := read(t, []string{"name=web,priority=1,ip_proto=tcp actions=output:vf0"}, []string{"name=web,ip_proto=tcp actions=output:vf0"})
	for name, spoil := range map[string]func(*flow.Entry){
		"no actions":         func(e *flow.Entry) { e.Actions = nil },
		"unknown action":     func(e *flow.Entry) { e.Actions = flow.Actions{{Op: 99}, {Op: flow.Drop}} },
		"no port":            func(e *flow.Entry) { e.Actions = flow.Actions{{Op: flow.Output}} },
		"guard with actions": func(e *flow.Entry) { e.Kind = flow.GuardEntry },
		"pass":               func(e *flow.Entry) { e.Actions = flow.Actions{pass} },
	} {
		e := good[0]
		spoil(&e)
		var unsure *Unprovable
		if err := Check(table, []flow.Entry{e}, plainDevice); !errors.As(err, &unsure) || unsure.Culprit() != e.ID {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDenotation has devices that do not take some matches: nobody knows what an
// entry with one matches, so it is not proved, and it is no guard.
func TestDenotation(t *testing.T) {
	table, entries := read(t, []string{"name=web,priority=2,ip_proto=tcp,dst_port=80 actions=output:vf0", "name=rest,priority=1,eth_type=ipv4 actions=output:vf1"},
		[]string{"name=web,priority=2,ip_proto=tcp,dst_port=80 actions=output:vf0", "name=rest,priority=1,eth_type=ipv4 actions=output:vf1", "guard name=web,priority=2,ip_proto=tcp,dst_port=80",
			"guard name=web,priority=3,eth_type=ipv4,ip_proto=tcp,dst_port=80", "name=rest,priority=1,eth_type=ipv4,ip_proto=udp actions=output:vf1"})
	web, rest, guard, narrow, udp := entries[0], entries[1], entries[2], entries[3], entries[4]
	noPorts, needsProto, onlyUDP := anyDevice(device.Honoured), anyDevice(device.Honoured), anyDevice(device.Honoured)
	noPorts.Fields[device.DstPort] = device.No
	needsProto.Needs = []device.Part{device.EthType, device.Proto}
	onlyUDP.Protocols = []uint8{flow.ProtoUDP}
	for _, c := range []struct {
		model     device.Model
		entries   []flow.Entry
		complaint string
	}{
		{anyDevice(device.Honoured), []flow.Entry{web, rest}, ""},
		{anyDevice(device.Constant), []flow.Entry{web, rest}, "the table asks rule web first"},
		{anyDevice("of a later version"), []flow.Entry{web, rest}, "the table asks rule web first"},
		{anyDevice(device.Constant), []flow.Entry{web, udp}, ""},
		{noPorts, []flow.Entry{web}, "what it really matches is not known: "},
		{noPorts, []flow.Entry{guard, rest}, "the table asks rule web first"},
		{noPorts, []flow.Entry{guard, udp}, ""},
		{onlyUDP, []flow.Entry{web}, "what it really matches is not known: "},
		{onlyUDP, []flow.Entry{guard, rest}, "the table asks rule web first"},
		{needsProto, []flow.Entry{guard, rest}, "what it really matches is not known: "},
		{needsProto, []flow.Entry{narrow, udp}, ""},
	} {
		err := Check(table, c.entries, c.model)
		if (err == nil) != (c.complaint == "") || err != nil && !strings.Contains(err.Error(), c.complaint) {
			t.Errorf("%v on %+v: got %v, want %q", c.entries, c.model, err, c.complaint)
		}
	}
}

// TestTwice gives two entries with one ID, equal and not.
func TestTwice(t *testing.T) {
	table, entries := read(t, []string{"name=web,priority=1,ip_proto=tcp actions=output:vf0"},
		[]string{"name=web,ip_proto=tcp,dst_port=1 actions=output:vf0", "name=web,ip_proto=tcp,dst_port=2 actions=output:vf0"})
	other := entries[1]
	other.ID = entries[0].ID
	for _, second := range []flow.Entry{other, entries[0]} {
		for _, list := range [][]flow.Entry{{entries[0], second}, {second, entries[0]}, {second, entries[1], entries[0]}} {
			var p Prover
			for range 2 {
				var unsure *Unprovable
				if err := p.Check(table, list, plainDevice); !errors.As(err, &unsure) || unsure.Culprit() != entries[0].ID || !strings.Contains(err.Error(), "ID 0x1 too") {
					t.Errorf("%v: %v", list, err)
				}
				if err := p.Check(table, entries, plainDevice); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestMatchForms reads back entries whose match is in no valid form.
func TestMatchForms(t *testing.T) {
	table, entries := read(t, []string{"name=web,priority=1,ip_proto=tcp,dst_port=80-90 actions=output:vf0"},
		[]string{"name=web,ip_proto=tcp,dst_port=80-90 actions=output:vf0"})
	m := &entries[0].Match
	m.Value.Set(flow.TTL, 7) // outside the mask: says nothing
	m.SrcPort = flow.PortRange{Lo: 0, Hi: 0xffff}
	if err := Check(table, entries, plainDevice); err != nil {
		t.Error(err)
	}
	m.DstPort = flow.PortRange{Lo: 90, Hi: 80} // holds nothing
	if p, err := Prove(table, entries, plainDevice); err != nil || p.Entries != 1 {
		t.Error(p, err)
	}
	m.DstPort = flow.PortRange{Lo: 91, Hi: 91}
	if err := Check(table, entries, plainDevice); err == nil {
		t.Error("port 91 is not in the rule")
	}
}

// unsatisfiable makes guards that cover a rule, in a way that takes longer to see
// than the cap allows: they are the clauses of a formula that nothing satisfies.
func unsatisfiable(t *testing.T) (*flow.Table, []flow.Entry) {
	const vars, clauses = 120, 700
	table, entries := read(t, []string{"name=first,priority=2,eth_type=ipv6 actions=output:vf0", "name=second,priority=1,eth_type=ipv6,ip_proto=udp actions=output:vf1"},
		[]string{"name=second,priority=1,eth_type=ipv6,ip_proto=udp actions=output:vf1"})
	rng := rand.New(rand.NewPCG(1, 1))
	for n := range clauses {
		g := flow.Entry{ID: flow.EntryID(10 + n), Kind: flow.GuardEntry, Priority: 2}
		for _, v := range rng.Perm(vars)[:3] {
			w, bit := 3+v/64, uint64(1)<<(v%64)
			g.Match.Mask[w] |= bit
			g.Match.Value[w] |= bit & -uint64(rng.IntN(2))
		}
		entries = append(entries, g)
	}
	return table, entries
}

// TestUnprovable has an entry that is right and cannot be proved so.
func TestUnprovable(t *testing.T) {
	table, entries := unsatisfiable(t)
	var unsure *Unprovable
	if err := Check(table, entries, plainDevice); !errors.As(err, &unsure) {
		t.Fatal(err)
	}
	t.Log(unsure)
	// A packet that differs is better than not knowing.
	wrong := entries[0]
	wrong.ID, wrong.Priority = 9, 3
	wrong.Match = pin(flow.EthType, 0x88cc, 0xffff)
	var bad *Mismatch
	if err := Check(table, append(entries, wrong), plainDevice); !errors.As(err, &bad) || bad.Culprit() != 9 {
		t.Fatal(err)
	}
}

// TestFewBoxes proves an entry for a station below rules on different fields. Its
// packets are what none of them holds; to see that every address above 32 bits belongs
// to IPv6, which the first rule has, took 4,420 boxes for each of the classes that a
// switch makes, and so the cap did not suffice.
func TestFewBoxes(t *testing.T) {
	const mac = 2<<40 | 3
	ports := flow.NewPorts("uplink", "vf0", "vf1")
	sw, err := flow.NewSwitch(1, flow.Station{MAC: mac, Port: 3}, flow.Station{MAC: mac, VLAN: 1, Port: 3})
	if err != nil {
		t.Fatal(err)
	}
	spec := flow.TableSpec{Switch: sw, Ports: ports, Default: flow.Actions{{Op: flow.Normal}}}
	var entries []flow.Entry
	for i, text := range []string{
		"name=v6,priority=4,eth_type=ipv6 actions=drop",
		"name=nobody,priority=3,bare,src_ip=::/::ffff:ffff:ffff:ffff actions=output:uplink",
		"name=web,priority=2,bare,src_ip=::a00:2/::ffff:ffff:ffff:ffff,flags=0x05/0x1d actions=pass",
		"name=tcp,priority=1,bare,ip_proto=tcp actions=pass",
	} {
		r, err := flow.ParseRule(text, ports)
		if err != nil {
			t.Fatal(err)
		}
		r.ID = flow.RuleID(i + 1)
		spec.Rules = append(spec.Rules, r)
		e := flow.Entry{ID: flow.EntryID(i + 1), Rule: r.ID, Priority: uint64(10 + r.Priority), Match: r.Match, Actions: r.Actions}
		if r.Actions.Terminal().Op == flow.Pass {
			e.Kind, e.Actions = flow.GuardEntry, nil
		}
		entries = append(entries, e)
	}
	to := flow.Entry{ID: 5, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{3}}}}
	to.Match.Pin(flow.DstMAC, mac, flow.DstMAC.Max())
	to.Match.Pin(flow.VLAN, 0, flow.TagPresent)
	back := flow.Entry{ID: 6, Kind: flow.GuardEntry, Priority: 20, Match: to.Match}
	back.Match.Pin(flow.InPort, 3, flow.InPort.Max())
	table, err := flow.NewTable(spec)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := Prove(table, append(entries, to, back), plainDevice); err != nil || p.Boxes > 1000 {
		t.Errorf("%+v, %v", p, err)
	}
}

// TestPrefersDifference has two faults, of which the later one changes emissions.
func TestPrefersDifference(t *testing.T) {
	table, entries := read(t, []string{"name=a,priority=2,ip_proto=tcp actions=output:vf0", "name=b,priority=1,ip_proto=udp actions=output:vf0"},
		[]string{"name=b,priority=9,ip_proto=tcp actions=output:vf0", "name=b,priority=1,ip_proto=udp actions=output:vf1"})
	var bad *Mismatch
	if err := Check(table, entries, plainDevice); !errors.As(err, &bad) || !bad.Differs() || bad.Entry.ID != 2 {
		t.Error(err)
	}
	if err := Check(table, entries[:1], plainDevice); !errors.As(err, &bad) || bad.Differs() || bad.Entry.ID != 1 {
		t.Error(err)
	}
}

// TestProof looks at the counts.
func TestProof(t *testing.T) {
	table, entries := read(t, []string{"name=a,priority=2,ip_proto=tcp actions=output:vf0", "name=b,priority=1,eth_type=ipv4 actions=output:vf1"},
		[]string{"name=a,priority=2,ip_proto=tcp actions=output:vf0", "name=b,priority=1,eth_type=ipv4 actions=output:vf1"})
	got, err := Prove(table, entries, plainDevice)
	if want := (Proof{Entries: 2, Rules: 2}); err != nil || got != want {
		t.Errorf("got %+v %v, want %+v", got, err, want)
	}
}

func ExampleCheck() {
	ports := flow.NewPorts("uplink", "vf0", "vf1")
	web, _ := flow.ParseRule("name=web,priority=2,ip_proto=tcp,dst_port=443 actions=output:vf0", ports)
	rest, _ := flow.ParseRule("name=rest,priority=1,eth_type=ipv4 actions=output:vf1", ports)
	table, _ := flow.NewTable(flow.TableSpec{Rules: []flow.Rule{web, rest}, Ports: ports})
	installed := []flow.Entry{{ID: 7, Rule: rest.ID, Match: rest.Match, Actions: rest.Actions}}
	softnic, _ := device.Load("softnic")
	fmt.Println(Check(table, installed, softnic))
	// Output: entry 0x7, packet ip_proto=tcp,src_ip=0.0.0.0,dst_ip=0.0.0.0,src_port=0,dst_port=443: the table asks rule web first, and nothing in the device does: remove the entry
}
