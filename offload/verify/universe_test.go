package verify

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/bladeflow/bladeflow/flow"
)

// A universe is a few parts of the key, all that the rules and entries of a test
// look at, and one packet for every combination of them that a packet can have. So
// a statement about all packets becomes one about at most two thousand, and the
// oracle simply tries them.
type universe struct {
	name    string
	dims    []dim
	actions []flow.Actions
	sw      *flow.Switch

	keys   []flow.Key
	effect [][]int // [action][key]: equal numbers are equal emissions, on every frame of the key
}

// dim is one part of the key: the matches tried on it, and so many values that
// every combination of these matches is told apart by one of them.
type dim struct {
	field   flow.Field
	mask    uint64 // the bits the matches look at
	values  []uint64
	matches []flow.Match
}

// bitsUnder looks at every subset of the bits of mask.
func bitsUnder(f flow.Field, mask uint64) dim {
	d := dim{field: f, mask: mask}
	for m := mask; ; m = (m - 1) & mask {
		d.values = append(d.values, m)
		for v := m; m != 0; v = (v - 1) & m {
			d.matches = append(d.matches, pin(f, v, m))
			if v == 0 {
				break
			}
		}
		if m == 0 {
			return d
		}
	}
}

// exactly looks at whole values; others stand for all that are not listed.
func exactly(f flow.Field, others []uint64, values ...uint64) dim {
	d := dim{field: f, mask: f.Max(), values: slices.Concat(values, others)}
	for _, v := range values {
		d.matches = append(d.matches, pin(f, v, f.Max()))
	}
	return d
}

// tag looks at presence, at ids exactly, and at one bit of the priority; id 5
// stands for all that nobody names.
func tag(f flow.Field, ids ...uint64) dim {
	const prio, looked = 0x2000, flow.TagPresent | flow.TagID | 0x2000
	d := dim{field: f, mask: looked, values: []uint64{0}, matches: []flow.Match{
		pin(f, 0, looked), pin(f, flow.TagPresent, flow.TagPresent), pin(f, flow.TagPresent|prio, flow.TagPresent|prio)}}
	for _, id := range append(ids, 5) {
		d.values = append(d.values, flow.TagPresent|id, flow.TagPresent|id|prio)
		d.matches = append(d.matches, pin(f, flow.TagPresent|id, flow.TagPresent|flow.TagID), pin(f, flow.TagPresent|id|prio, looked))
	}
	d.matches = d.matches[:len(d.matches)-2]
	return d
}

// stationMACs looks at two stations, at more MACs, and at the group bit.
func stationMACs(more ...uint64) dim {
	d := exactly(flow.DstMAC, []uint64{macNobody, macGroup}, append(more, macA, macB)...)
	d.matches = append(d.matches, pin(flow.DstMAC, 0, groupMAC), pin(flow.DstMAC, groupMAC, groupMAC))
	return d
}

// ports looks at ports below 8 by ranges and by the lowest three bits; 8 … 15
// stand for all ports above.
func ports(f flow.Field) dim {
	d := dim{field: f, mask: 0xffff}
	for v := range uint64(16) {
		d.values = append(d.values, v)
	}
	for lo := range uint16(9) {
		for _, hi := range []uint16{0, 1, 2, 3, 4, 5, 6, 7, 0xffff} {
			if lo <= hi && hi-lo != 0xffff {
				var m flow.Match
				m.SetPorts(f, lo, hi)
				d.matches = append(d.matches, m)
			}
		}
	}
	for mask := uint16(1); mask < 8; mask++ {
		for v := mask; ; v = (v - 1) & mask {
			var m flow.Match
			m.SetPortMask(f, v, mask)
			d.matches = append(d.matches, m)
			if v == 0 {
				break
			}
		}
	}
	return d
}

func pin(f flow.Field, v, mask uint64) (m flow.Match) {
	m.Pin(f, v, mask)
	return m
}

func output(ports ...flow.Port) flow.Action { return flow.Action{Op: flow.Output, Ports: ports} }
func mirror(ports ...flow.Port) flow.Action { return flow.Action{Op: flow.Mirror, Ports: ports} }
func push(tag, proto uint16) flow.Action {
	return flow.Action{Op: flow.VLANPush, Tag: tag, Proto: proto}
}
func setID(id uint16) flow.Action { return flow.Action{Op: flow.VLANSet, Tag: id} }

