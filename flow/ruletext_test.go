package flow

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"
)

func TestActionText(t *testing.T) {
	check := func(text, canonical string, want ...Action) {
		t.Helper()
		got, err := ParseActions(text, testPorts())
		if err != nil || !got.Equal(want) {
			t.Errorf("%s: got %v %v, want %v", text, got, err, want)
			return
		}
		if canonical == "" {
			canonical = text
		}
		if s := FormatActions(got, testPorts()); s != canonical {
			t.Errorf("%s is written %s, want %s", text, s, canonical)
		}
	}
	check("drop", "", Action{Op: Drop})
	check("normal", "", Action{Op: Normal})
	check("pass", "", Action{Op: Pass})
	check("output:vf1", "output:nic0/pf0/vf1", Action{Op: Output, Ports: []Port{3}})
	check("output(vf1, #5)", "output(nic0/pf0/vf1,#5)", Action{Op: Output, Ports: []Port{3, 5}})
	check("output(vf1)", "output:nic0/pf0/vf1", Action{Op: Output, Ports: []Port{3}})
	check("mirror:web-1,normal", "", Action{Op: Mirror, Ports: []Port{4}}, Action{Op: Normal})
	check("vlan_pop,normal", "", Action{Op: VLANPop}, Action{Op: Normal})
	check("vlan_set:5,normal", "", Action{Op: VLANSet, Tag: 5}, Action{Op: Normal})
	check("vlan_set(id=5),normal", "vlan_set:5,normal", Action{Op: VLANSet, Tag: 5}, Action{Op: Normal})
	check("vlan_push:5,drop", "vlan_push(id=5),drop", Action{Op: VLANPush, Tag: 5, Proto: EthVLAN}, Action{Op: Drop})
	check("set(dst_ip=10.0.0.1),drop", "", Action{Op: Set, Settings: []Setting{{DstLo, 10<<24 | 1, ipv4Mask}}}, Action{Op: Drop})
	check("set(dst_port=80,src_mac=02:00:00:00:00:01,src_ip=::1),drop", "set(src_mac=02:00:00:00:00:01,dst_port=80,src_ip=::1),drop",
		Action{Op: Set, Settings: []Setting{{SrcMAC, 0x020000000001, SrcMAC.Max()}, {DstPort, 80, 0xffff}, {SrcHi, 0, SrcHi.Max()}, {SrcLo, 1, SrcLo.Max()}}}, Action{Op: Drop})
	check("set(ip_tos=0xb8/0xfc,ip_ttl=64),set(ip_tos=3),drop", "set(ip_tos=0xb8/0xfc,ip_ttl=64),set(ip_tos=3),drop",
		Action{Op: Set, Settings: []Setting{{TOS, 0xb8, 0xfc}, {TTL, 64, 0xff}}}, Action{Op: Set, Settings: []Setting{{TOS, 3, 0xff}}}, Action{Op: Drop})
	check("police(rate=100M,burst=64k),drop", "", Action{Op: Police, Rate: 100e6, Burst: 64000}, Action{Op: Drop})
	check("police(burst=2000000000,rate=1000T),drop", "police(rate=1000T,burst=2G),drop", Action{Op: Police, Rate: MaxRate, Burst: MaxBurst}, Action{Op: Drop})
	check("police(rate=1500,burst=1K),drop", "police(rate=1500,burst=1k),drop", Action{Op: Police, Rate: 1500, Burst: 1000}, Action{Op: Drop})
	check("vlan_push(id=5,prio=7,proto=0x88a8), drop", "vlan_push(id=5,prio=7,proto=0x88a8),drop",
		Action{Op: VLANPush, Tag: 7<<13 | 5, Proto: EthQinQ}, Action{Op: Drop})
}

