package flowtest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Axis is a field and the values it takes in a [Universe].
type Axis struct {
	Field  flow.Field
	Values []uint64
}

// Bits is the axis of every value that the n bits of f from bit shift on can have.
func Bits(f flow.Field, shift, n int) Axis {
	a := Axis{Field: f}
	for v := range uint64(1) << n {
		a.Values = append(a.Values, v<<shift)
	}
	return a
}

// Universe is a small set of keys, so small that a claim about all packets can be
// tried on every one of them. Each is a key that a packet can have
// ([flow.Possible]), so a claim about frames can be tried too.
//
// Its rules are random and look only at its axes, in every way a rule can look at
// them: not at all, exactly, under a mask, at a range of ports.
type Universe struct {
	Name string
	Keys []flow.Key

	axes []Axis
}

// NewUniverse makes the universe of the keys that equal base except in the axes,
// leaving out those that no packet can have. It panics if none is left.
func NewUniverse(name string, base flow.Key, axes ...Axis) *Universe {
	keys := []flow.Key{base}
	for _, a := range axes {
		var more []flow.Key
		for _, k := range keys {
			for _, v := range a.Values {
				k.Set(a.Field, v)
				more = append(more, k)
			}
		}
		keys = more
	}
	keys = slices.DeleteFunc(keys, func(k flow.Key) bool { return !flow.Possible(&k) })
	if len(keys) == 0 {
		panic(fmt.Sprintf("universe %s: no packet has any of its keys", name))
	}
	return &Universe{Name: name, Keys: keys, axes: axes}
}

// TCP returns the key of an untagged IPv4 TCP packet from port 2 between two
// workloads, the usual base of a universe.
func TCP() flow.Key {
	var k flow.Key
	k.Set(flow.InPort, 2)
	k.Set(flow.SrcMAC, 0x02_00_00_00_00_02)
	k.Set(flow.DstMAC, 0x02_00_00_00_00_03)
	k.Set(flow.EthType, flow.EthIPv4)
	k.Set(flow.SrcLo, 10<<24|2)
	k.Set(flow.DstLo, 10<<24|3)
	k.Set(flow.Proto, flow.ProtoTCP)
	k.Set(flow.TTL, 64)
	k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	k.Set(flow.SrcPort, 1024)
	k.Set(flow.DstPort, 80)
	return k
}

// Universes returns universes that between them have every field of a key, each of
// at most 1,024 keys.
func Universes() []*Universe {
	v4 := TCP()
	v6 := v4
	v6.Set(flow.EthType, flow.EthIPv6)
	v6.Set(flow.SrcHi, 0x20010db8<<32)
	v6.Set(flow.DstHi, 0x20010db8<<32)
	return []*Universe{
		NewUniverse("ports", v4, Bits(flow.SrcPort, 0, 4), Bits(flow.DstPort, 0, 4)),
		NewUniverse("addresses", v4, Bits(flow.SrcLo, 0, 3), Bits(flow.DstLo, 6, 3), Bits(flow.DstPort, 0, 2)),
		NewUniverse("switch", v4, Axis{flow.InPort, []uint64{1, 2, 3}}, Bits(flow.SrcMAC, 0, 1),
			Axis{flow.DstMAC, []uint64{0x02_00_00_00_00_02, 0x02_00_00_00_00_03, 0x02_00_00_00_00_99, 0xff_ff_ff_ff_ff_ff}},
			Axis{flow.VLAN, []uint64{0, flow.TagPresent | 1, flow.TagPresent | 2, flow.TagPresent | 1 | 5<<13}},
			Axis{flow.CVLAN, []uint64{0, flow.TagPresent | 3}}),
		NewUniverse("protocols", v4, Axis{flow.EthType, []uint64{flow.EthIPv4, flow.EthIPv6, flow.EthARP}},
			Axis{flow.SrcLo, []uint64{0, 10<<24 | 2}}, Axis{flow.DstLo, []uint64{0}}, Axis{flow.TTL, []uint64{0, 64}},
			Axis{flow.Proto, []uint64{0, flow.ProtoICMP, flow.ProtoTCP, flow.ProtoUDP, flow.ProtoICMPv6}},
			Axis{flow.Flags, []uint64{0, flow.FlagIP, flow.FlagIP | flow.FlagL4, flow.FlagIP | flow.FlagL4 | flow.FlagFragFirst,
				flow.FlagIP | flow.FlagFragLater, flow.FlagIP | flow.FlagL4 | flow.FlagOdd}},
			Axis{flow.SrcPort, []uint64{0, 8}}, Axis{flow.DstPort, []uint64{0, 80}}),
		NewUniverse("header", v4, Bits(flow.TOS, 2, 2), Bits(flow.TTL, 0, 3), Bits(flow.TCPFlags, 0, 3), Bits(flow.DstPort, 14, 2)),
		NewUniverse("ipv6", v6, Bits(flow.SrcHi, 8, 1), Bits(flow.SrcLo, 62, 2), Bits(flow.DstHi, 0, 2), Bits(flow.DstLo, 0, 1), Bits(flow.DstPort, 0, 2)),
	}
}