var (
	pop    = flow.Action{Op: flow.VLANPop}
	drop   = flow.Action{Op: flow.Drop}
	normal = flow.Action{Op: flow.Normal}
	pass   = flow.Action{Op: flow.Pass}
)

const (
	macA, macB       = 0x02_00_00_00_00_0a, 0x02_00_00_00_00_0b
	macNobody        = 0x02_00_00_00_00_0f
	macFar           = 0x02_00_00_00_00_0e
	macAll, macGroup = 0xff_ff_ff_ff_ff_ff, 0x01_00_5e_00_00_01
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var testSwitch = must(flow.NewSwitch(1,
	flow.Station{VLAN: 0, MAC: macA, Port: 2}, flow.Station{VLAN: 0, MAC: macB, Port: 3},
	flow.Station{VLAN: 1, MAC: macA, Port: 2}, flow.Station{VLAN: 2, MAC: macB, Port: 3}))

// plain are actions that say much about who answered and little about the packet.
var plain = []flow.Actions{
	{drop}, {output(1)}, {output(2)}, {output(1, 2)}, {output(2, 1)}, {mirror(1), output(2)}, {mirror(1), drop}, {pass},
}

// switching are actions whose effect depends on the station and the port.
var switching = append(slices.Clip(plain), flow.Actions{normal}, flow.Actions{normal}, flow.Actions{output(3)}, flow.Actions{output(2, 3)})

// editing are actions whose effect depends on the tags and the station.
var editing = []flow.Actions{
	{drop}, {output(1)}, {output(2)}, {output(3)}, {normal}, {pass},
	{push(1, flow.EthVLAN), output(2)}, {push(1, flow.EthQinQ), output(2)}, {pop, output(2)}, {pop, pop, output(2)},
	{pop, push(1, flow.EthVLAN), output(2)}, {setID(1), output(2)}, {setID(2), output(2)},
	{push(2, flow.EthVLAN), setID(1), output(2)}, {pop, setID(1), output(2)}, {pop, normal}, {setID(2), normal},
	{pop, pop, pop, output(2)}, {pop, pop, push(1, flow.EthVLAN), pop, output(2)}, {mirror(3), pop, output(2)}, {mirror(2), pop, output(3)}, {pop, pop, normal}, {push(1, flow.EthVLAN), pop, output(2)},
}

func set(settings ...flow.Setting) flow.Action {
	return flow.Action{Op: flow.Set, Settings: settings}
}

func whole(f flow.Field, v uint64) flow.Setting {
	return flow.Setting{Field: f, Value: v, Mask: f.Max()}
}

func tos(v, mask uint64) flow.Setting { return flow.Setting{Field: flow.TOS, Value: v, Mask: mask} }

// setting are actions whose effect depends on what a packet has in the fields that they
// set.
var setting = []flow.Actions{
	{drop}, {pass}, {output(2)}, {output(3)}, {mirror(3), output(2)},
	{set(whole(flow.TTL, 64)), output(2)}, {set(whole(flow.TTL, 1)), output(2)}, {set(whole(flow.TTL, 1)), set(whole(flow.TTL, 64)), output(2)},
	{set(whole(flow.TTL, 64)), mirror(3), output(2)}, {mirror(3), set(whole(flow.TTL, 64)), output(2)},
	{set(tos(4, 4)), output(2)}, {set(tos(4, 12)), output(2)}, {set(tos(8, 8)), output(2)}, {set(tos(4, 4)), set(tos(0, 8)), output(2)}, {set(tos(4, 12), whole(flow.TTL, 1)), output(2)},
	{set(low(1)), output(2)}, {set(whole(flow.DstHi, 0), whole(flow.DstLo, 1)), output(2)},
	{set(low(1)), set(whole(flow.DstHi, 0), whole(flow.DstLo, 1)), output(2)}, {set(whole(flow.DstHi, 1), whole(flow.DstLo, 1)), output(2)},
	{set(low(0)), set(low(1)), output(2)},
}

// low sets the destination to an IPv4 address.
func low(v uint64) flow.Setting {
	return flow.Setting{Field: flow.DstLo, Value: v, Mask: 1<<32 - 1}
}

// steering are actions that set what the switch looks at.
var steering = []flow.Actions{
	{drop}, {normal}, {output(2)}, {output(3)}, {output(1)}, {output(1, 3)},
	{set(whole(flow.DstMAC, macA)), normal}, {set(whole(flow.DstMAC, macB)), normal}, {set(whole(flow.DstMAC, macA)), output(2)}, {set(whole(flow.DstMAC, macB)), output(3)},
	{set(whole(flow.DstMAC, macA)), output(1)}, {set(whole(flow.DstMAC, macAll)), normal}, {set(whole(flow.DstMAC, macAll)), output(1, 3)},
	{set(whole(flow.DstMAC, macFar)), output(1)}, {set(whole(flow.DstMAC, macFar)), normal},
	{set(whole(flow.SrcMAC, 1)), normal}, {set(whole(flow.SrcMAC, 1)), output(2)}, {set(whole(flow.SrcMAC, 0), whole(flow.DstMAC, macA)), output(2)},
	{setID(1), set(whole(flow.DstMAC, macA)), normal}, {set(whole(flow.DstMAC, macA)), mirror(3), normal},
}

// universes are built once; the comment of each says what it is there for.
var universes = sync.OnceValue(func() []*universe {
	all := []*universe{
		{name: "prefixes", actions: plain, dims: []dim{ // masks of every kind, few packets
			bitsUnder(flow.SrcLo, 7), bitsUnder(flow.DstLo, 7), bitsUnder(flow.TOS, 1)}},
		{name: "ports", actions: plain, dims: []dim{ // range against range and mask, both ports
			ports(flow.SrcPort), ports(flow.DstPort)}},
		{name: "possible", actions: plain, dims: []dim{ // where many combinations are no packet
			exactly(flow.Proto, []uint64{0, 47, 58, 132}, 1, 6, 17), ports(flow.DstPort), bitsUnder(flow.Flags, flow.FlagIP|flow.FlagL4|flow.FlagFragLater|flow.FlagOdd),
			exactly(flow.EthType, []uint64{0x88cc, flow.EthVLAN}, flow.EthIPv4, flow.EthIPv6)}},
		{name: "stations", actions: switching, dims: []dim{ // normal against what it resolves to
			exactly(flow.InPort, []uint64{9}, 1, 2, 3), stationMACs(macAll),
			tag(flow.VLAN, 0, 1, 2), bitsUnder(flow.SrcMAC, 1)}},
		{name: "tags", actions: editing, dims: []dim{ // what edits do to each kind of frame
			tag(flow.VLAN, 0, 1, 2), tag(flow.CVLAN, 0, 1, 2), exactly(flow.EthType, []uint64{flow.EthIPv4}, flow.EthVLAN, flow.EthQinQ),
			stationMACs(), exactly(flow.InPort, []uint64{9}, 1, 2, 3)}},
		{name: "settings", actions: setting, dims: []dim{ // where the field has the value already, where it has another, and where it is not
			exactly(flow.TTL, []uint64{7}, 1, 64), bitsUnder(flow.TOS, 12), exactly(flow.DstLo, []uint64{2}, 0, 1), exactly(flow.DstHi, []uint64{2}, 0, 1),
			{field: flow.EthType, mask: 0xffff, values: []uint64{flow.EthIPv4, flow.EthIPv6, flow.EthARP}, matches: []flow.Match{{}}},
			{field: flow.Proto, mask: 0xff, values: []uint64{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoICMPv6, 0}, matches: []flow.Match{{}}},
			{field: flow.Flags, mask: 0xff, values: []uint64{0, flow.FlagIP, flow.FlagIP | flow.FlagL4, flow.FlagIP | flow.FlagFragLater,
				flow.FlagIP | flow.FlagL4 | flow.FlagOdd, flow.FlagIP | flow.FlagOdd}, matches: []flow.Match{{}}}}},
		{name: "steering", actions: steering, dims: []dim{ // what becomes of `normal` when its station was set
			exactly(flow.InPort, []uint64{9}, 1, 2, 3), stationMACs(macAll, macFar), tag(flow.VLAN, 0, 1, 2), exactly(flow.SrcMAC, []uint64{2}, 0, 1)}},
	}
	for _, u := range all {
		u.sw = testSwitch
		u.fill()
	}
	return all
})

// fill finds the keys, and which actions do the same to them.
func (u *universe) fill() {
	var each func(int, flow.Match)
	each = func(i int, m flow.Match) {
		if i == len(u.dims) {
			if k, ok := flow.Shared(&m); ok {
				u.keys = append(u.keys, k)
			}
			return
		}
		for _, v := range u.dims[i].values {
			n := m
			n.Pin(u.dims[i].field, v, u.dims[i].mask)
			each(i+1, n)
		}
	}
	each(0, flow.Match{})
	u.effect = make([][]int, len(u.actions))
	numbers := map[string]int{}
	for _, k := range u.keys {
		fs, in := frames(k), flow.Port(k.Get(flow.InPort))
		for a, acts := range u.actions {
			var all []byte
			for _, f := range fs {
				copies := []string{}
				for _, e := range flow.Act(acts, u.sw, 0, f, in) {
					copies = append(copies, fmt.Sprintf("%d %v %x;", e.Port, e.Kernel, e.Bytes))
				}
				slices.Sort(copies)
				all = append(append(all, strings.Join(copies, "")...), '|')
			}
			n, known := numbers[string(all)]
			if !known {
				n = len(numbers)
				numbers[string(all)] = n
			}
			u.effect[a] = append(u.effect[a], n)
		}
	}
}

// same reports whether actions a and b do the same to key n.
func (u *universe) same(a, b, n int) bool { return u.effect[a][n] == u.effect[b][n] }

// frames returns frames with key k: both tag protocols, both drop eligible bits,
// and up to three more tags than a key can hold.
func frames(k flow.Key) [][]byte {
	f := must(flow.Frame(k, []byte("payload")))
	out := [][]byte{f}
	for at := 12; at+4 <= len(f) && at < 20; at += 4 {
		if t := binary.BigEndian.Uint16(f[at:]); t != flow.EthVLAN && t != flow.EthQinQ || k.Get(flow.VLAN) == 0 {
			break
		}
		if at == 16 && k.Get(flow.CVLAN) == 0 {
			break
		}
		for _, g := range slices.Clone(out) {
			g = slices.Clone(g)
			binary.BigEndian.PutUint16(g[at:], flow.EthQinQ)
			out = append(out, g)
			g = slices.Clone(g)
			g[at+2] |= 0x10
			out = append(out, g)
		}
	}
	if h := flow.Locate(&k, f); h.IP > 0 {
		for _, at := range []int{h.IP + 10, h.Sum} { // sums that are all ones
			if g := slices.Clone(f); at > 0 && (at == h.Sum || k.Get(flow.EthType) == flow.EthIPv4) {
				g[at], g[at+1] = 0xff, 0xff
				out = append(out, g)
			}
		}
	}
	third := k.Get(flow.EthType)
	if k.Get(flow.CVLAN) == 0 || third != flow.EthVLAN && third != flow.EthQinQ {
		return out
	}
	for _, g := range out { // cut short there are two tags
		out = append(out, g[:22:22])
	}
	cut := out[len(out)-1]
	for _, id := range []uint16{0, 1, 2, 5} {
		h := slices.Clone(cut)
		for range 3 {
			h = binary.BigEndian.AppendUint16(h, id)
			out = append(out, append(slices.Clone(h), 0x08, 0x06, 1, 2, 3))
			h = append(h, 0x81, 0x00)
		}
	}
	return out
}

// match returns a random match; each part of the key is looked at with probability p.
func (u *universe) match(rng *rand.Rand, p float64) flow.Match {
	var m flow.Match
	for i := range u.dims {
		if rng.Float64() < p {
			u.look(rng, &m, i)
		}
	}
	return m
}

// look replaces what m says about part i of the key.
func (u *universe) look(rng *rand.Rand, m *flow.Match, i int) {
	u.ignore(m, i)
	d := &u.dims[i]
	add(m, &d.matches[rng.IntN(len(d.matches))])
}

// ignore drops what m says about part i of the key.
func (u *universe) ignore(m *flow.Match, i int) {
	d := &u.dims[i]
	w, shift, _ := d.field.Place()
	m.Mask[w] &^= d.mask << shift
	m.Value[w] &^= d.mask << shift
	switch d.field {
	case flow.SrcPort:
		m.SrcPort = flow.PortRange{}
	case flow.DstPort:
		m.DstPort = flow.PortRange{}
	}
}

// add narrows m by o, which looks at other parts of the key.
func add(m, o *flow.Match) {
	for w := range m.Mask {
		m.Mask[w] |= o.Mask[w]
		m.Value[w] |= o.Value[w]
	}
	if !o.SrcPort.Any() {
		m.SrcPort = o.SrcPort
	}
	if !o.DstPort.Any() {
		m.DstPort = o.DstPort
	}
}
