package flowtest

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
)

// FrameKind is a sort of frame that [FrameOf] makes.
type FrameKind uint8

// The kinds of frames.
const (
	Plain     FrameKind = iota // no IP: ARP, or some other type
	IPv4                       // no options, whole
	IPv4Odd                    // options, fragments, rare protocols
	IPv6                       // no extension headers
	IPv6Odd                    // extension headers, fragments among them, some unknown
	Truncated                  // any of the above, cut anywhere, also inside the Ethernet header
	Hostile                    // any of the above with some bytes of its headers replaced, or noise
	NumFrameKinds
)

var kindNames = [...]string{"plain", "ipv4", "ipv4-odd", "ipv6", "ipv6-odd", "truncated", "hostile"}

// String returns the name of k.
func (k FrameKind) String() string { return kindNames[k] }

// Frame returns a random frame of a random kind.
func Frame(rng *rand.Rand) []byte { return FrameOf(rng, FrameKind(rng.IntN(int(NumFrameKinds)))) }

// FrameOf returns a random frame of one kind with no to three VLAN tags. MACs,
// addresses and ports are few, so that rules and frames meet. IPv4 header
// checksums are right except in truncated and hostile frames; those of other
// headers are zero.
func FrameOf(rng *rand.Rand, kind FrameKind) []byte {
	switch kind {
	case Truncated:
		f := FrameOf(rng, FrameKind(rng.IntN(int(Truncated))))
		return f[:rng.IntN(len(f))]
	case Hostile:
		return hostile(rng)
	}
	be := binary.BigEndian
	f := append(mac(rng), mac(rng)...)
	for range []int{0, 0, 0, 1, 1, 2, 3}[rng.IntN(7)] {
		f = be.AppendUint16(f, []uint16{flow.EthVLAN, flow.EthQinQ}[rng.IntN(2)])
		f = be.AppendUint16(f, uint16(rng.IntN(3))|uint16(rng.IntN(16))<<12)
	}
	switch kind {
	case IPv4, IPv4Odd:
		f = be.AppendUint16(f, flow.EthIPv4)
		return appendIPv4(f, rng, kind == IPv4Odd)
	case IPv6, IPv6Odd:
		f = be.AppendUint16(f, flow.EthIPv6)
		return appendIPv6(f, rng, kind == IPv6Odd)
	}
	f = be.AppendUint16(f, []uint16{flow.EthARP, 0x88cc, 0x0600, 46}[rng.IntN(4)])
	return noise(f, rng, rng.IntN(50))
}

// mac returns the MAC of a station of [NewTable], of nobody, or a group's.
func mac(rng *rand.Rand) []byte {
	switch rng.IntN(6) {
	case 0:
		return []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	case 1:
		return []byte{1, 0, 0x5e, 0, 0, byte(rng.IntN(2))}
	case 2:
		return []byte{2, 0, 0, 0, 0, 0x99}
	}
	return []byte{2, 0, 0, 0, 0, byte(2 + rng.IntN(2))}
}

func appendIPv4(f []byte, rng *rand.Rand, odd bool) []byte {
	be := binary.BigEndian
	proto := protocol(rng, odd)
	body := appendL4(nil, rng, proto)
	header, frag := 20, uint16(rng.IntN(2))<<14 // don't fragment
	if odd {
		header += 4 * rng.IntN(11)
		frag = []uint16{0, 0x2000, 0x2010, 0x0010, 0x4000}[rng.IntN(5)]
	}
	at := len(f)
	f = append(f, byte(0x40|header/4), byte(rng.IntN(4)<<2))
	f = be.AppendUint16(f, uint16(header+len(body)))
	f = be.AppendUint16(f, uint16(rng.Uint32()))
	f = be.AppendUint16(f, frag)
	f = append(f, byte(rng.IntN(3)*64), proto, 0, 0)
	f = append(f, 10, 0, 0, byte(rng.IntN(4)), 10, 0, byte(rng.IntN(2)), byte(rng.IntN(4)))
	for len(f) < at+header {
		f = append(f, 1) // no operation
	}
	be.PutUint16(f[at+10:], checksum(f[at:]))
	f = append(f, body...)
	if rng.IntN(4) == 0 {
		f = append(f, 0, 0, 0) // padding of a short frame
	}
	return f
}

