package flow

import (
	"encoding/binary"
	"fmt"
)

// maxPayload is what fits behind the longest headers that Frame makes.
const maxPayload = 0xffff - 24 - 20

// Frame returns a frame that parses to k when it comes in by k's in_port. payload
// is put behind the last header. It is an error if no packet can have key k, and if
// the payload is more than IP can carry.
//
// An odd key is made odd in the mildest way there is: IPv4 by an option, IPv6 by
// a payload length one too large, a port-carrying protocol without ports by having
// nothing after the IP header.
func Frame(k Key, payload []byte) ([]byte, error) {
	if !Possible(&k) {
		return nil, fmt.Errorf("key %s: no packet has this key", FormatKey(k, nil))
	}
	if len(payload) > maxPayload {
		return nil, fmt.Errorf("payload of %d bytes: IP carries at most %d", len(payload), maxPayload)
	}
	be := binary.BigEndian
	f := make([]byte, 12, 128+len(payload))
	be.PutUint16(f, uint16(k.Get(DstMAC)>>32))
	be.PutUint32(f[2:], uint32(k.Get(DstMAC)))
	be.PutUint16(f[6:], uint16(k.Get(SrcMAC)>>32))
	be.PutUint32(f[8:], uint32(k.Get(SrcMAC)))
	tagged := 0
	for _, v := range []Field{VLAN, CVLAN} {
		if tci := k.Get(v); tci&TagPresent != 0 {
			f = be.AppendUint16(f, EthVLAN)
			f = be.AppendUint16(f, uint16(tci)&^TagPresent)
			tagged++
		}
	}
	ethType := uint16(k.Get(EthType))
	f = be.AppendUint16(f, ethType)
	flags := k.Get(Flags)
	switch {
	case flags&FlagIP == 0 && (ethType == EthVLAN || ethType == EthQinQ):
		if tagged == MaxTags { // the third tag, whole
			f = append(f, 0, 1, 0x08, 0x06)
			return append(f, payload...), nil
		}
		return f, nil // a tag cut short
	case flags&FlagIP == 0 && flags&FlagOdd != 0:
		return f, nil // an IP header cut short
	case flags&FlagIP == 0:
		return append(f, payload...), nil
	case ethType == EthIPv4:
		return k.appendIPv4(f, payload), nil
	}
	return k.appendIPv6(f, payload), nil
}

func (k *Key) appendIPv4(f, payload []byte) []byte {
	be := binary.BigEndian
	flags := k.Get(Flags)
	l4 := k.appendL4(nil, payload, ProtoICMP)
	header := 20
	if flags&FlagOdd != 0 {
		header = 24
	}
	start := len(f)
	f = append(f, byte(0x40|header/4), byte(k.Get(TOS)))
	f = be.AppendUint16(f, uint16(header+len(l4)))
	f = append(f, 0, 0)
	f = be.AppendUint16(f, fragField(flags, 0x2000, 1))
	f = append(f, byte(k.Get(TTL)), byte(k.Get(Proto)), 0, 0)
	f = be.AppendUint32(f, uint32(k.Get(SrcLo)))
	f = be.AppendUint32(f, uint32(k.Get(DstLo)))
	if header == 24 {
		f = append(f, 1, 1, 1, 0) // three NOPs and the end of options (RFC 791)
	}
	be.PutUint16(f[start+10:], onesComplement(f[start:]))
	return append(f, l4...)
}

// fragField returns the fragment offset field: more set for a first fragment, an
// offset of later for a later one.
func fragField(flags uint64, more, later uint16) uint16 {
	switch {
	case flags&FlagFragLater != 0:
		return later
	case flags&FlagFragFirst != 0:
		return more
	}
	return 0
}

func (k *Key) appendIPv6(f, payload []byte) []byte {
	be := binary.BigEndian
	flags := k.Get(Flags)
	proto := byte(k.Get(Proto))
	var rest []byte
	next := proto
	if flags&(FlagFragFirst|FlagFragLater) != 0 {
		rest = append(rest, proto, 0)
		rest = be.AppendUint16(rest, fragField(flags, 1, 8))
		rest = append(rest, 0, 0, 0, 1)
		next = extFragment
	}
	if flags&FlagFragLater != 0 {
		rest = append(rest, payload...)
	} else if !stopsShort(proto) {
		rest = k.appendL4(rest, payload, ProtoICMPv6)
	}
	length := len(rest)
	if flags&FlagOdd != 0 {
		length++
	}
	f = be.AppendUint32(f, 6<<28|uint32(k.Get(TOS))<<20)
	f = be.AppendUint16(f, uint16(length))
	f = append(f, next, byte(k.Get(TTL)))
	for _, w := range []int{3, 4, 5, 6} {
		f = be.AppendUint64(f, k[w])
	}
	return append(f, rest...)
}

// stopsShort reports whether the parser stops at an extension header of this number
// when nothing follows it.
func stopsShort(proto byte) bool {
	switch proto {
	case extHopByHop, extRouting, extFragment, extAuth, extDestination:
		return true
	}
	return false
}

// appendL4 appends the transport header that k speaks of, and the payload.
func (k *Key) appendL4(b, payload []byte, icmp uint64) []byte {
	be := binary.BigEndian
	flags, proto := k.Get(Flags), k.Get(Proto)
	if flags&FlagFragLater != 0 {
		return append(b, payload...)
	}
	ported := proto == ProtoTCP || proto == ProtoUDP || proto == ProtoSCTP
	if ported && flags&FlagL4 == 0 {
		return b
	}
	if proto == icmp {
		b = append(b, byte(k.Get(SrcPort)), byte(k.Get(DstPort)), 0, 0, 0, 0, 0, 0)
	}
	if ported {
		b = be.AppendUint16(b, uint16(k.Get(SrcPort)))
		b = be.AppendUint16(b, uint16(k.Get(DstPort)))
	}
	switch proto {
	case ProtoTCP:
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
		b = be.AppendUint16(b, 5<<12|uint16(k.Get(TCPFlags)))
		b = append(b, 0xff, 0xff, 0, 0, 0, 0)
	case ProtoUDP:
		b = be.AppendUint16(b, uint16(8+len(payload)))
		b = append(b, 0, 0)
	case ProtoSCTP:
		b = append(b, 0, 0, 0, 0, 0, 0, 0, 0)
	}
	return append(b, payload...)
}

// onesComplement is the Internet checksum of b (RFC 1071), whose length is even.
func onesComplement(b []byte) uint16 {
	var sum uint32
	for i := 0; i+1 < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
