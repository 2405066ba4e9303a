package flow

import (
	"encoding/binary"
	"net/netip"
)

// Words is the number of 64-bit words in a [Key].
const Words = 8

// Key is all that rules can look at in one packet: 512 bits, one cache line.
// [Parse] makes it. What a packet does not have is zero.
//
//	word 0  in_port 16 | src_mac 48
//	word 1  dst_mac 48 | eth_type 16
//	word 2  vlan tci 16 | inner vlan tci 16 | src_port 16 | dst_port 16
//	word 3  src address, upper 64 bits      (zero for IPv4)
//	word 4  src address, lower 64 bits      (IPv4 in the last 32)
//	word 5  dst address, upper 64 bits
//	word 6  dst address, lower 64 bits
//	word 7  proto 8 | tos 8 | ttl 8 | flags 8 | tcp_flags 16 | ct_state 8 | reserved 8
//
// Words are numbers, not bytes in memory; the field named first sits in the most
// significant bits. docs/adr/0001-key-layout.md says why this layout.
type Key [Words]uint64

// Field names a part of a [Key] of at most 64 bits. An address is two fields.
type Field uint8

// The fields of a Key, in the order of its words.
const (
	InPort   Field = iota // logical port the packet came in by, see [Port]
	SrcMAC                // 48 bits, first byte on the wire most significant
	DstMAC                // 48 bits, first byte on the wire most significant
	EthType               // type after at most two VLAN tags
	VLAN                  // outer tag: prio 3, present 1, id 12
	CVLAN                 // inner tag, same shape
	SrcPort               // TCP, UDP, SCTP source port, or ICMP type
	DstPort               // TCP, UDP, SCTP destination port, or ICMP code
	SrcHi                 // source address, upper half
	SrcLo                 // source address, lower half
	DstHi                 // destination address, upper half
	DstLo                 // destination address, lower half
	Proto                 // IP protocol after known extension headers
	TOS                   // IPv4 TOS or IPv6 traffic class, all 8 bits
	TTL                   // IPv4 TTL or IPv6 hop limit
	Flags                 // what the parser found out, see [FlagIP]
	TCPFlags              // low 12 bits of bytes 12 and 13 of the TCP header
	CTState               // connection state; zero until connections are tracked
	Reserved              // always zero
	NumFields
)

// Bits of the [Flags] field.
const (
	FlagIP        = 1 << 0 // a whole IPv4 or IPv6 header was there
	FlagL4        = 1 << 1 // a whole TCP, UDP or SCTP port pair was there
	FlagFragFirst = 1 << 2 // first fragment of several
	FlagFragLater = 1 << 3 // a later fragment: no ports
	FlagOdd       = 1 << 4 // parsers of NICs may differ here, see [Parse]
)

// Bits of the [VLAN] and [CVLAN] fields.
const (
	TagPresent = 1 << 12 // the tag was there (in place of the drop-eligible bit)
	TagID      = 0x0fff
	TagPrio    = 0xe000
)

// place is where a field lives in a Key.
type place struct{ word, shift, bits uint8 }

var layout = [NumFields]place{
	InPort: {0, 48, 16}, SrcMAC: {0, 0, 48},
	DstMAC: {1, 16, 48}, EthType: {1, 0, 16},
	VLAN: {2, 48, 16}, CVLAN: {2, 32, 16}, SrcPort: {2, 16, 16}, DstPort: {2, 0, 16},
	SrcHi: {3, 0, 64}, SrcLo: {4, 0, 64},
	DstHi: {5, 0, 64}, DstLo: {6, 0, 64},
	Proto: {7, 56, 8}, TOS: {7, 48, 8}, TTL: {7, 40, 8}, Flags: {7, 32, 8},
	TCPFlags: {7, 16, 16}, CTState: {7, 8, 8}, Reserved: {7, 0, 8},
}

// Place returns the word a field lives in, the shift of its lowest bit and its
// width in bits. Implementations outside Go (XDP, SIMD) take their offsets here.
func (f Field) Place() (word, shift, bits int) {
	p := layout[f]
	return int(p.word), int(p.shift), int(p.bits)
}

// Max returns the largest value of the field, which is also its full mask.
func (f Field) Max() uint64 { return ^uint64(0) >> (64 - layout[f].bits) }

// Get returns the value of field f.
func (k *Key) Get(f Field) uint64 {
	p := layout[f]
	return k[p.word] >> p.shift & f.Max()
}

// Set replaces the value of field f. Bits of v beyond the field are ignored.
func (k *Key) Set(f Field, v uint64) {
	p := layout[f]
	m := f.Max() << p.shift
	k[p.word] = k[p.word]&^m | v<<p.shift&m
}

// Src returns the source address; ok is false if the packet is not IP.
func (k *Key) Src() (a netip.Addr, ok bool) { return k.addr(k[3], k[4]) }

// Dst returns the destination address; ok is false if the packet is not IP.
func (k *Key) Dst() (a netip.Addr, ok bool) { return k.addr(k[5], k[6]) }

func (k *Key) addr(hi, lo uint64) (netip.Addr, bool) {
	if k.Get(Flags)&FlagIP == 0 {
		return netip.Addr{}, false
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	if k.Get(EthType) == EthIPv4 {
		return netip.AddrFrom4([4]byte(b[12:])), true
	}
	return netip.AddrFrom16(b), true
}

// SetSrc sets the source address: an IPv4 address goes into the last 32 bits.
func (k *Key) SetSrc(a netip.Addr) { k[3], k[4] = AddrWords(a) }

// SetDst sets the destination address like [Key.SetSrc].
func (k *Key) SetDst(a netip.Addr) { k[5], k[6] = AddrWords(a) }

// AddrWords returns the two words of an address as a Key holds them.
func AddrWords(a netip.Addr) (hi, lo uint64) {
	if a.Is4() {
		b := a.As4()
		return 0, uint64(binary.BigEndian.Uint32(b[:]))
	}
	b := a.As16()
	return binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
}
