package flow

import (
	"fmt"
	"strconv"
	"strings"
)

// named is a number with the word that texts use for it.
type named struct {
	name  string
	value uint64
}

// names is a small set of words for the values of one field. The first word for a
// value is the one that is printed.
type names []named

var ethTypeNames = names{
	{"ipv4", EthIPv4}, {"ip", EthIPv4}, {"arp", EthARP}, {"rarp", 0x8035}, {"ipv6", EthIPv6}, {"mpls", 0x8847},
	{"lacp", 0x8809}, {"eapol", 0x888e}, {"lldp", 0x88cc}, {"macsec", 0x88e5}, {"ptp", 0x88f7}, {"fcoe", 0x8906}, {"roce", 0x8915},
}

var protoNames = names{
	{"icmp", ProtoICMP}, {"igmp", 2}, {"ipip", 4}, {"tcp", ProtoTCP}, {"udp", ProtoUDP}, {"dccp", 33}, {"gre", 47},
	{"esp", 50}, {"ah", extAuth}, {"icmpv6", ProtoICMPv6}, {"ospf", 89}, {"pim", 103}, {"vrrp", 112}, {"sctp", ProtoSCTP}, {"udplite", 136},
}

var tcpFlagNames = names{
	{"fin", 1 << 0}, {"syn", 1 << 1}, {"rst", 1 << 2}, {"psh", 1 << 3}, {"ack", 1 << 4}, {"urg", 1 << 5},
	{"ece", 1 << 6}, {"cwr", 1 << 7}, {"ae", 1 << 8},
}

var flagNames = names{
	{"ip", FlagIP}, {"l4", FlagL4}, {"first", FlagFragFirst}, {"later", FlagFragLater}, {"odd", FlagOdd},
}

// fragNames are the values of the two fragment bits of [Flags].
var fragNames = names{{"no", 0}, {"first", FlagFragFirst}, {"later", FlagFragLater}}

const fragBits = FlagFragFirst | FlagFragLater

func (ns names) value(name string) (uint64, bool) {
	for _, n := range ns {
		if n.name == name {
			return n.value, true
		}
	}
	return 0, false
}

func (ns names) name(value uint64) (string, bool) {
	for _, n := range ns {
		if n.value == value {
			return n.name, true
		}
	}
	return "", false
}

func (ns names) words() []string {
	out := make([]string, len(ns))
	for i, n := range ns {
		out[i] = n.name
	}
	return out
}

// number reads a decimal or 0x number of at most limit.
func number(s string, limit uint64) (uint64, error) {
	digits, base := s, 10
	if hex, ok := strings.CutPrefix(s, "0x"); ok {
		digits, base = hex, 16
	}
	v, err := strconv.ParseUint(digits, base, 64)
	if err != nil || v > limit {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, limit)
	}
	return v, nil
}

// value reads a word of ns or a number of at most limit.
func (ns names) read(s string, limit uint64) (uint64, error) {
	if v, ok := ns.value(s); ok {
		return v, nil
	}
	v, err := number(s, limit)
	if err != nil && len(ns) > 0 {
		return 0, fmt.Errorf("%q is neither a known name nor a number from 0 to %d", s, limit)
	}
	return v, err
}

// readBits reads `+syn-ack`: bits that must be one and bits that must be zero.
func (ns names) readBits(s string) (value, mask uint64, err error) {
	for s != "" {
		sign := s[0]
		word := s[1:]
		if i := strings.IndexAny(word, "+-"); i >= 0 {
			word = word[:i]
		}
		bit, ok := ns.value(word)
		if !ok {
			return 0, 0, fmt.Errorf("%q is not one of %s", word, strings.Join(ns.words(), ", "))
		}
		if mask&bit != 0 {
			return 0, 0, fmt.Errorf("%q is there twice", word)
		}
		mask |= bit
		if sign == '+' {
			value |= bit
		}
		s = s[1+len(word):]
	}
	return value, mask, nil
}

// writeBits is the inverse of readBits; ok is false if a bit of mask has no name.
func (ns names) writeBits(value, mask uint64) (s string, ok bool) {
	for _, n := range ns {
		switch {
		case mask&n.value == 0:
		case value&n.value != 0:
			s += "+" + n.name
		default:
			s += "-" + n.name
		}
		mask &^= n.value
	}
	return s, mask == 0
}
