package hwtests

import (
	"fmt"
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// dice makes random rules, changes of rules, and packets for one blade, all in the
// same small world of addresses, ports and tags, so that rules overlap and packets
// meet them.
type dice struct {
	*rand.Rand
	blade *lab.Blade
	sw    *flow.Switch
	made  int // rules so far: names and priorities are never used twice
}

func newDice(seed uint64, b *lab.Blade) (*dice, error) {
	sw, err := b.Switch(10)
	return &dice{Rand: rand.New(rand.NewPCG(seed, 0xd1ce)), blade: b, sw: sw}, err
}

func (d *dice) port() flow.Port         { return flow.Port(1 + d.IntN(d.blade.Ports.Len())) }
func (d *dice) workload() *lab.Workload { return d.blade.Workloads[d.IntN(len(d.blade.Workloads))] }
func (d *dice) oneIn(n int) bool        { return d.IntN(n) == 0 }

// rules returns n random rules of different priorities.
func (d *dice) rules(n int) []flow.Rule {
	var rules []flow.Rule
	for range n {
		d.made++
		name := fmt.Sprintf("random/r%d", d.made)
		rules = append(rules, flow.Rule{ID: flow.NewRuleID("random", name), Name: name, Tier: flow.TierTenant,
			Priority: int32(d.IntN(1000)*100_000 + d.made), Match: d.match(), Actions: d.actions()})
	}
	return rules
}

// table makes a table of rules with the blade's switch.
func (d *dice) table(gen flow.Generation, rules []flow.Rule) (*flow.Table, error) {
	return flow.NewTable(flow.TableSpec{Generation: gen, Default: flow.Actions{{Op: flow.Normal}}, Rules: rules, Switch: d.sw, Ports: d.blade.Ports})
}

func (d *dice) match() flow.Match {
	var m flow.Match
	m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
	m.Pin(flow.Flags, flow.FlagIP, flow.FlagIP)
	if d.oneIn(3) {
		m.Pin(flow.InPort, uint64(d.port()), flow.InPort.Max())
	}
	if d.oneIn(2) {
		_, lo := flow.AddrWords(d.workload().IP4)
		m.Pin(flow.DstLo, lo, 0xffffffff<<uint(d.IntN(4)))
	}
	if d.oneIn(4) {
		_, lo := flow.AddrWords(d.workload().IP4)
		m.Pin(flow.SrcLo, lo, 0xffffffff<<uint(d.IntN(4)))
	}
	if d.oneIn(4) {
		m.Pin(flow.VLAN, []uint64{0, flow.TagPresent | 10}[d.IntN(2)], flow.TagPresent|flow.TagID)
	}
	if d.oneIn(4) {
		m.Pin(flow.DstMAC, d.workload().MAC, flow.DstMAC.Max())
	}
	// Every rule looks at protocol and ports: one that matches all, in front of all others
	// and for software only, would leave the card nothing to do.
	m.Pin(flow.Proto, []uint64{flow.ProtoUDP, flow.ProtoTCP}[d.IntN(2)], 0xff)
	m.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	switch lo := uint16(d.IntN(64)); d.IntN(3) {
	case 0:
		m.SetPorts(flow.DstPort, lo, lo)
	case 1:
		m.SetPorts(flow.DstPort, lo, lo+uint16(d.IntN(32)))
	default:
		m.SetPortMask(flow.DstPort, lo, uint16(d.IntN(64))|0xffc0)
	}
	return m
}

// actions returns a random list; one in eight passes or floods, which only software
// can do.
func (d *dice) actions() flow.Actions {
	var out flow.Actions
	switch d.IntN(5) {
	case 0:
		out = append(out, flow.Action{Op: flow.VLANPush, Proto: flow.EthVLAN, Tag: uint16(d.IntN(8)<<13 | 1 + d.IntN(100))})
	case 1:
		out = append(out, flow.Action{Op: flow.VLANPop})
	case 2:
		out = append(out, flow.Action{Op: flow.VLANSet, Tag: uint16(1 + d.IntN(100))})
	}
	if d.oneIn(4) {
		out = append(out, flow.Action{Op: flow.Mirror, Ports: []flow.Port{d.port()}})
	}
	switch d.IntN(8) {
	case 0:
		return append(out, flow.Action{Op: flow.Pass})
	case 1:
		return append(out, flow.Action{Op: flow.Drop})
	case 2:
		return append(out, flow.Action{Op: flow.Normal})
	}
	ports := []flow.Port{d.port()}
	if d.oneIn(3) {
		ports = append(ports, d.port())
	}
	return append(out, flow.Action{Op: flow.Output, Ports: ports})
}

// alterOutput returns the rules with one of them sending to another port: loss and
// drop cannot be confused with it.
func (d *dice) alterOutput(rules []flow.Rule) []flow.Rule {
	rules = append([]flow.Rule(nil), rules...)
	for {
		r := &rules[d.IntN(len(rules))]
		last := r.Actions.Terminal()
		if last.Op != flow.Output {
			continue
		}
		to := last.Ports[0]%flow.Port(d.blade.Ports.Len()) + 1
		changed := append(flow.Actions(nil), r.Actions[:len(r.Actions)-1]...)
		r.Actions = append(changed, flow.Action{Op: flow.Output, Ports: append([]flow.Port{to}, last.Ports[1:]...)})
		return rules
	}
}

// alter returns the rules with one moved or narrowed, or one added or taken away so that
// there are about n.
func (d *dice) alter(rules []flow.Rule, n int) []flow.Rule {
	rules = append([]flow.Rule(nil), rules...)
	i := d.IntN(len(rules))
	switch d.IntN(4) {
	case 0, 1:
		if len(rules) <= n {
			return append(rules, d.rules(1)...)
		}
		return append(rules[:i], rules[i+1:]...)
	case 2:
		d.made++
		rules[i].Priority = int32(d.IntN(1000)*100_000 + d.made)
	default:
		rules[i].Match.Pin(flow.InPort, uint64(d.port()), flow.InPort.Max())
	}
	return rules
}

// frames returns n frames for each port of the blade: packets inside random rules,
// and one in four anywhere; some with IPv4 options, which only software answers.
func (d *dice) frames(rules []flow.Rule, n int) []Stream {
	var streams []Stream
	for _, at := range d.blade.Attached {
		s := Stream{Port: at.Port}
		for len(s.Frames) < n {
			k := d.key(at.Port)
			if r := &rules[d.IntN(len(rules))]; !d.oneIn(4) {
				into(d, &k, &r.Match)
			}
			if d.oneIn(10) {
				k.Set(flow.Flags, k.Get(flow.Flags)|flow.FlagOdd)
			}
			if flow.Port(k.Get(flow.InPort)) != at.Port {
				continue
			}
			if f := stampable(k); f != nil {
				s.Frames = append(s.Frames, f)
			}
		}
		streams = append(streams, s)
	}
	return streams
}

func (d *dice) key(in flow.Port) flow.Key {
	var k flow.Key
	from, to := d.workload(), d.workload()
	k.Set(flow.InPort, uint64(in))
	k.Set(flow.SrcMAC, from.MAC)
	k.Set(flow.DstMAC, to.MAC)
	k.Set(flow.VLAN, []uint64{0, 0, flow.TagPresent | 10, flow.TagPresent | 11}[d.IntN(4)])
	k.Set(flow.EthType, flow.EthIPv4)
	k.SetSrc(from.IP4)
	k.SetDst(to.IP4)
	k.Set(flow.Proto, []uint64{flow.ProtoUDP, flow.ProtoTCP}[d.IntN(2)])
	k.Set(flow.TTL, 64)
	k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	k.Set(flow.SrcPort, uint64(d.IntN(1<<16)))
	k.Set(flow.DstPort, uint64(d.IntN(96)))
	return k
}

// into moves k into m, bit by bit where m looks.
func into(d *dice, k *flow.Key, m *flow.Match) {
	for w := range k {
		k[w] = k[w]&^m.Mask[w] | m.Value[w]
	}
	if r := m.DstPort; !r.Any() {
		k.Set(flow.DstPort, uint64(r.Lo)+uint64(d.IntN(int(r.Hi-r.Lo)+1)))
	}
}
