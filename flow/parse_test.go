package flow

import (
	"encoding/hex"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// TestFrameParse turns random possible keys into frames and back.
func TestFrameParse(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		k := randomPossible(rng)
		f, err := Frame(k, make([]byte, rng.IntN(9)))
		if err != nil {
			t.Fatal(i, err)
		}
		got, err := Parse(f, Port(k.Get(InPort)))
		if err != nil || got != k {
			t.Fatalf("%d: frame %x\nwant %s\n got %s %v", i, f, FormatKey(k, nil), FormatKey(got, nil), err)
		}
	}
	if _, err := Frame(Key{}, make([]byte, 1<<16)); err == nil {
		t.Error("a payload larger than IP carries was accepted")
	}
}

// TestParse reads frames written by hand. The key is text without in_port, which is 3.
func TestParse(t *testing.T) {
	const macs = "020000000002 020000000001 "
	const same = "src_mac=02:00:00:00:00:01,dst_mac=02:00:00:00:00:02,"
	check := func(name, frame, want string) {
		t.Helper()
		b, err := hex.DecodeString(strings.ReplaceAll(macs+frame, " ", ""))
		if err != nil {
			t.Fatal(err)
		}
		k, err := Parse(b, 3)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		wantKey, err := ParseKey("in_port=#3,"+same+want, nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if k != wantKey {
			t.Errorf("%s:\n got %s\nwant %s", name, FormatKey(k, nil), FormatKey(wantKey, nil))
		}
		if !Possible(&k) {
			t.Errorf("%s: not possible", name)
		}
	}
	const (
		// version and length, total length, id, fragment, ttl 64, protocol, checksum, addresses
		v4Addr = " 0a000001 0a000002 "
		tcp    = "0457 01bb 00000000 00000000 5012 ffff 0000 0000" // 1111 -> 443, syn ack
		udp    = "0035 0044 0008 0000"
		sctp   = "0001 0002 00000000 00000000"
		v6Addr = " fe800000000000000000000000000001 fe800000000000000000000000000002 "
	)
	v4 := "src_ip=10.0.0.1,dst_ip=10.0.0.2,ip_ttl=64,"
	v6 := "src_ip=fe80::1,dst_ip=fe80::2,ip_ttl=64,"
	ports := "ip_proto=tcp,src_port=1111,dst_port=443,tcp_flags=0x012"

	check("ARP", "0806 0001", "eth_type=arp")
	check("802.3 length", "0026 4242", "eth_type=0x0026")
	check("one tag", "8100 6005 0806", "vlan_id=5,vlan_prio=3,eth_type=arp")
	check("priority tag", "8100 6000 0806", "vlan_id=0,vlan_prio=3,eth_type=arp")
	check("drop-eligible bit", "8100 1005 0806", "vlan_id=5,eth_type=arp")
	check("QinQ", "88a8 0009 8100 2005 0806", "vlan_id=9,cvlan_id=5,cvlan_prio=1,eth_type=arp")
	check("QinQ with IP", "8100 0009 8100 0005 0800 4500001c 00000000 4011 0000"+v4Addr+udp, "vlan_id=9,cvlan_id=5,"+v4+"ip_proto=udp,src_port=53,dst_port=68")
	check("three tags", "8100 0001 8100 0002 8100 0003 0800", "vlan_id=1,cvlan_id=2,eth_type=0x8100,flags=+odd")
	check("a tag cut short", "8100 0001 08", "eth_type=0x8100,flags=+odd")
	check("a second tag cut short", "8100 0001 8100 0002", "vlan_id=1,eth_type=0x8100,flags=+odd")

	check("TCP", "0800 45000028 00004000 4006 0000"+v4Addr+tcp, v4+ports)
	check("padding is no data", "0800 45000014 00000000 4006 0000"+v4Addr+tcp, v4+"ip_proto=tcp,flags=-l4+odd")
	check("TOS", "0800 45b8001c 00000000 4011 0000"+v4Addr+udp, v4+"ip_tos=184,ip_proto=udp,src_port=53,dst_port=68")
	check("SCTP", "0800 45000020 00000000 4084 0000"+v4Addr+sctp, v4+"ip_proto=sctp,src_port=1,dst_port=2")
	check("ICMP", "0800 4500001c 00000000 4001 0000"+v4Addr+"08000000 00000000", v4+"ip_proto=icmp,icmp_type=8")
	check("ICMP cut", "0800 45000016 00000000 4001 0000"+v4Addr+"0800", v4+"ip_proto=icmp,flags=+odd")
	check("ICMPv6 number on IPv4 is nothing special", "0800 4500001c 00000000 403a 0000"+v4Addr+"80000000 00000000", v4+"ip_proto=58")
	check("GRE", "0800 45000018 00000000 402f 0000"+v4Addr+"00000800", v4+"ip_proto=gre")
	check("options", "0800 46000020 00000000 4011 0000"+v4Addr+"01010100"+udp, v4+"ip_proto=udp,src_port=53,dst_port=68,flags=+odd")
	check("options longer than the frame", "0800 4f000028 00000000 4011 0000"+v4Addr+udp, "eth_type=ipv4,flags=-ip+odd")
	check("header length 4", "0800 44000020 00000000 4011 0000"+v4Addr+udp, "eth_type=ipv4,flags=-ip+odd")
	check("total length below the header", "0800 45000013 00000000 4011 0000"+v4Addr+udp, "eth_type=ipv4,flags=-ip+odd")
	check("total length beyond the frame", "0800 4500001d 00000000 4011 0000"+v4Addr+udp, v4+"ip_proto=udp,src_port=53,dst_port=68,flags=+odd")
	check("IPv6 in an IPv4 frame", "0800 6500001c 00000000 4011 0000"+v4Addr+udp, "eth_type=ipv4,flags=-ip+odd")
	check("header cut", "0800 4500001c 00000000 4011 0000 0a000001 0a0000", "eth_type=ipv4,flags=-ip+odd")
	check("first fragment", "0800 4500001c 00002000 4011 0000"+v4Addr+udp, v4+"ip_frag=first,ip_proto=udp,src_port=53,dst_port=68")
	check("later fragment", "0800 4500001c 00002001 4011 0000"+v4Addr+udp, v4+"ip_frag=later,ip_proto=udp")
	check("last fragment", "0800 4500001c 00000001 4011 0000"+v4Addr+udp, v4+"ip_frag=later,ip_proto=udp")
	check("TCP flags beyond the end", "0800 45000020 00000000 4006 0000"+v4Addr+"0457 01bb 00000000 00000000", v4+"ip_proto=tcp,src_port=1111,dst_port=443,flags=+odd")
	check("ports cut", "0800 45000017 00000000 4011 0000"+v4Addr+"003500", v4+"ip_proto=udp,flags=-l4+odd")

	check("IPv6 TCP", "86dd 60000000 0014 06 40"+v6Addr+tcp, v6+ports)
	check("traffic class", "86dd 6b812345 0008 11 40"+v6Addr+udp, v6+"ip_tos=184,ip_proto=udp,src_port=53,dst_port=68")
	check("ICMPv6", "86dd 60000000 0008 3a 40"+v6Addr+"87000000 00000000", v6+"ip_proto=icmpv6,icmp_type=135")
	check("ICMP number on IPv6 is nothing special", "86dd 60000000 0008 01 40"+v6Addr+"08000000 00000000", v6+"ip_proto=icmp")
	check("no next header", "86dd 60000000 0000 3b 40"+v6Addr, v6+"ip_proto=59")
	check("payload beyond the frame", "86dd 60000000 0009 11 40"+v6Addr+udp, v6+"ip_proto=udp,src_port=53,dst_port=68,flags=+odd")
	check("IPv6 header cut", "86dd 60000000 0008 11 40 fe80", "eth_type=ipv6,flags=-ip+odd")
	check("IPv4 in an IPv6 frame", "86dd 40000000 0008 11 40"+v6Addr+udp, "eth_type=ipv6,flags=-ip+odd")
	check("hop by hop, routing, destination options", "86dd 60000000 0028 00 40"+v6Addr+"2b00000000000000 3c01000000000000 0000000000000000 1100000000000000"+udp,
		v6+"ip_proto=udp,src_port=53,dst_port=68")
	check("authentication", "86dd 60000000 0014 33 40"+v6Addr+"1101000000000000 00000000"+udp, v6+"ip_proto=udp,src_port=53,dst_port=68")
	check("first fragment of IPv6", "86dd 60000000 0010 2c 40"+v6Addr+"1100000100000001"+udp, v6+"ip_frag=first,ip_proto=udp,src_port=53,dst_port=68")
	check("later fragment of IPv6", "86dd 60000000 0010 2c 40"+v6Addr+"1100000900000001"+udp, v6+"ip_frag=later,ip_proto=udp")
	check("a fragment that is whole", "86dd 60000000 0010 2c 40"+v6Addr+"1100000000000001"+udp, v6+"ip_proto=udp,src_port=53,dst_port=68,flags=+odd")
	check("two fragment headers", "86dd 60000000 0018 2c 40"+v6Addr+"2c00000100000001 1100000100000001"+udp, v6+"ip_frag=first,ip_proto=44,flags=+odd")
	check("mobility", "86dd 60000000 0010 87 40"+v6Addr+"1100000000000000"+udp, v6+"ip_proto=135,flags=+odd")
	check("extension longer than the packet", "86dd 60000000 0010 00 40"+v6Addr+"1104000000000000"+udp, v6+"ip_proto=0,flags=+odd")
	check("extension cut", "86dd 60000000 0004 00 40"+v6Addr+"11000000", v6+"ip_proto=0,flags=+odd")
	check("jumbogram", "86dd 60000000 0000 00 40"+v6Addr+"1100c20400010000"+udp, v6+"ip_proto=udp,src_port=53,dst_port=68,flags=+odd")
	eight := strings.Repeat("3c00000000000000", 7) + "1100000000000000"
	check("eight extensions", "86dd 60000000 0048 3c 40"+v6Addr+eight+udp, v6+"ip_proto=udp,src_port=53,dst_port=68")
	check("nine extensions", "86dd 60000000 0050 3c 40"+v6Addr+"3c00000000000000"+eight+udp, v6+"ip_proto=60,flags=+odd")

	for n := range 14 {
		if _, err := Parse(make([]byte, n), 1); err != ErrShort {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// TestParsePossible checks that whatever the parser returns is a possible key.
func TestParsePossible(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	types := []uint16{EthIPv4, EthIPv6, EthVLAN, EthQinQ, EthARP, 0}
	protos := []byte{0, 1, 6, 17, 58, 132, 43, 44, 51, 60, 135, 253, 59, 99}
	for i := range 500_000 {
		f := make([]byte, rng.IntN(120))
		for j := range f {
			f[j] = byte(rng.Uint32())
			if rng.IntN(4) == 0 {
				f[j] = protos[rng.IntN(len(protos))]
			}
		}
		off := 12
		for off+2 < len(f) {
			e := types[rng.IntN(len(types))]
			f[off], f[off+1] = byte(e>>8), byte(e)
			off += 4
			if e == EthIPv4 && off < len(f) {
				f[off-2] = 0x45 + byte(rng.IntN(8)/7)
				f[off], f[off+1-1] = 0, byte(rng.IntN(120))
			}
			if e == EthIPv6 && off+4 < len(f) {
				f[off-2] = 0x60
				f[off+2], f[off+3] = 0, byte(rng.IntN(120))
				f[off+4] = protos[rng.IntN(len(protos))]
			}
			if e != EthVLAN && e != EthQinQ {
				break
			}
		}
		k, err := Parse(f, 7)
		if err == nil && !Possible(&k) {
			t.Fatalf("%d: frame %x has impossible key %x", i, f, k)
		}
	}
}

// TestNoAllocations pins that the parser and the definition of a lookup allocate nothing.
func TestNoAllocations(t *testing.T) {
	rng := rand.New(rand.NewPCG(29, 30))
	frame, err := Frame(randomPossible(rng), make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	var rules []Rule
	for i := range 50 {
		rules = append(rules, Rule{ID: RuleID(i + 1), Priority: int32(i), Match: randomMatch(rng), Actions: Actions{{Op: Drop}}})
	}
	table, err := NewTable(TableSpec{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	sink := 0
	if n := testing.AllocsPerRun(100, func() {
		k, err := Parse(frame, 1)
		if err != nil {
			t.Fatal(err)
		}
		sink += table.Lookup(&k)
	}); n != 0 {
		t.Errorf("Parse and Lookup allocate %v times", n)
	}
}

// plainFrames are frames at the edge of what parsePlain takes.
func plainFrames() (out [][]byte) {
	for _, proto := range []byte{ProtoUDP, ProtoTCP, ProtoICMP, 132, 0} {
		for _, length := range []int{8, 12, 20, 30} {
			b := make([]byte, 34+length)
			for i := range b {
				b[i] = byte(17*i + length)
			}
			copy(b[12:], []byte{8, 0, 0x45, 0xfc, 0, byte(20 + length), 1, 2, 0x40, 0, 64, proto})
			out = append(out, b, append(slices.Clone(b), make([]byte, 18)...)) // and padded
		}
	}
	return out
}

func sameAsPlain(t *testing.T, frame []byte) (plain bool) {
	t.Helper()
	var fast, slow Key
	for i := range fast {
		fast[i] = ^uint64(0) // what was there before
	}
	if !fast.parsePlain(frame, 7) {
		return false
	}
	if err := slow.parse(frame, 7); err != nil || fast != slow {
		t.Fatalf("%x: plain %x, parse %x, %v", frame, fast, slow, err)
	}
	return true
}

// TestParsePlain puts every value into every byte of frames, and cuts them short everywhere.
func TestParsePlain(t *testing.T) {
	plain, all := 0, 0
	for _, frame := range plainFrames() {
		check := func(f []byte) {
			if all++; sameAsPlain(t, f) {
				plain++
			}
		}
		for n := range len(frame) + 1 {
			check(frame[:n:n])
		}
		for i := range frame {
			f := slices.Clone(frame)
			for v := range 256 {
				f[i] = byte(v)
				check(f)
			}
		}
	}
	if 4*plain < all {
		t.Errorf("%d of %d frames were plain", plain, all)
	}
}

func FuzzParsePlain(f *testing.F) {
	for _, frame := range plainFrames() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) { sameAsPlain(t, frame) })
}
