package flow

import (
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// testPorts has names of all kinds: long ones, a short one, one that no text can carry.
func testPorts() *Ports {
	return NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1", "web-1", "a b")
}

// anyMatch returns a random valid match, most of which ordinary text cannot say.
func anyMatch(rng *rand.Rand) Match {
	var m Match
	for f := range NumFields {
		if f == SrcPort || f == DstPort {
			continue
		}
		switch rng.IntN(4) {
		case 0:
			m.Pin(f, rng.Uint64(), f.Max())
		case 1:
			m.Pin(f, rng.Uint64(), rng.Uint64()&f.Max())
		}
	}
	for _, f := range []Field{SrcPort, DstPort} {
		switch a, b := uint16(rng.Uint32()), uint16(rng.Uint32()); rng.IntN(4) {
		case 0:
			m.SetPorts(f, min(a, b), max(a, b))
		case 1:
			m.SetPortMask(f, a, b)
		}
	}
	return m
}

func TestMatchRoundTrip(t *testing.T) {
	ports := testPorts()
	rng := rand.New(rand.NewPCG(11, 12))
	ordinary := 0
	for i := range 20_000 {
		m := anyMatch(rng)
		if i%2 == 0 {
			m = randomMatch(rng)
		}
		s := FormatMatch(&m, ports)
		got, err := ParseMatch(s, ports)
		if err != nil || got != m {
			t.Fatalf("%d: %s\nwant %x\n got %x %v", i, s, m, got, err)
		}
		if !strings.HasPrefix(s, "bare") {
			ordinary++
		}
	}
	if ordinary < 9_000 {
		t.Errorf("only %d of 20000 matches are written in the ordinary form", ordinary)
	}
}

// TestMatchText is the contract's table of fields, one case after the other.
func TestMatchText(t *testing.T) {
	type pin struct {
		f       Field
		v, mask uint64
	}
	check := func(text, canonical string, src, dst PortRange, pins ...pin) {
		t.Helper()
		m, err := ParseMatch(text, testPorts())
		if err != nil {
			t.Error(err)
			return
		}
		want := Match{SrcPort: src, DstPort: dst}
		for _, p := range pins {
			want.Pin(p.f, p.v, p.mask)
		}
		if m != want {
			t.Errorf("%s:\n got %s %x\nwant %s %x", text, FormatMatch(&m, testPorts()), m, FormatMatch(&want, testPorts()), want)
		}
		if canonical == "" {
			canonical = text
		}
		if s := FormatMatch(&m, testPorts()); s != canonical {
			t.Errorf("%s is written %s, want %s", text, s, canonical)
		}
	}
	none := PortRange{}
	ip, l4 := pin{Flags, FlagIP, FlagIP}, pin{Flags, FlagL4, FlagL4}
	v4, v6 := pin{EthType, EthIPv4, 0xffff}, pin{EthType, EthIPv6, 0xffff}
	tcp := pin{Proto, ProtoTCP, 0xff}
	check("", "", none, none)
	check("in_port=vf0", "in_port=nic0/pf0/vf0", none, none, pin{InPort, 2, 0xffff})
	check("in_port=uplink", "in_port=nic0/pf0", none, none, pin{InPort, 1, 0xffff})
	check("in_port=web-1", "", none, none, pin{InPort, 4, 0xffff})
	check("in_port=#5", "", none, none, pin{InPort, 5, 0xffff})
	check("src_mac=aa:bb:cc:dd:ee:ff", "", none, none, pin{SrcMAC, 0xaabbccddeeff, 1<<48 - 1})
	check("dst_mac=01:00:00:00:00:00/01:00:00:00:00:00", "", none, none, pin{DstMAC, 1 << 40, 1 << 40})
	check("eth_type=arp", "", none, none, pin{EthType, EthARP, 0xffff})
	check("eth_type=0x0800", "eth_type=ipv4", none, none, v4)
	check("eth_type=2054", "eth_type=arp", none, none, pin{EthType, EthARP, 0xffff})
	check("eth_type=0x9000", "", none, none, pin{EthType, 0x9000, 0xffff})
	check("vlan_id=5", "", none, none, pin{VLAN, TagPresent | 5, TagPresent | TagID})
	check("vlan_id=none", "", none, none, pin{VLAN, 0, TagPresent})
	check("vlan_id=any", "", none, none, pin{VLAN, TagPresent, TagPresent})
	check("vlan_prio=3", "", none, none, pin{VLAN, TagPresent | 3<<13, TagPresent | TagPrio})
	check("vlan_id=5,vlan_prio=3", "", none, none, pin{VLAN, TagPresent | 3<<13 | 5, 0xffff})
	check("cvlan_id=7,cvlan_prio=0", "", none, none, pin{CVLAN, TagPresent | 7, 0xffff})
	check("src_ip=10.0.0.1", "", none, none, v4, pin{SrcLo, 10<<24 | 1, 0xffffffff})
	check("dst_ip=10.0.0.0/24", "", none, none, v4, pin{DstLo, 10 << 24, 0xffffff00})
	check("dst_ip=10.1.2.3/255.0.0.255", "dst_ip=10.0.0.3/255.0.0.255", none, none, v4, pin{DstLo, 10<<24 | 3, 0xff0000ff})
	check("src_ip=0.0.0.0/0", "eth_type=ipv4", none, none, v4)
	check("src_ip=fe80::/10", "", none, none, v6, pin{SrcHi, 0xfe80 << 48, 0xffc0 << 48})
	check("dst_ip=::1", "", none, none, v6, pin{DstHi, 0, DstHi.Max()}, pin{DstLo, 1, DstLo.Max()})
	check("dst_ip=::1/::ffff", "", none, none, v6, pin{DstLo, 1, 0xffff})
	check("ip_proto=tcp", "", none, none, ip, tcp)
	check("ip_proto=6", "ip_proto=tcp", none, none, ip, tcp)
	check("ip_proto=200", "", none, none, ip, pin{Proto, 200, 0xff})
	check("ip_tos=184", "", none, none, ip, pin{TOS, 184, 0xff})
	check("ip_tos=0xb8/0xfc", "", none, none, ip, pin{TOS, 0xb8, 0xfc})
	check("ip_ttl=1", "", none, none, ip, pin{TTL, 1, 0xff})
	check("ip_frag=no", "", none, none, ip, pin{Flags, 0, fragBits})
	check("ip_frag=first", "", none, none, ip, pin{Flags, FlagFragFirst, fragBits})
	check("ip_frag=later", "", none, none, ip, pin{Flags, FlagFragLater, fragBits})
	check("dst_port=80", "", none, none, l4, pin{DstPort, 80, 0xffff})
	check("dst_port=80-443", "", none, PortRange{80, 443}, l4)
	check("src_port=0x0400/0xfc00", "src_port=1024-2047", PortRange{1024, 2047}, none, l4)
	check("src_port=1/1", "src_port=0x0001/0x0001", none, none, l4, pin{SrcPort, 1, 1})
	check("dst_port=0-65535", "flags=+l4", none, none, l4)
	check("tcp_flags=+syn-ack", "ip_proto=tcp,tcp_flags=+syn-ack", none, none, ip, l4, tcp, pin{TCPFlags, 2, 0x12})
	check("tcp_flags=0x12", "ip_proto=tcp,tcp_flags=0x012", none, none, ip, l4, tcp, pin{TCPFlags, 0x12, 0xfff})
	check("tcp_flags=0x200/0xe00", "ip_proto=tcp,tcp_flags=0x200/0xe00", none, none, ip, l4, tcp, pin{TCPFlags, 0x200, 0xe00})
	check("icmp_type=8,ip_proto=icmp", "eth_type=ipv4,ip_proto=icmp,icmp_type=8", none, none, v4, pin{Flags, FlagIP, FlagIP | FlagFragLater},
		pin{Proto, ProtoICMP, 0xff}, pin{SrcPort, 8, 0xffff})
	check("ip_proto=icmpv6,icmp_code=4", "eth_type=ipv6,ip_proto=icmpv6,icmp_code=4", none, none, v6, pin{Flags, FlagIP, FlagIP | FlagFragLater},
		pin{Proto, ProtoICMPv6, 0xff}, pin{DstPort, 4, 0xffff})
	check("flags=-odd", "", none, none, pin{Flags, 0, FlagOdd})
	check("dst_port=80,flags=+ip", "", none, none, l4, ip, pin{DstPort, 80, 0xffff})
	check("bare,dst_port=80", "", none, none, pin{DstPort, 80, 0xffff})
	check("bare,vlan=0x0005/0x0fff", "", none, none, pin{VLAN, 5, 0xfff})
	check("bare,in_port=0x0002/0x00ff,eth_type=0x0800/0xff00", "", none, none, pin{InPort, 2, 0xff}, pin{EthType, 0x800, 0xff00})
	check("bare,src_ip=10.0.0.0/8", "", none, none, pin{SrcLo, 10 << 24, 0xff000000})
	check("bare,ct_state=0x01/0x03,reserved=7,flags=0x80/0xc0", "", none, none, pin{CTState, 1, 3}, pin{Reserved, 7, 0xff}, pin{Flags, 0x80, 0xc0})
	check(" in_port=vf0, ip_proto=tcp ", "in_port=nic0/pf0/vf0,ip_proto=tcp", none, none, pin{InPort, 2, 0xffff}, ip, tcp)
}

// refused checks that err is a fault with this code, this place and these words.
func refused(t *testing.T, text string, err error, code string, offset int, words ...string) {
	t.Helper()
	var f *Fault
	if !errors.As(err, &f) {
		t.Errorf("%s: got %v, want a fault", text, err)
		return
	}
	if f.Code != code || f.Offset != offset || f.What == "" || f.Why == "" || f.Remedy == "" {
		t.Errorf("%s: got %s at %d (%v), want %s at %d with what, why and remedy", text, f.Code, f.Offset, f, code, offset)
	}
	for _, w := range words {
		if !strings.Contains(f.Error(), w) {
			t.Errorf("%s: %q does not say %q", text, f, w)
		}
	}
}

func TestMatchRefused(t *testing.T) {
	check := func(text, code string, offset int, words ...string) {
		t.Helper()
		_, err := ParseMatch(text, testPorts())
		refused(t, text, err, code, offset, words...)
	}
	check("dst_prot=80", "E_FIELD_UNKNOWN", 0, "did you mean dst_port?")
	check("nonsense=80", "E_FIELD_UNKNOWN", 0, "use one of in_port, src_mac")
	check("vlan=5", "E_FIELD_UNKNOWN", 0)
	check("ip_proto=tcp,dst_port", "E_TERM", 13)
	check("ip_proto=tcp,ip_proto=tcp", "E_FIELD_TWICE", 13)
	check("dst_port=65536", "E_FIELD_VALUE", 0, "65535", "LOW-HIGH")
	check("dst_port=443-80", "E_FIELD_VALUE", 0, "empty")
	check("dst_port=80-443/2", "E_FIELD_VALUE", 0)
	check("dst_port=010x", "E_FIELD_VALUE", 0)
	check("dst_port=1_0", "E_FIELD_VALUE", 0)
	check("dst_port=-1", "E_FIELD_VALUE", 0)
	check("ip_proto=tcpp", "E_FIELD_VALUE", 0, "tcp, udp")
	check("ip_proto=tcp/0x0f", "E_FIELD_VALUE", 0, "no mask")
	check("eth_type=0x800/0xf00", "E_FIELD_VALUE", 0, "no mask")
	check("vlan_id=4096", "E_FIELD_VALUE", 0, "4095")
	check("vlan_prio=8", "E_FIELD_VALUE", 0)
	check("vlan_id=none,vlan_prio=1", "E_FIELD_CONFLICT", 13, "contradicts vlan_id=none")
	check("src_ip=10.0.0.1,dst_ip=::1", "E_FIELD_CONFLICT", 16, "contradicts src_ip=10.0.0.1")
	check("ip_proto=udp,tcp_flags=+syn", "E_FIELD_CONFLICT", 13)
	check("tcp_flags=+syn-sin", "E_FIELD_VALUE", 0, `"sin"`)
	check("tcp_flags=+syn-syn", "E_FIELD_VALUE", 0, "twice")
	check("tcp_flags=0x1000", "E_FIELD_VALUE", 0, "12 bits")
	check("src_ip=10.0.0.256", "E_FIELD_VALUE", 0)
	check("src_ip=10.0.0.0/33", "E_FIELD_VALUE", 0)
	check("src_ip=10.0.0.0/ffff::", "E_FIELD_VALUE", 0)
	check("src_ip=fe80::1%eth0", "E_FIELD_VALUE", 0)
	check("src_mac=aa:bb:cc:dd:ee", "E_FIELD_VALUE", 0)
	check("icmp_type=8", "E_FIELD_NEEDS", 0, "add ip_proto=icmp")
	check("icmp_type=8,ip_proto=tcp", "E_FIELD_NEEDS", 0)
	check("ip_proto=icmp,icmp_type=256", "E_FIELD_VALUE", 14)
	check("ip_proto=icmp,icmp_type=0,ip_frag=later", "E_FIELD_CONFLICT", 14, "contradicts ip_frag=later")
	check("ip_proto=icmp,src_port=5-9,icmp_type=8", "E_FIELD_CONFLICT", 27)
	check("ip_proto=icmp,src_ip=::1,icmp_type=8", "E_FIELD_CONFLICT", 25)
	check("ip_frag=yes", "E_FIELD_VALUE", 0, "no, first or later")
	check("ct_state=new", "E_CT_OFF", 0, "connection tracking is off")
	check("in_port=vf9", "E_PORT_UNKNOWN", 0, "nic0/pf0/vf1")
	check("in_port=#70000", "E_PORT_UNKNOWN", 0)
	check("in_port=0x1/0x1", "E_PORT_UNKNOWN", 0)
	check("bare=no", "E_FIELD_VALUE", 0)
	check("bare,vlan_id=4", "E_FIELD_UNKNOWN", 5)
}

func TestPortsFind(t *testing.T) {
	p := NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic1/pf0", "nic1/pf0/vf0", "nic1/pf0/vf1", "vf1")
	check := func(name string, want Port, code string) {
		t.Helper()
		got, err := p.Find(name)
		if code != "" {
			refused(t, name, err, code, 0)
		} else if err != nil || got != want {
			t.Errorf("%s: got %d %v, want %d", name, got, err, want)
		}
	}
	check("nic1/pf0", 3, "")
	check("vf1", 6, "") // a full name wins over the last part of another
	check("vf0", 0, "E_PORT_AMBIGUOUS")
	check("uplink", 0, "E_PORT_AMBIGUOUS")
	check("vf2", 0, "E_PORT_UNKNOWN")
	check("#4", 4, "")
	if _, err := (*Ports)(nil).Find("x"); err == nil {
		t.Error("a nil Ports knows x")
	}
	open := OpenPorts()
	for i, name := range []string{"a", "b/c", "a", "c"} {
		if got, err := open.Find(name); err != nil || got != []Port{1, 2, 1, 2}[i] {
			t.Errorf("open %s: %d %v", name, got, err)
		}
	}
	if _, err := open.Find("a b"); err == nil {
		t.Error("open ports took a name with a blank")
	}
}

func TestSuggest(t *testing.T) {
	check := func(word, want string, known ...string) {
		t.Helper()
		if got := Suggest(word, known...); got != want {
			t.Errorf("%s: %s, want %s", word, got, want)
		}
	}
	check("prioriyt", "did you mean priority?", "name", "priority", "match")
	check("mtach", "did you mean match?", "name", "priority", "match")
	check("colour", "use one of name, match", "name", "match")
	check("x", "use one of name", "name")
}
