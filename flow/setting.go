package flow

import (
	"encoding/binary"
	"hash/crc32"
	"slices"
)

// Setting is one field of a frame and what it is set to.
type Setting struct {
	Field Field  // SrcMAC, DstMAC, TOS, TTL, SrcPort, DstPort, or a half of an address
	Value uint64 // no bit outside Mask
	// Mask is all of the field, but any part of TOS, and for SrcLo and DstLo the last
	// 32 bits if the address is IPv4. An IPv6 address is two settings.
	Mask uint64
}

// SetsPort reports whether s is one of a port.
func (s Setting) SetsPort() bool { return s.Field == SrcPort || s.Field == DstPort }

// IPVersion returns the eth_type of the packets that s can change; 0 if it is not one
// of an address.
func (s Setting) IPVersion() uint64 {
	switch s.Field {
	case SrcHi, DstHi:
		return EthIPv6
	case SrcLo, DstLo:
		if s.Mask == ipv4Mask {
			return EthIPv4
		}
		return EthIPv6
	}
	return 0
}

const ipv4Mask = 1<<32 - 1

// Put changes frame, whose headers are h, as one set action says. A field that the
// packet does not have stays away: an address of the other version, a port where none
// is, anything of IP where it is not IP.
//
// Checksums follow by what changed, so a right one is right afterwards and a wrong one
// is wrong by as much as before; nothing is mended or hidden on the way. Where no bit
// changed, none of a checksum does. The checksum 0 of UDP says that there is none, and
// stays. The one of SCTP is over all of a packet, and stays if not all of it is here.
// This is the definition, and takes a copy of the frame.
func Put(frame []byte, h Headers, settings []Setting) {
	was := slices.Clone(frame)
	for _, s := range settings {
		if at, size, shift := s.place(frame, h); size > 0 {
			put(frame[at:at+size], s.Value<<shift, s.Mask<<shift)
		}
	}
	if h.IP == 0 {
		return
	}
	addresses := span{h.IP + 12, h.IP + 20}
	switch {
	case frame[h.IP]>>4 == 4:
		follow(frame, was, h.IP+10, span{h.IP, h.IP + 10}, addresses)
	case h.Elsewhere:
		addresses = span{h.IP + 8, h.IP + 24}
	default:
		addresses = span{h.IP + 8, h.IP + 40}
	}
	switch {
	case h.CRC > 0:
		sum := binary.LittleEndian.Uint32(frame[h.CRC:])
		sum ^= crc32.Checksum(was[h.Ports:h.End], castagnoli) ^ crc32.Checksum(frame[h.Ports:h.End], castagnoli)
		binary.LittleEndian.PutUint32(frame[h.CRC:], sum)
	case h.Sum > 0 && h.Proto == ProtoICMPv6:
		follow(frame, was, h.Sum, addresses)
	case h.Sum > 0 && h.Proto == ProtoTCP:
		follow(frame, was, h.Sum, addresses, span{h.Ports, h.Ports + 4})
	case h.Sum > 0 && binary.BigEndian.Uint16(was[h.Sum:]) != 0: // UDP, and it has one
		follow(frame, was, h.Sum, addresses, span{h.Ports, h.Ports + 4})
		if binary.BigEndian.Uint16(frame[h.Sum:]) == 0 {
			binary.BigEndian.PutUint16(frame[h.Sum:], 0xffff)
		}
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// place returns where the field is in a frame, in how many bytes, and how many bits of
// them are to the right of it; size is 0 if the packet does not have it.
func (s Setting) place(frame []byte, h Headers) (at, size, shift int) {
	six := h.IP > 0 && frame[h.IP]>>4 == 6
	if v := s.IPVersion(); h.IP == 0 && s.Field != SrcMAC && s.Field != DstMAC || v == EthIPv6 && !six || v == EthIPv4 && six ||
		h.Ports == 0 && s.SetsPort() {
		return 0, 0, 0
	}
	switch s.Field {
	case DstMAC:
		return 0, 6, 0
	case SrcMAC:
		return 6, 6, 0
	case SrcPort:
		return h.Ports, 2, 0
	case DstPort:
		return h.Ports + 2, 2, 0
	}
	if six {
		switch s.Field {
		case TOS:
			return h.IP, 2, 4
		case TTL:
			return h.IP + 7, 1, 0
		case SrcHi:
			return h.IP + 8, 8, 0
		case SrcLo:
			return h.IP + 16, 8, 0
		case DstHi:
			return h.IP + 24, 8, 0
		}
		return h.IP + 32, 8, 0 // DstLo
	}
	switch s.Field {
	case TOS:
		return h.IP + 1, 1, 0
	case TTL:
		return h.IP + 8, 1, 0
	case SrcLo:
		return h.IP + 12, 4, 0
	}
	return h.IP + 16, 4, 0 // DstLo
}

// put writes a number into b, the last byte of which is its lowest, under a mask.
func put(b []byte, value, mask uint64) {
	for i := range b {
		shift := 8 * (len(b) - 1 - i)
		b[i] = b[i]&^byte(mask>>shift) | byte(value>>shift)
	}
}

// span is a part of a frame, of an even number of bytes.
type span struct{ from, to int }

// follow moves the checksum at a place by what is different between was and frame in
// the words that it covers (RFC 1624, equation 3). The sum of nothing, all ones, is
// never the result.
func follow(frame, was []byte, at int, covered ...span) {
	be := binary.BigEndian
	sum, changed := uint32(^be.Uint16(was[at:])), false
	for _, c := range covered {
		for i := c.from; i < c.to; i += 2 {
			if before, now := be.Uint16(was[i:]), be.Uint16(frame[i:]); before != now {
				sum, changed = sum+uint32(^before)+uint32(now), true
			}
		}
	}
	if !changed {
		return
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if sum == 0 {
		sum = 0xffff
	}
	be.PutUint16(frame[at:], ^uint16(sum))
}