func appendIPv6(f []byte, rng *rand.Rand, odd bool) []byte {
	be := binary.BigEndian
	next := protocol(rng, odd)
	body := appendL4(nil, rng, next)
	for range rng.IntN(3) {
		if !odd {
			break
		}
		kind := []byte{0, 43, 44, 51, 60, 135, 253}[rng.IntN(7)]
		ext := []byte{next, 0, 0, 0, 0, 0, 0, 0}
		switch n := rng.IntN(3); kind {
		case 44:
			be.PutUint16(ext[2:], []uint16{0, 1, 8, 9}[rng.IntN(4)])
		case 51:
			ext[1] = byte(2 * n)
			ext = append(ext, make([]byte, 8*n)...)
		default:
			ext[1] = byte(n)
			ext = append(ext, make([]byte, 8*n)...)
		}
		next, body = kind, append(ext, body...)
	}
	f = be.AppendUint32(f, 6<<28|uint32(rng.IntN(4))<<22|uint32(rng.IntN(1<<20)))
	f = be.AppendUint16(f, uint16(len(body)))
	f = append(f, next, byte(rng.IntN(3)*64))
	for range 2 {
		f = append(f, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, byte(rng.IntN(2)), 0, 0, 0, 0, 0, 0, 0, byte(rng.IntN(4)))
	}
	return append(f, body...)
}

func protocol(rng *rand.Rand, odd bool) byte {
	if odd && rng.IntN(4) == 0 {
		return []byte{0, 2, 47, 50, 59, 89, 255}[rng.IntN(7)]
	}
	return []byte{flow.ProtoTCP, flow.ProtoTCP, flow.ProtoUDP, flow.ProtoUDP, flow.ProtoSCTP, flow.ProtoICMP, flow.ProtoICMPv6}[rng.IntN(7)]
}

// appendL4 appends a whole transport header and some payload.
func appendL4(b []byte, rng *rand.Rand, proto byte) []byte {
	be := binary.BigEndian
	payload := rng.IntN(40)
	ports := func() {
		b = be.AppendUint16(b, uint16(1024+rng.IntN(4)))
		b = be.AppendUint16(b, []uint16{22, 53, 80, 443}[rng.IntN(4)])
	}
	switch proto {
	case flow.ProtoTCP:
		ports()
		b = noise(b, rng, 8)
		b = be.AppendUint16(b, 5<<12|uint16(rng.IntN(0x1000)))
		b = append(b, 0xff, 0xff, 0, 0, 0, 0)
	case flow.ProtoUDP:
		ports()
		b = be.AppendUint16(b, uint16(8+payload))
		b = append(b, 0, 0)
	case flow.ProtoSCTP:
		ports()
		b = append(b, 0, 0, 0, 1, 0, 0, 0, 0)
	case flow.ProtoICMP, flow.ProtoICMPv6:
		b = append(b, []byte{8, 0, 3, 11, 128, 135}[rng.IntN(6)], byte(rng.IntN(3)), 0, 0, 0, 1, 0, 1)
	}
	return noise(b, rng, payload)
}

// hostile returns noise, or a good frame with up to four bytes of its headers
// replaced by values that are likely to hurt.
func hostile(rng *rand.Rand) []byte {
	if rng.IntN(8) == 0 {
		return noise(nil, rng, rng.IntN(100))
	}
	f := FrameOf(rng, FrameKind(rng.IntN(int(Truncated))))
	for range 1 + rng.IntN(4) {
		at := min(12, len(f)-1) + rng.IntN(max(1, len(f)-12))
		f[at] = []byte{0, 1, 0x7f, 0x80, 0xff, f[at] ^ 1, f[at] + 1, byte(rng.Uint32())}[rng.IntN(8)]
	}
	return f
}

func noise(b []byte, rng *rand.Rand, n int) []byte {
	for range n {
		b = append(b, byte(rng.Uint32()))
	}
	return b
}

// checksum is the Internet checksum (RFC 1071) of b, whose length is even.
func checksum(b []byte) uint16 {
	var sum uint32
	for ; len(b) > 1; b = b[2:] {
		sum += uint32(binary.BigEndian.Uint16(b))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
