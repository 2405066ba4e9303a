package flow

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Packets in text have the fields of a match with exact values, and the same
// implications. What is not named is zero, except what a whole packet has by itself:
// the ip flag with an IP eth_type, and the l4 flag with TCP, UDP or SCTP that is no
// later fragment. `flags=+odd-l4` then changes the flags it names.

// ParsePacket reads a packet: `in_port=vf0,ip_proto=tcp,src_ip=10.0.0.1,…`, of
// which [Frame] makes the frame, or `in_port=vf0,hex:…`, a frame in hexadecimal.
// Without in_port, in is 0. The error is a *[Fault].
func ParsePacket(s string, ports *Ports) (frame []byte, in Port, err error) {
	if before, digits, isHex := strings.Cut(s, "hex:"); isHex {
		terms, err := splitTerms(before, 0)
		if err != nil {
			return nil, 0, err
		}
		r := reader{ports: ports, exact: true}
		if err := r.readAll(terms); err != nil {
			return nil, 0, err
		}
		if len(terms) > 1 || len(terms) == 1 && terms[0].Name != "in_port" {
			return nil, 0, packetFault("a frame says its fields itself", "write in_port=PORT,hex:FRAME")
		}
		frame, err = hex.DecodeString(strings.TrimSpace(digits))
		if err != nil || len(frame) < 14 {
			return nil, 0, packetFault("not a frame in hexadecimal", "write at least 14 bytes of two digits each")
		}
		return frame, Port(r.m.Value.Get(InPort)), nil
	}
	k, err := ParseKey(s, ports)
	if err != nil {
		return nil, 0, err
	}
	if !Possible(&k) {
		return nil, 0, k.impossible()
	}
	frame, err = Frame(k, nil)
	return frame, Port(k.Get(InPort)), err
}

func packetFault(why, remedy string) *Fault {
	return &Fault{Code: "E_PACKET", What: "packet", Why: why, Remedy: remedy}
}

// impossible says why no packet has key k.
func (k *Key) impossible() *Fault {
	flags, proto := k.Get(Flags), k.Get(Proto)
	six := k.Get(EthType) == EthIPv6
	switch {
	case k.Get(CVLAN) != 0 && k.Get(VLAN) == 0:
		return packetFault("it has an inner tag without an outer one", "add vlan_id")
	case flags&FlagL4 != 0 && flags&FlagFragLater != 0:
		return packetFault("a later fragment has no ports", "leave out the ports or ip_frag=later")
	case flags&FlagL4 != 0 && proto != ProtoTCP && proto != ProtoUDP && proto != ProtoSCTP:
		return packetFault("this protocol has no ports", "add ip_proto=tcp, udp or sctp")
	case six && flags&FlagIP != 0 && proto != ProtoICMPv6 && flags&FlagL4 == 0:
		return packetFault(fmt.Sprintf("ip_proto %d is a header before the protocol in IPv6", proto), "add ip_proto=tcp, udp, icmpv6 or another one")
	}
	return packetFault("no packet has all of this", "leave out what contradicts the rest")
}

// ParseKey is ParsePacket without the frame: it reads text fields only, and also
// keys that no packet has, as ClassBench's (protocols without ports that have ports).
func ParseKey(s string, ports *Ports) (Key, error) {
	terms, err := splitTerms(s, 0)
	if err != nil {
		return Key{}, err
	}
	return newKey(terms, ports)
}

func newKey(terms []Term, ports *Ports) (Key, error) {
	r := reader{ports: ports, exact: true}
	if err := r.readAll(terms); err != nil {
		return Key{}, err
	}
	k := r.m.Value
	if r.bare {
		return k, nil
	}
	flags := k.Get(Flags)
	switch ethType := k.Get(EthType); {
	case ethType == EthIPv4 || ethType == EthIPv6:
		flags |= FlagIP
	case flags&(FlagIP|FlagL4) != 0 && !slices.ContainsFunc(terms, func(t Term) bool { return t.Name == "eth_type" }):
		return Key{}, packetFault("the IP version is open", "add src_ip, dst_ip or eth_type=ipv4")
	case flags&(FlagIP|FlagL4) != 0:
		return Key{}, packetFault("this eth_type has no IP fields", "use eth_type=ipv4 or ipv6, or leave out the IP fields")
	}
	if flags&FlagIP != 0 && flags&FlagFragLater == 0 {
		switch k.Get(Proto) {
		case ProtoTCP, ProtoUDP, ProtoSCTP:
			flags |= FlagL4
		}
	}
	k.Set(Flags, flags&^r.given.mask|r.given.value)
	return k, nil
}

// FormatKey writes k as the text of a packet, of which [ParseKey] makes k again, and
// [ParsePacket] a packet if one has this key. Fields that are zero and mean nothing
// are left out. A key that cannot be said otherwise is written with `bare`.
func FormatKey(k Key, ports *Ports) string {
	terms := keyTerms(&k, ports)
	if got, err := newKey(terms, ports); err == nil {
		if diff := got.Get(Flags) ^ k.Get(Flags); diff != 0 {
			terms = append(terms, Term{Name: "flags", Value: writeFlags(k.Get(Flags)&diff, diff)})
			got.Set(Flags, k.Get(Flags))
		}
		if got == k {
			return joinTerms(terms)
		}
	}
	var m Match
	for f := range NumFields {
		if v := k.Get(f); v != 0 {
			m.Pin(f, v, f.Max())
		}
	}
	return joinTerms(append([]Term{{Name: "bare"}}, writeRows(&m, ports, true)...))
}

// keyTerms writes what k says as a match that pins it, without the flags.
func keyTerms(k *Key, ports *Ports) []Term {
	var m Match
	pin := func(fields ...Field) {
		for _, f := range fields {
			m.Pin(f, k.Get(f), f.Max())
		}
	}
	for _, f := range []Field{InPort, SrcMAC, DstMAC, EthType, Proto, TOS, TTL} {
		if k.Get(f) != 0 {
			pin(f)
		}
	}
	for _, f := range []Field{VLAN, CVLAN} {
		if v := k.Get(f); v&TagPrio != 0 {
			m.Pin(f, v, 0xffff)
		} else if v != 0 {
			m.Pin(f, v, TagPresent|TagID)
		}
	}
	flags := k.Get(Flags)
	if flags&fragBits != 0 {
		m.Pin(Flags, flags, fragBits)
	}
	if flags&FlagL4 != 0 {
		m.Pin(Flags, FlagL4, FlagL4)
	}
	switch ethType := k.Get(EthType); {
	case flags&FlagIP == 0:
	case ethType == EthIPv4:
		m.Pin(SrcLo, k.Get(SrcLo), 0xffffffff)
		m.Pin(DstLo, k.Get(DstLo), 0xffffffff)
	case ethType == EthIPv6:
		pin(SrcHi, SrcLo, DstHi, DstLo)
	}
	if v := k.Get(TCPFlags); v != 0 {
		m.Pin(TCPFlags, v, 0xfff)
	}
	if _, isICMP := icmpOf(&m); flags&FlagL4 != 0 || isICMP && flags&FlagFragLater == 0 {
		pin(SrcPort, DstPort)
	}
	return writeRows(&m, ports, false)
}