func TestActionRefused(t *testing.T) {
	check := func(text, code string, offset int, words ...string) {
		t.Helper()
		_, err := ParseActions(text, testPorts())
		refused(t, text, err, code, offset, words...)
	}
	check("", "E_ACTION", 0, "no end")
	check("vlan_pop", "E_ACTION", 0, "end it with")
	check("drop,normal", "E_ACTION", 0, "nothing after it")
	check("vlan_pop,nromal", "E_ACTION", 9, "did you mean normal?")
	check("output", "E_ACTION", 0, "no port")
	check("output:", "E_PORT_UNKNOWN", 7)
	check("output:vf1,vf2", "E_ACTION", 11)
	check("output(vf1,vf9)", "E_PORT_UNKNOWN", 11)
	check("output:#0", "E_ACTION", 7)
	check("output(vf1", "E_ACTION", 0, "not closed")
	check("output(port=vf1)", "E_ACTION", 7)
	check("normal:1", "E_ACTION", 7)
	check("vlan_set,normal", "E_ACTION", 0)
	check("vlan_set:4096,normal", "E_ACTION", 9, "4095")
	check("vlan_push(prio=1),normal", "E_ACTION", 0, "no id")
	check("vlan_push(id=5,prio=8),normal", "E_ACTION", 15)
	check("vlan_push(id=5,id=6),normal", "E_ACTION", 15, "twice")
	check("vlan_push(id=5,proto=0x8101),normal", "E_ACTION", 15, "0x88a8")
	check("vlan_push(id=5,prot=0x8100),normal", "E_ACTION", 15, "did you mean proto?")
	check("normal,,", "E_ACTION", 7)
	check("set,normal", "E_ACTION", 0, "sets nothing")
	check("set:5,normal", "E_ACTION", 4, "set(FIELD=VALUE)")
	check("set(dst_ip=10.0.0.1,dst_prot=80),normal", "E_ACTION", 20, "did you mean dst_port?")
	check("set(vlan_id=5),normal", "E_ACTION", 4, "cannot be set")
	check("set(dst_ip=10.0.0.0/8),normal", "E_ACTION", 4, "whole address")
	check("set(dst_ip=10.0.0.1,dst_ip=::1),normal", "E_ACTION", 20, "twice")
	check("set(ip_ttl=256),normal", "E_ACTION", 4, "255")
	check("set(ip_tos=1/0),normal", "E_ACTION", 4, "sets nothing")
	check("set(ip_ttl=1/1),normal", "E_ACTION", 4, "no mask")
	check("set(src_mac=02:00),normal", "E_ACTION", 4, "MAC")
	check("police,normal", "E_ACTION", 0, "no rate")
	check("police:100M,normal", "E_ACTION", 7, "rate and a burst")
	check("police(rate=100M),normal", "E_ACTION", 0, "no burst")
	check("police(rate=0,burst=1),normal", "E_ACTION", 7, "bits a second")
	check("police(rate=1001T,burst=1),normal", "E_ACTION", 7, "1000T")
	check("police(rate=1.5M,burst=1),normal", "E_ACTION", 7, "whole number")
	check("police(rate=1M,burst=3G),normal", "E_ACTION", 15, "2G")
	check("police(rate=1M,rate=2M,burst=1),normal", "E_ACTION", 15, "twice")
	check("police(rate=1M,brust=1),normal", "E_ACTION", 15, "did you mean burst?")
	check("plice(rate=1M,burst=1),normal", "E_ACTION", 0, "did you mean police?")
}

// anyActions returns a random valid list.
func anyActions(rng *rand.Rand) Actions {
	ports := func() []Port {
		p := make([]Port, 1+rng.IntN(3))
		for i := range p {
			p[i] = Port(1 + rng.IntN(9))
		}
		return p
	}
	var out Actions
	for range rng.IntN(4) {
		out = append(out, [...]Action{
			{Op: Mirror, Ports: ports()},
			{Op: VLANPush, Tag: uint16(rng.Uint32()) &^ TagPresent, Proto: [...]uint16{EthVLAN, EthQinQ}[rng.IntN(2)]},
			{Op: VLANPop},
			{Op: VLANSet, Tag: uint16(rng.Uint32()) & TagID},
			{Op: Police, Rate: 1 + rng.Uint64N(MaxRate)>>rng.IntN(50), Burst: 1 + uint32(rng.Uint64N(MaxBurst)>>rng.IntN(31))},
			{Op: Police, Rate: [...]uint64{1, 1e3, 5e6, 12e9, 1e12, MaxRate}[rng.IntN(6)], Burst: [...]uint32{1, 1e3, 5e6, MaxBurst}[rng.IntN(4)]},
			{Op: Set, Settings: []Setting{{SrcMAC, rng.Uint64() & SrcMAC.Max(), SrcMAC.Max()}, {TOS, uint64(rng.IntN(8)) << 2, 0x1c}}},
			{Op: Set, Settings: []Setting{{DstMAC, rng.Uint64() & DstMAC.Max(), DstMAC.Max()}, {TOS, uint64(rng.IntN(256)), 0xff}, {TTL, uint64(rng.IntN(256)), 0xff}}},
		}[rng.IntN(8)])
	}
	return append(out, [...]Action{{Op: Drop}, {Op: Normal}, {Op: Pass}, {Op: Output, Ports: ports()}}[rng.IntN(4)])
}

