package flow

import (
	"encoding/binary"
	"errors"
)

// Ethernet types and IP protocols that the vocabulary knows by name.
const (
	EthIPv4 = 0x0800
	EthARP  = 0x0806
	EthIPv6 = 0x86dd
	EthVLAN = 0x8100
	EthQinQ = 0x88a8

	ProtoICMP   = 1
	ProtoTCP    = 6
	ProtoUDP    = 17
	ProtoICMPv6 = 58
	ProtoSCTP   = 132
)

// IPv6 extension headers (RFC 8200, RFC 4302, and the IANA list for the rest).
const (
	extHopByHop    = 0
	extRouting     = 43
	extFragment    = 44
	extAuth        = 51
	extDestination = 60
	extMobility    = 135
	extHIP         = 139
	extShim6       = 140
	extTest1       = 253
	extTest2       = 254
)

// MaxExtensions is how many IPv6 extension headers the parser walks; a packet with
// more is odd, and its protocol is the number of the first header not walked.
const MaxExtensions = 8

// MaxTags is how many VLAN tags a Key holds; a third makes the packet odd, and its
// eth_type is then the protocol of the third tag.
const MaxTags = 2

// ErrShort says that a frame has no whole Ethernet header, and so no key.
var ErrShort = errors.New("frame shorter than an Ethernet header")

// Parse returns what rules can see of a frame that came in by port in. It is the
// only parser whose word counts; docs/semantics.md describes it. It never reads
// past the frame, allocates nothing, and looks at headers only, never at checksums.
//
// The odd flag marks packets on which parsers of NICs may differ: IPv4 options,
// lengths that contradict each other or the frame, headers cut short, a third
// VLAN tag, unknown or too many IPv6 extension headers, a fragment header on a
// packet that is whole, jumbograms. The only error is [ErrShort].
func Parse(frame []byte, in Port) (k Key, err error) {
	err = k.Parse(frame, in)
	return k, err
}

// Parse makes k what [Parse] returns, where it is to be: a Key is 64 bytes, and two copies
// of one that was just written cost as much as parsing.
func (k *Key) Parse(frame []byte, in Port) error {
	if k.parsePlain(frame, in) {
		return nil
	}
	return k.parse(frame, in)
}

// parsePlain makes k what parse makes it for what most frames are, by wide loads: whole TCP or UDP
// in an IPv4 packet without options that is no fragment, without tags. For others it reports false.
// It takes a third of the time. TestParsePlain and FuzzParsePlain hold it against parse.
func (k *Key) parsePlain(frame []byte, in Port) bool {
	const link, header, udp, tcp = 14, 20, 8, 20 // bytes
	if len(frame) < link+header+udp {
		return false
	}
	be := binary.BigEndian
	typed := be.Uint32(frame[12:]) // eth_type, version and header length, TOS
	if typed>>8 != EthIPv4<<8|0x45 {
		return false
	}
	ip, ttl, ends := be.Uint64(frame[link:]), be.Uint64(frame[link+8:]), be.Uint64(frame[link+16:])
	proto, total := byte(ttl>>48), int(ip>>32&0xffff)
	if ip&0x3fff != 0 || total > len(frame)-link {
		return false
	}
	flags := uint64(FlagIP|FlagL4) << 32
	switch {
	case proto == ProtoUDP && total >= header+udp:
	case proto == ProtoTCP && total >= header+tcp: // and so the frame has as much
		flags |= uint64(be.Uint16(frame[link+header+12:])&0x0fff) << 16
	default:
		return false
	}
	ether := be.Uint64(frame)
	k[0] = uint64(in)<<48 | ether&0xffff<<32 | uint64(be.Uint32(frame[8:])) // one by one: a literal is made elsewhere and copied
	k[1] = ether&^0xffff | EthIPv4
	k[2] = ends & 0xffffffff
	k[3] = 0
	k[4] = ttl & 0xffffffff
	k[5] = 0
	k[6] = ends >> 32
	k[7] = uint64(proto)<<56 | ip>>48&0xff<<48 | ttl>>56<<40 | flags
	return true
}

func (k *Key) parse(frame []byte, in Port) error {
	*k = Key{}
	if len(frame) < 14 {
		return ErrShort
	}
	be := binary.BigEndian
	k[0] = uint64(in)<<48 | uint64(be.Uint16(frame[6:]))<<32 | uint64(be.Uint32(frame[8:]))
	ethType := be.Uint16(frame[12:])
	off := 14
	var odd uint64
	for tags := 0; ethType == EthVLAN || ethType == EthQinQ; tags++ {
		if tags == MaxTags || len(frame) < off+4 {
			odd = FlagOdd
			break
		}
		tci := uint64(be.Uint16(frame[off:]))&^TagPresent | TagPresent
		k[2] |= tci << (48 - 16*tags)
		ethType = be.Uint16(frame[off+2:])
		off += 4
	}
	k[1] = uint64(be.Uint16(frame))<<48 | uint64(be.Uint32(frame[2:]))<<16 | uint64(ethType)
	k.Set(Flags, odd)
	switch ethType {
	case EthIPv4:
		k.parseIPv4(frame[off:])
	case EthIPv6:
		k.parseIPv6(frame[off:])
	}
	return nil
}

