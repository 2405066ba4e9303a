package hwtests

import (
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// The demo's traffic is made to find a card that lies about a single bit. For every
// rule there are packets that it should answer (most of what is sent), the same
// packets with IPv4 options, which only software answers, and for every bit that the
// rule or the switch looks at the packet that differs in just this bit.

// demoHot is how often a packet that a rule should answer is sent for one that
// differs from it.
const demoHot = 120

// demoStreams returns the frames for each port of each blade, in a random order that
// the seed decides.
func demoStreams(c *Chassis, tables []*flow.Table, seed uint64) []Stream {
	rng := rand.New(rand.NewPCG(seed, 0xde30))
	frames := map[Spot][][]byte{}
	for i, b := range c.Blades {
		add := func(k flow.Key, times int) {
			in := flow.Port(k.Get(flow.InPort))
			if f := stampable(k); f != nil && in >= 1 && int(in) <= b.Ports.Len() {
				for range times {
					s := Spot{Blade: i, Port: in}
					frames[s] = append(frames[s], f)
				}
			}
		}
		for _, k := range demoKeys(c.Lab, i) {
			add(k, demoHot)
			odd := k
			odd.Set(flow.Flags, k.Get(flow.Flags)|flow.FlagOdd)
			add(odd, demoHot/3)
			for _, near := range neighbours(tables[i], k) {
				add(near, 1)
			}
		}
	}
	var streams []Stream
	for i, b := range c.Blades {
		for _, at := range b.Attached {
			if f := frames[Spot{Blade: i, Port: at.Port}]; len(f) > 0 {
				rng.Shuffle(len(f), func(x, y int) { f[x], f[y] = f[y], f[x] })
				streams = append(streams, Stream{i, at.Port, f})
			}
		}
	}
	return streams
}

// demoKeys returns packets of blade i, one or more for each rule of demo.yaml.
func demoKeys(l *lab.Lab, i int) []flow.Key {
	w, other := l.Blades[i].Workloads, l.Blades[(i+1)%len(l.Blades)].Workloads
	vf := func(n int) flow.Port { return lab.Uplink + 1 + flow.Port(n%len(w)) }
	at := func(ws []*lab.Workload, n int) *lab.Workload { return ws[n%len(ws)] }
	ip := func(in flow.Port, from, to *lab.Workload, proto, port uint64) flow.Key {
		var k flow.Key
		k.Set(flow.InPort, uint64(in))
		k.Set(flow.SrcMAC, from.MAC)
		k.Set(flow.DstMAC, to.MAC)
		k.Set(flow.EthType, flow.EthIPv4)
		k.SetSrc(from.IP4)
		k.SetDst(to.IP4)
		k.Set(flow.Proto, proto)
		k.Set(flow.TTL, 64)
		k.Set(flow.Flags, flow.FlagIP)
		if proto != flow.ProtoICMP {
			k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
			k.Set(flow.SrcPort, 40000)
			k.Set(flow.DstPort, port)
		}
		return k
	}
	tagged := func(k flow.Key, id uint64) flow.Key {
		k.Set(flow.VLAN, flow.TagPresent|id)
		return k
	}
	ping := ip(vf(1), at(w, 1), at(w, 0), flow.ProtoICMP, 0)
	ping.Set(flow.DstLo, 0x0a00ff01)
	ping.Set(flow.SrcPort, 8) // echo request
	var arp flow.Key
	arp.Set(flow.InPort, uint64(vf(2)))
	arp.Set(flow.SrcMAC, at(w, 2).MAC)
	arp.Set(flow.DstMAC, flow.DstMAC.Max())
	arp.Set(flow.EthType, flow.EthARP)
	return []flow.Key{
		ping, arp,
		ip(vf(0), at(w, 0), at(w, 1), flow.ProtoTCP, 23),
		ip(vf(0), at(w, 0), at(w, 1), flow.ProtoUDP, 53),
		ip(vf(0), at(w, 0), at(w, 3), flow.ProtoTCP, 443),
		ip(vf(0), at(w, 0), at(w, 1), flow.ProtoTCP, 443),
		ip(vf(1), at(w, 1), at(w, 2), flow.ProtoTCP, 80),
		ip(vf(3), at(w, 3), at(other, 2), flow.ProtoTCP, 443),
		ip(vf(0), at(w, 0), at(w, 1), flow.ProtoUDP, 7003),
		ip(vf(0), at(w, 0), at(w, 1), flow.ProtoUDP, 8000),
		tagged(ip(lab.Uplink, at(other, 0), at(w, 1), flow.ProtoUDP, 8000), 30),
		tagged(ip(vf(2), at(w, 2), at(other, 3), flow.ProtoUDP, 9000), 10),
		tagged(ip(lab.Uplink, at(other, 2), at(w, 3), flow.ProtoUDP, 9000), 20),
	}
}

// neighbours returns the possible packets that differ from k in one bit that the rule
// that answers k, or the switch, looks at, and those at the ends of its port ranges.
func neighbours(t *flow.Table, k flow.Key) []flow.Key {
	r := t.Rule(t.Lookup(&k))
	looked := r.Match.Mask
	for _, f := range []flow.Field{flow.InPort, flow.DstMAC, flow.VLAN} {
		looked.Set(f, f.Max())
	}
	var out []flow.Key
	try := func(k flow.Key) {
		if flow.Possible(&k) {
			out = append(out, k)
		}
	}
	for w := range looked {
		for bit := uint64(1); bit != 0; bit <<= 1 {
			if looked[w]&bit != 0 {
				near := k
				near[w] ^= bit
				try(near)
			}
		}
	}
	for f, ends := range map[flow.Field]flow.PortRange{flow.SrcPort: r.Match.SrcPort, flow.DstPort: r.Match.DstPort} {
		if ends.Any() {
			continue
		}
		for _, p := range []uint64{uint64(ends.Lo) - 1, uint64(ends.Lo), uint64(ends.Hi), uint64(ends.Hi) + 1} {
			near := k
			near.Set(f, p)
			try(near)
		}
	}
	return out
}

// stampable returns a frame with key k and room for a stamp, or nil if a stamp would
// change what the frame is.
func stampable(k flow.Key) []byte {
	f, err := flow.Frame(k, make([]byte, 2*traffic.Trailer))
	if err != nil || len(f) < 14+traffic.Trailer {
		return nil
	}
	traffic.Stamp(f, ^uint64(0))
	if again, err := flow.Parse(f, flow.Port(k.Get(flow.InPort))); err != nil || again != k {
		return nil
	}
	return f
}
