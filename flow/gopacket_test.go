package flow_test

import (
	"math/rand/v2"
	"net"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/bladeflow/bladeflow/flow"
)

// TestParseAgainstGopacket builds ordinary packets with another library, and reads
// them with it and with Parse. Odd packets are left out: there libraries differ,
// which is what the flag says.
func TestParseAgainstGopacket(t *testing.T) {
	rng := rand.New(rand.NewPCG(31, 32))
	for i := range 5_000 {
		frame := ordinaryFrame(t, rng)
		k, err := flow.Parse(frame, 1)
		if err != nil {
			t.Fatal(err)
		}
		if k.Get(flow.Flags)&flow.FlagOdd != 0 {
			t.Fatalf("%d: an ordinary packet is odd: %x", i, frame)
		}
		if want := keyByGopacket(t, frame); k != want {
			t.Fatalf("%d: %x\n got %s\nwant %s", i, frame, flow.FormatKey(k, nil), flow.FormatKey(want, nil))
		}
	}
}

func ordinaryFrame(t *testing.T, rng *rand.Rand) []byte {
	t.Helper()
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	}
	port := func() uint16 { return uint16(rng.Uint32()) }
	eth := &layers.Ethernet{SrcMAC: random(6), DstMAC: random(6)}
	stack := []gopacket.SerializableLayer{eth}
	ethType := &eth.EthernetType
	for range rng.IntN(3) {
		*ethType = [...]layers.EthernetType{layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ}[rng.IntN(2)]
		tag := &layers.Dot1Q{Priority: uint8(rng.IntN(8)), VLANIdentifier: port() & 0xfff}
		stack = append(stack, tag)
		ethType = &tag.Type
	}
	var l4 gopacket.SerializableLayer
	var proto layers.IPProtocol
	six := rng.IntN(2) == 0
	switch rng.IntN(4) {
	case 0:
		proto = layers.IPProtocolTCP
		l4 = &layers.TCP{SrcPort: layers.TCPPort(port()), DstPort: layers.TCPPort(port()), SYN: rng.IntN(2) == 0, ACK: rng.IntN(2) == 0, FIN: rng.IntN(2) == 0, CWR: rng.IntN(2) == 0, NS: rng.IntN(2) == 0}
	case 1:
		proto = layers.IPProtocolUDP
		l4 = &layers.UDP{SrcPort: layers.UDPPort(port()), DstPort: layers.UDPPort(port())}
	case 2:
		proto = layers.IPProtocolSCTP
		l4 = &layers.SCTP{SrcPort: layers.SCTPPort(port()), DstPort: layers.SCTPPort(port())}
	default:
		if proto = layers.IPProtocolICMPv4; six {
			proto = layers.IPProtocolICMPv6
			l4 = &layers.ICMPv6{TypeCode: layers.ICMPv6TypeCode(port())}
		} else {
			l4 = &layers.ICMPv4{TypeCode: layers.ICMPv4TypeCode(port())}
		}
	}
	if six {
		*ethType = layers.EthernetTypeIPv6
		stack = append(stack, &layers.IPv6{Version: 6, TrafficClass: uint8(rng.Uint32()), FlowLabel: rng.Uint32() & 0xfffff, HopLimit: uint8(rng.Uint32()),
			NextHeader: proto, SrcIP: net.IP(random(16)), DstIP: net.IP(random(16))})
	} else {
		*ethType = layers.EthernetTypeIPv4
		stack = append(stack, &layers.IPv4{Version: 4, TOS: uint8(rng.Uint32()), Id: port(), TTL: uint8(rng.Uint32()), Protocol: proto,
			SrcIP: net.IP(random(4)), DstIP: net.IP(random(4)), Flags: layers.IPv4Flag(rng.IntN(2) * int(layers.IPv4DontFragment))})
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true}, append(stack, l4, gopacket.Payload(random(8+rng.IntN(20))))...); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// keyByGopacket fills a key from the layers that gopacket decodes.
func keyByGopacket(t *testing.T, frame []byte) flow.Key {
	t.Helper()
	var k flow.Key
	k.Set(flow.InPort, 1)
	mac := func(b []byte) (v uint64) {
		for _, x := range b {
			v = v<<8 | uint64(x)
		}
		return v
	}
	tag := flow.VLAN
	ethType := func(e layers.EthernetType) { k.Set(flow.EthType, uint64(e)) }
	flag := func(f uint64) { k.Set(flow.Flags, k.Get(flow.Flags)|f) }
	ports := func(src, dst uint16) {
		k.Set(flow.SrcPort, uint64(src))
		k.Set(flow.DstPort, uint64(dst))
	}
	address := func(src, dst net.IP) {
		hi, lo := flow.SrcHi, flow.SrcLo
		for _, a := range []net.IP{src, dst} {
			if len(a) == 16 {
				k.Set(hi, mac(a[:8]))
				k.Set(lo, mac(a[8:]))
			} else {
				k.Set(lo, mac(a))
			}
			hi, lo = flow.DstHi, flow.DstLo
		}
	}
	for _, l := range gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default).Layers() {
		switch l := l.(type) {
		case *layers.Ethernet:
			k.Set(flow.SrcMAC, mac(l.SrcMAC))
			k.Set(flow.DstMAC, mac(l.DstMAC))
			ethType(l.EthernetType)
		case *layers.Dot1Q:
			k.Set(tag, uint64(l.Priority)<<13|flow.TagPresent|uint64(l.VLANIdentifier))
			ethType(l.Type)
			tag = flow.CVLAN
		case *layers.IPv4:
			flag(flow.FlagIP)
			address(l.SrcIP.To4(), l.DstIP.To4())
			k.Set(flow.Proto, uint64(l.Protocol))
			k.Set(flow.TOS, uint64(l.TOS))
			k.Set(flow.TTL, uint64(l.TTL))
		case *layers.IPv6:
			flag(flow.FlagIP)
			address(l.SrcIP, l.DstIP)
			k.Set(flow.Proto, uint64(l.NextHeader))
			k.Set(flow.TOS, uint64(l.TrafficClass))
			k.Set(flow.TTL, uint64(l.HopLimit))
		case *layers.TCP:
			flag(flow.FlagL4)
			ports(uint16(l.SrcPort), uint16(l.DstPort))
			for i, on := range []bool{l.FIN, l.SYN, l.RST, l.PSH, l.ACK, l.URG, l.ECE, l.CWR, l.NS} {
				if on {
					k.Set(flow.TCPFlags, k.Get(flow.TCPFlags)|1<<i)
				}
			}
		case *layers.UDP:
			flag(flow.FlagL4)
			ports(uint16(l.SrcPort), uint16(l.DstPort))
		case *layers.SCTP:
			flag(flow.FlagL4)
			ports(uint16(l.SrcPort), uint16(l.DstPort))
		case *layers.ICMPv4:
			ports(uint16(l.TypeCode.Type()), uint16(l.TypeCode.Code()))
		case *layers.ICMPv6:
			ports(uint16(l.TypeCode.Type()), uint16(l.TypeCode.Code()))
		}
	}
	return k
}
