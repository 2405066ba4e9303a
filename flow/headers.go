package flow

import "encoding/binary"

// Headers says where in one frame the parts are that an action can set or has to keep
// right. Places count in bytes from the start of the frame; 0 says that there is none.
type Headers struct {
	IP    int   // a whole IPv4 or IPv6 header
	Ports int   // a whole TCP, UDP or SCTP port pair
	Sum   int   // the checksum of TCP, UDP or ICMPv6, if both of its bytes are in the packet
	CRC   int   // the checksum of SCTP, if the whole packet is in the frame
	End   int   // where the IP packet ends; valid iff CRC is there
	Proto uint8 // as in the key; valid iff Sum or CRC is there
	// Elsewhere says that Sum is not over the destination that the IP header names,
	// but over the last of a routing header with segments left (RFC 8200, 8.1).
	Elsewhere bool
}

// Locate returns the places of what [Parse] found in frame, where k is what Parse
// returned for it.
func Locate(k *Key, frame []byte) Headers {
	var h Headers
	flags := k.Get(Flags)
	if flags&FlagIP == 0 {
		return h
	}
	h.IP = 14
	for _, tag := range []Field{VLAN, CVLAN} {
		if k.Get(tag)&TagPresent != 0 {
			h.IP += 4
		}
	}
	h.Proto = uint8(k.Get(Proto))
	if flags&FlagFragLater != 0 {
		return h
	}
	switch h.Proto {
	case ProtoTCP, ProtoUDP, ProtoSCTP, ProtoICMPv6:
	default:
		return h
	}
	b := frame[h.IP:]
	var start, end int
	six := k.Get(EthType) == EthIPv6
	if six {
		start, h.Elsewhere = upper(b, h.Proto)
		end = 40 + int(binary.BigEndian.Uint16(b[4:]))
	} else {
		start, end = int(b[0]&15)*4, int(binary.BigEndian.Uint16(b[2:]))
	}
	whole := end <= len(b) && flags&FlagFragFirst == 0
	if end > len(b) || six && end == 40 && b[6] == extHopByHop { // cut short, or a jumbogram, which says its length elsewhere
		whole, end = false, len(b)
	}
	if flags&FlagL4 != 0 {
		h.Ports = h.IP + start
	}
	sum := start
	switch h.Proto {
	case ProtoTCP:
		sum += 16
	case ProtoUDP:
		sum += 6
	case ProtoICMPv6:
		sum += 2
	case ProtoSCTP:
		if whole && start+12 <= end {
			h.CRC, h.End = h.IP+start+8, h.IP+end
		}
		return h
	}
	if sum+2 <= end && (six || h.Proto != ProtoICMPv6) {
		h.Sum = h.IP + sum
	}
	return h
}

// upper walks the extension headers of an IPv6 packet up to proto, which [Parse] has
// found there. elsewhere says that a routing header names the real destination.
func upper(b []byte, proto uint8) (start int, elsewhere bool) {
	start = 40
	for next := b[6]; next != proto; {
		at, size := b[start:], 8
		switch next {
		case extFragment:
		case extAuth:
			size = (int(at[1]) + 2) * 4
		default:
			elsewhere = elsewhere || next == extRouting && at[3] > 0
			size = (int(at[1]) + 1) * 8
		}
		next = at[0]
		start += size
	}
	return start, elsewhere
}

// Moved returns h for a frame that got longer by n bytes in front of its IP header, or
// shorter: by a tag put on or taken off.
func (h Headers) Moved(n int) Headers {
	for _, at := range []*int{&h.IP, &h.Ports, &h.Sum, &h.CRC, &h.End} {
		if *at > 0 {
			*at += n
		}
	}
	return h
}