// Key returns a random key of u.
func (u *Universe) Key(rng *rand.Rand) flow.Key { return u.Keys[rng.IntN(len(u.Keys))] }

// Match returns a random match that looks at the axes of u only. It need not hold
// any key of u, but mostly does.
func (u *Universe) Match(rng *rand.Rand) flow.Match {
	var m flow.Match
	k := u.Key(rng)
	for _, a := range u.axes {
		v := k.Get(a.Field)
		var vary uint64 // the bits in which values of the axis differ
		for _, w := range a.Values {
			vary |= w ^ a.Values[0]
		}
		other := a.Values[rng.IntN(len(a.Values))]
		isPort := a.Field == flow.SrcPort || a.Field == flow.DstPort
		if rng.IntN(len(u.axes)+2) < len(u.axes)-1 {
			continue // not at all: the more axes, the more often, so that matches do not get too narrow
		}
		switch choice := rng.IntN(10); {
		case choice < 3 && isPort:
			m.SetPorts(a.Field, uint16(min(v, other)), uint16(max(v, other)))
		case choice < 5 && isPort:
			m.SetPortMask(a.Field, uint16(v), uint16(rng.Uint64()&vary|a.Field.Max()&^vary))
		case choice < 5 && maskable(a.Field):
			m.Pin(a.Field, v, rng.Uint64()&vary)
		case isPort:
			m.SetPorts(a.Field, uint16(v), uint16(v))
		default:
			m.Pin(a.Field, v, a.Field.Max())
		}
	}
	return m
}

// maskable reports whether the contract lets a rule look at some bits of f only.
// Ports are not: they have their own ways.
func maskable(f flow.Field) bool {
	switch f {
	case flow.InPort, flow.EthType, flow.Proto, flow.SrcPort, flow.DstPort:
		return false
	}
	return true
}

// Rules returns n random rules over u with actions that use ports. Priorities are
// unique in a random order, so the rules make a table.
func (u *Universe) Rules(rng *rand.Rand, n int, ports []flow.Port) []flow.Rule {
	rules := make([]flow.Rule, n)
	for i, p := range rng.Perm(n) {
		name := fmt.Sprintf("r%d", i)
		rules[i] = flow.Rule{ID: flow.NewRuleID(u.Name, name), Name: u.Name + "/" + name, Tier: flow.TierTenant, Priority: int32(p),
			Match: u.Match(rng), Actions: Actions(rng, ports)}
	}
	return rules
}

// Table returns a table of n random rules over u with a random default, ports 1, 2
// and 3 named as on a blade, and a switch on which port 1 is the uplink and the
// others have a station each, untagged and in VLANs 1 and 2.
func (u *Universe) Table(rng *rand.Rand, n int) *flow.Table {
	ports := []flow.Port{1, 2, 3}
	return NewTable(u.Rules(rng, n, ports), Actions(rng, ports))
}

// NewTable makes a table of rules and a default on the ports and the switch that
// [Universe.Table] describes. It panics if the rules make no table.
func NewTable(rules []flow.Rule, byDefault flow.Actions) *flow.Table {
	var stations []flow.Station
	for vlan := range uint16(3) {
		for _, p := range []flow.Port{2, 3} {
			stations = append(stations, flow.Station{VLAN: vlan, MAC: 0x02_00_00_00_00_00 | uint64(p), Port: p})
		}
	}
	sw, err := flow.NewSwitch(1, stations...)
	if err != nil {
		panic(err)
	}
	t, err := flow.NewTable(flow.TableSpec{Generation: 1, Default: byDefault, Rules: rules, Switch: sw,
		Ports: flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1")})
	if err != nil {
		panic(err)
	}
	return t
}

// Change returns a table one edit away from t: a rule less, a rule more over u, or
// a rule that acts differently. The generation is one higher, the rest stays.
func (u *Universe) Change(rng *rand.Rand, t *flow.Table) *flow.Table {
	var rules []flow.Rule
	ports := []flow.Port{1, 2, 3}
	for i := range t.Len() {
		rules = append(rules, *t.Rule(i))
	}
	switch at := rng.IntN(len(rules) + 1); {
	case at == len(rules):
		more := u.Rules(rng, 1, ports)[0]
		name := fmt.Sprintf("g%d", t.Generation()) // of its own, whatever was deleted before
		more.ID, more.Name = flow.NewRuleID(u.Name, name), u.Name+"/"+name
		for _, r := range rules {
			more.Priority = max(more.Priority, r.Priority+1)
		}
		rules = append(rules, more)
	case rng.IntN(2) == 0:
		rules = slices.Delete(rules, at, at+1)
	default:
		rules[at].Actions = Actions(rng, ports)
	}
	next, err := flow.NewTable(flow.TableSpec{Generation: t.Generation() + 1, Default: t.Default(), Rules: rules,
		Switch: t.Switch(), Ports: t.Ports()})
	if err != nil {
		panic(err)
	}
	return next
}