// anySetting returns what a rule with match m can set beside what anyActions sets, if
// there is something.
func anySetting(rng *rand.Rand, m *Match) []Setting {
	six := m.Mask.Get(EthType) == EthType.Max() && m.Value.Get(EthType) == EthIPv6
	switch four := m.Mask.Get(EthType) == EthType.Max() && m.Value.Get(EthType) == EthIPv4; {
	case m.Value.Get(Flags)&FlagL4 != 0:
		return []Setting{{DstPort, uint64(rng.IntN(1 << 16)), 0xffff}}
	case six:
		return []Setting{{SrcHi, rng.Uint64() >> rng.IntN(64), SrcHi.Max()}, {SrcLo, rng.Uint64() >> rng.IntN(64), SrcLo.Max()}}
	case four:
		return []Setting{{SrcLo, rng.Uint64() >> 32, ipv4Mask}, {DstLo, rng.Uint64() >> 32, ipv4Mask}}
	}
	return nil
}

func TestRuleRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(13, 14))
	for i := range 5_000 {
		r := Rule{Name: "set/r-1.x", Priority: int32(rng.Uint32() >> 1), Match: anyMatch(rng), Actions: anyActions(rng)}
		if i%2 == 0 {
			r.Match = randomMatch(rng)
		}
		if s := anySetting(rng, &r.Match); s != nil {
			r.Actions = append(Actions{{Op: Set, Settings: s}}, r.Actions...)
		}
		s := FormatRule(&r, testPorts())
		got, err := ParseRule(s, testPorts())
		if err != nil || got.Name != "r-1.x" || got.Priority != r.Priority || got.Match != r.Match || !got.Actions.Equal(r.Actions) {
			t.Fatalf("%s:\n got %v %v", s, got, err)
		}
	}
}

func TestRuleText(t *testing.T) {
	const line = "name=allow-web,priority=100,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=80-443 actions=normal"
	r, err := ParseRule(line, testPorts())
	if err != nil {
		t.Fatal(err)
	}
	m, _ := ParseMatch("in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=80-443", testPorts())
	if r.Name != "allow-web" || r.Priority != 100 || r.Match != m || !r.Actions.Equal(Actions{{Op: Normal}}) || r.ID != NewRuleID("", "allow-web") {
		t.Errorf("got %v", r)
	}
	if r, err := ParseRule("name=all actions=drop", nil); err != nil || r.Match != (Match{}) || r.Priority != 0 {
		t.Errorf("got %v %v", r, err)
	}
	check := func(text, code string, offset int, words ...string) {
		t.Helper()
		_, err := ParseRule(text, testPorts())
		refused(t, text, err, code, offset, words...)
	}
	check("priority=1 actions=drop", "E_NAME", 0)
	check("name=a/b actions=drop", "E_NAME", 0)
	check("name=a,priority=1", "E_ACTION", 17, "no actions")
	check("name=a,priority=2147483648 actions=drop", "E_PRIORITY", 7, "2147483647")
	check("name=a,priority=1,priority=1 actions=drop", "E_FIELD_TWICE", 18)
	check("name=a,dst_port=x actions=drop", "E_FIELD_VALUE", 7)
	check("name=a actions=drop,", "E_ACTION", 20)
	check("name=a actions=output:vf9", "E_PORT_UNKNOWN", 22)
	check("name=a actions=set(dst_port=80),drop", "E_SET_NEEDS", 15, "dst_port", "packets without ports")
	check("name=a,eth_type=arp actions=set(src_ip=10.0.0.1),drop", "E_SET_NEEDS", 28, "src_ip")
}