func (k *Key) flag(f uint64) { k[7] |= f << 32 }

func (k *Key) parseIPv4(b []byte) {
	be := binary.BigEndian
	if len(b) < 20 || b[0]>>4 != 4 {
		k.flag(FlagOdd)
		return
	}
	header, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
	if header < 20 || header > len(b) || total < header {
		k.flag(FlagOdd)
		return
	}
	if header > 20 || total > len(b) {
		k.flag(FlagOdd)
	}
	k.flag(FlagIP)
	k[4] = uint64(be.Uint32(b[12:]))
	k[6] = uint64(be.Uint32(b[16:]))
	k[7] |= uint64(b[9])<<56 | uint64(b[1])<<48 | uint64(b[8])<<40
	frag := be.Uint16(b[6:])
	if frag&0x1fff != 0 {
		k.flag(FlagFragLater)
		return
	}
	if frag&0x2000 != 0 {
		k.flag(FlagFragFirst)
	}
	k.parseL4(b[9], b[header:min(total, len(b))], ProtoICMP)
}

func (k *Key) parseIPv6(b []byte) {
	be := binary.BigEndian
	if len(b) < 40 || b[0]>>4 != 6 {
		k.flag(FlagOdd)
		return
	}
	k.flag(FlagIP)
	k[3], k[4] = be.Uint64(b[8:]), be.Uint64(b[16:])
	k[5], k[6] = be.Uint64(b[24:]), be.Uint64(b[32:])
	k[7] |= uint64(be.Uint16(b)>>4&0xff)<<48 | uint64(b[7])<<40
	next, end := b[6], 40+int(be.Uint16(b[4:]))
	if jumbo := end == 40 && next == extHopByHop; jumbo || end > len(b) {
		k.flag(FlagOdd)
		end = len(b)
	}
	b = b[40:end]
	fragmented := false
	for n := 0; ; n++ {
		size := 8
		switch next {
		case extHopByHop, extRouting, extDestination, extAuth, extFragment:
			if n == MaxExtensions || len(b) < 8 || next == extFragment && fragmented {
				k.flag(FlagOdd)
				k[7] |= uint64(next) << 56
				return
			}
		case extMobility, extHIP, extShim6, extTest1, extTest2:
			k.flag(FlagOdd)
			k[7] |= uint64(next) << 56
			return
		default:
			k[7] |= uint64(next) << 56
			k.parseL4(next, b, ProtoICMPv6)
			return
		}
		switch next {
		case extFragment:
			fragmented = true
			switch frag := be.Uint16(b[2:]); {
			case frag&0xfff8 != 0:
				k.flag(FlagFragLater)
				k[7] |= uint64(b[0]) << 56
				return
			case frag&1 != 0:
				k.flag(FlagFragFirst)
			default: // whole, and yet it has a fragment header (RFC 6946)
				k.flag(FlagOdd)
			}
		case extAuth:
			size = (int(b[1]) + 2) * 4
		default:
			size = (int(b[1]) + 1) * 8
		}
		if size > len(b) {
			k.flag(FlagOdd)
			k[7] |= uint64(next) << 56
			return
		}
		next, b = b[0], b[size:]
	}
}

// parseL4 looks at what follows the IP headers of a packet that is no later
// fragment. Ports are there iff all four bytes of them are.
func (k *Key) parseL4(proto byte, b []byte, icmp byte) {
	be := binary.BigEndian
	whole := 8 // shortest header of proto
	switch proto {
	case ProtoTCP:
		whole = 20
	case ProtoSCTP:
		whole = 12
	case ProtoUDP:
	case icmp:
		whole = 4
		if len(b) >= whole {
			k[2] |= uint64(b[0])<<16 | uint64(b[1])
		}
	default:
		return
	}
	if len(b) < whole {
		k.flag(FlagOdd)
	}
	if proto == icmp || len(b) < 4 {
		return
	}
	k.flag(FlagL4)
	k[2] |= uint64(be.Uint32(b))
	if proto == ProtoTCP && len(b) >= 14 {
		k[7] |= uint64(be.Uint16(b[12:])&0x0fff) << 16
	}
}
