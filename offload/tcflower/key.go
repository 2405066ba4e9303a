package tcflower

import (
	"bytes"
	"fmt"
)

// KeyID names one key of flower by the number of the attribute that holds its value
// (TCA_FLOWER_KEY_… in the kernel's linux/pkt_cls.h).
type KeyID uint16

// The keys that entries of bladeflow use. Values are in network order, but for the VLAN
// numbers and the connection state, which the kernel has in the order of the machine.
const (
	KeyInDev        KeyID = 2
	KeyDstMAC       KeyID = 4
	KeySrcMAC       KeyID = 6
	KeyEthType      KeyID = 8 // of the frame; 0x8100 or 0x88a8 says that it is tagged
	KeyProto        KeyID = 9
	KeySrcIPv4      KeyID = 10
	KeyDstIPv4      KeyID = 12
	KeySrcIPv6      KeyID = 14
	KeyDstIPv6      KeyID = 16
	KeyTCPSrc       KeyID = 18
	KeyTCPDst       KeyID = 19
	KeyUDPSrc       KeyID = 20
	KeyUDPDst       KeyID = 21
	KeyVLANID       KeyID = 23
	KeyVLANPrio     KeyID = 24
	KeyVLANEthType  KeyID = 25 // behind the outer tag
	KeySCTPSrc      KeyID = 41
	KeySCTPDst      KeyID = 42
	KeyFlags        KeyID = 47 // see FragmentBit
	KeyICMPv4Code   KeyID = 49
	KeyICMPv4Type   KeyID = 51
	KeyICMPv6Code   KeyID = 53
	KeyICMPv6Type   KeyID = 55
	KeyTCPFlags     KeyID = 71
	KeyTOS          KeyID = 73
	KeyTTL          KeyID = 75
	KeyCVLANID      KeyID = 77
	KeyCVLANPrio    KeyID = 78
	KeyCVLANEthType KeyID = 79 // behind the inner tag
	KeySrcPortMin   KeyID = 87
	KeySrcPortMax   KeyID = 88
	KeyDstPortMin   KeyID = 89
	KeyDstPortMax   KeyID = 90
	KeyCTState      KeyID = 91
	KeyVLANs        KeyID = 102 // how many tags there are
)

// Bits of [KeyFlags].
const (
	FragmentBit      = 1 << 0
	FirstFragmentBit = 1 << 1
)

// keyInfo is what the codec knows of a key.
type keyInfo struct {
	name string
	id   KeyID
	mask uint16 // attribute of the mask; 0 if the key is matched whole
	size int    // of value and mask, in bytes
}

// keys are all keys whose values have a fixed size, named as tc names them. Options of
// tunnels, stacks of MPLS labels and CFM are nests of their own, and stay raw.
var keys = []keyInfo{
	{"dst_mac", KeyDstMAC, 5, 6}, {"src_mac", KeySrcMAC, 7, 6},
	{"eth_type", KeyEthType, 0, 2}, {"ip_proto", KeyProto, 0, 1},
	{"src_ip", KeySrcIPv4, 11, 4}, {"dst_ip", KeyDstIPv4, 13, 4},
	{"src_ip", KeySrcIPv6, 15, 16}, {"dst_ip", KeyDstIPv6, 17, 16},
	{"tcp src_port", KeyTCPSrc, 35, 2}, {"tcp dst_port", KeyTCPDst, 36, 2},
	{"udp src_port", KeyUDPSrc, 37, 2}, {"udp dst_port", KeyUDPDst, 38, 2},
	{"vlan_id", KeyVLANID, 0, 2}, {"vlan_prio", KeyVLANPrio, 0, 1}, {"vlan_ethtype", KeyVLANEthType, 0, 2},
	{"enc_key_id", 26, 0, 4}, {"enc_src_ip", 27, 28, 4}, {"enc_dst_ip", 29, 30, 4},
	{"enc_src_ip", 31, 32, 16}, {"enc_dst_ip", 33, 34, 16},
	{"sctp src_port", KeySCTPSrc, 39, 2}, {"sctp dst_port", KeySCTPDst, 40, 2},
	{"enc_src_port", 43, 44, 2}, {"enc_dst_port", 45, 46, 2},
	{"ip_flags", KeyFlags, 48, 4},
	{"icmp code", KeyICMPv4Code, 50, 1}, {"icmp type", KeyICMPv4Type, 52, 1},
	{"icmpv6 code", KeyICMPv6Code, 54, 1}, {"icmpv6 type", KeyICMPv6Type, 56, 1},
	{"arp_sip", 57, 58, 4}, {"arp_tip", 59, 60, 4}, {"arp_op", 61, 62, 1}, {"arp_sha", 63, 64, 6}, {"arp_tha", 65, 66, 6},
	{"mpls_ttl", 67, 0, 1}, {"mpls_bos", 68, 0, 1}, {"mpls_tc", 69, 0, 1}, {"mpls_label", 70, 0, 4},
	{"tcp_flags", KeyTCPFlags, 72, 2}, {"ip_tos", KeyTOS, 74, 1}, {"ip_ttl", KeyTTL, 76, 1},
	{"cvlan_id", KeyCVLANID, 0, 2}, {"cvlan_prio", KeyCVLANPrio, 0, 1}, {"cvlan_ethtype", KeyCVLANEthType, 0, 2},
	{"enc_tos", 80, 81, 1}, {"enc_ttl", 82, 83, 1},
	{"src_port from", KeySrcPortMin, 0, 2}, {"src_port to", KeySrcPortMax, 0, 2},
	{"dst_port from", KeyDstPortMin, 0, 2}, {"dst_port to", KeyDstPortMax, 0, 2},
	{"ct_state", KeyCTState, 92, 2}, {"ct_zone", 93, 94, 2}, {"ct_mark", 95, 96, 4}, {"ct_label", 97, 98, 16},
	{"hash", 100, 101, 4}, {"num_of_vlans", KeyVLANs, 0, 1},
	{"pppoe_sid", 103, 0, 2}, {"ppp_proto", 104, 0, 2}, {"l2tpv3_sid", 105, 0, 4},
	{"l2_miss", 106, 0, 1}, {"spi", 108, 109, 4}, {"enc_flags", 110, 111, 4},
}

// attributeOf says what an attribute of flower's options is to the codec: the place of
// its key in keys, and whether it is the mask.
var attributeOf = func() map[uint16]struct {
	key  int
	mask bool
} {
	m := map[uint16]struct {
		key  int
		mask bool
	}{}
	for i, k := range keys {
		m[uint16(k.id)] = struct {
			key  int
			mask bool
		}{i, false}
		if k.mask != 0 {
			m[k.mask] = struct {
				key  int
				mask bool
			}{i, true}
		}
	}
	return m
}()

// Key is one key of a filter: what the packet has to have there, under a mask. Value
// and Mask are as long as the kernel has them; a key without masks has only ones.
type Key struct {
	ID          KeyID
	Value, Mask []byte
}

// String returns the name tc has for the key, or its number.
func (id KeyID) String() string {
	if at, known := attributeOf[uint16(id)]; known && !at.mask {
		return keys[at.key].name
	}
	if id == KeyInDev {
		return "indev"
	}
	return fmt.Sprintf("key %d", uint16(id))
}

func ones(n int) []byte { return bytes.Repeat([]byte{0xff}, n) }