func TestPacketText(t *testing.T) {
	// canonical is what FormatKey makes of the key; "" if it is the text itself.
	check := func(text, canonical string) {
		t.Helper()
		frame, in, err := ParsePacket(text, testPorts())
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		k, err := Parse(frame, in)
		if err != nil {
			t.Errorf("%s: %v", text, err)
			return
		}
		if canonical == "" {
			canonical = text
		}
		if s := FormatKey(k, testPorts()); s != canonical {
			t.Errorf("%s is written %s", text, s)
		}
	}
	check("in_port=vf0,ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,dst_port=443",
		"in_port=nic0/pf0/vf0,ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,src_port=0,dst_port=443")
	check("dst_mac=02:00:00:00:00:01,eth_type=arp", "")
	check("src_mac=02:00:00:00:00:01", "")
	check("ip_proto=udp,src_ip=fe80::1,dst_ip=fe80::2,src_port=53", "ip_proto=udp,src_ip=fe80::1,dst_ip=fe80::2,src_port=53,dst_port=0")
	check("ip_proto=icmp,src_ip=10.0.0.1,icmp_type=8", "ip_proto=icmp,src_ip=10.0.0.1,dst_ip=0.0.0.0,icmp_type=8,icmp_code=0")
	check("ip_proto=icmpv6,src_ip=::1,dst_ip=::2,icmp_type=128,icmp_code=0", "")
	check("vlan_id=5,vlan_prio=3,cvlan_id=7,eth_type=arp", "")
	check("vlan_prio=3", "vlan_id=0,vlan_prio=3")
	check("eth_type=ipv4", "src_ip=0.0.0.0,dst_ip=0.0.0.0")
	check("eth_type=ipv4,flags=-ip+odd", "")
	check("ip_proto=tcp,ip_frag=later,src_ip=10.0.0.1,dst_ip=10.0.0.2", "")
	check("ip_proto=tcp,ip_frag=first,src_ip=10.0.0.1,dst_ip=10.0.0.2,src_port=1,dst_port=2", "")
	check("ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,ip_tos=184,ip_ttl=64,tcp_flags=0x012,src_port=1,dst_port=2,flags=+odd", "")
	check("ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,flags=-l4+odd", "")
	check("ip_proto=esp,src_ip=10.0.0.1,dst_ip=10.0.0.2", "")
	check("tcp_flags=+syn,src_ip=10.0.0.1,dst_ip=10.0.0.2", "ip_proto=tcp,src_ip=10.0.0.1,dst_ip=10.0.0.2,tcp_flags=0x002,src_port=0,dst_port=0")
	check("in_port=vf1,hex:ffffffffffff0200000000010806", "in_port=nic0/pf0/vf1,src_mac=02:00:00:00:00:01,dst_mac=ff:ff:ff:ff:ff:ff,eth_type=arp")
	check("hex:ffffffffffff02000000000108060001", "src_mac=02:00:00:00:00:01,dst_mac=ff:ff:ff:ff:ff:ff,eth_type=arp")

	bad := func(text, code string, words ...string) {
		t.Helper()
		frame, _, err := ParsePacket(text, testPorts())
		if err == nil {
			t.Errorf("%s: made %s", text, hex.EncodeToString(frame))
			return
		}
		offset := 0
		if f, ok := err.(*Fault); ok {
			offset = f.Offset
		}
		refused(t, text, err, code, offset, words...)
	}
	bad("ip_proto=tcp,dst_port=80", "E_PACKET", "IP version is open")
	bad("dst_port=80", "E_PACKET", "IP version is open")
	bad("ip_frag=no", "E_PACKET", "IP version is open")
	bad("eth_type=arp,ip_proto=tcp", "E_PACKET", "no IP fields")
	bad("src_ip=10.0.0.1,dst_port=80", "E_PACKET", "add ip_proto=tcp")
	bad("src_ip=fe80::1", "E_PACKET", "add ip_proto")
	bad("cvlan_id=5", "E_PACKET", "outer")
	bad("src_ip=10.0.0.0/8", "E_PACKET", "exactly one")
	bad("src_ip=10.0.0.1,ip_proto=tcp,dst_port=80-90", "E_PACKET", "exactly one")
	bad("vlan_id=any", "E_PACKET")
	bad("dst_port=80,ip_proto=tcp,ip_frag=later,src_ip=10.0.0.1", "E_PACKET", "later fragment")
	bad("src_ip=10.0.0.1,dst_ip=::1", "E_FIELD_CONFLICT")
	bad("bare,flags=+l4", "E_PACKET")
	bad("hex:ffff", "E_PACKET", "14 bytes")
	bad("hex:zz", "E_PACKET")
	bad("ip_proto=tcp,hex:ffffffffffff02000000000108060001", "E_PACKET", "in_port")
	bad("in_port=vf9", "E_PORT_UNKNOWN")
}

// TestKeyRoundTrip writes and reads keys of packets and keys that no packet has.
func TestKeyRoundTrip(t *testing.T) {
	rng := rand.New(rand.NewPCG(15, 16))
	bare := 0
	for i := range 20_000 {
		k := randomPossible(rng)
		if i%4 == 0 {
			m := anyMatch(rng)
			k = m.Value
		}
		s := FormatKey(k, testPorts())
		got, err := ParseKey(s, testPorts())
		if err != nil || got != k {
			t.Fatalf("%d: %s\nwant %x\n got %x %v", i, s, k, got, err)
		}
		if !Possible(&k) {
			continue
		}
		frame, in, err := ParsePacket(s, testPorts())
		if err != nil {
			t.Fatalf("%s: %v", s, err)
		}
		if got, err := Parse(frame, in); err != nil || got != k {
			t.Fatalf("%s: frame %x has key %x, want %x", s, frame, got, k)
		}
		if s[:4] == "bare" {
			bare++
		}
	}
	if bare > 0 {
		t.Errorf("%d keys of packets are written with bare", bare)
	}
}

// randomPossible returns a random key that a packet can have.
func randomPossible(rng *rand.Rand) Key {
	for {
		s := &possible[rng.IntN(len(possible))]
		k := s.m.Value
		for w := range k {
			k[w] |= rng.Uint64() &^ s.m.Mask[w]
		}
		if Possible(&k) {
			return k
		}
	}
}
