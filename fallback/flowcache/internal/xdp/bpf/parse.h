// SPDX-License-Identifier: Apache-2.0
//
// The parser of the flow cache: flow.Parse for the frames that make up traffic. What
// it does not know, and whatever is odd, it refuses, and Go parses it. The tests
// compare the two on random frames, bit for bit.
#pragma once

#include "cache.h"

#define FLAG_IP (1 << 0)
#define FLAG_L4 (1 << 1)
#define FLAG_FIRST (1 << 2)
#define FLAG_LATER (1 << 3)

#define ETH_IPV4 0x0800
#define ETH_IPV6 0x86dd
#define ETH_VLAN 0x8100
#define ETH_QINQ 0x88a8
#define TAG_PRESENT 0x1000

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58
#define PROTO_SCTP 132

#define be16(p) ((u64)bpf_ntohs(*(u16 *)(p)))
#define be32(p) ((u64)bpf_ntohl(*(u32 *)(p)))
#define be64(p) ((u64)__builtin_bswap64(*(u64 *)(p)))

static __always_inline int is_tag(u64 type)
{
	return type == ETH_VLAN || type == ETH_QINQ;
}

// l4 reads the transport header at b, of which the packet has avail bytes.
static __always_inline int parse_l4(u8 *b, u8 *end, u32 avail, u8 number, u8 icmp, struct key *k)
{
	switch (number) {
	case PROTO_UDP:
		if (avail < 8 || b + 8 > end)
			return -1;
		break;
	case PROTO_TCP:
		if (avail < 20 || b + 20 > end)
			return -1;
		k->w[7] |= (be16(b + 12) & 0x0fff) << 16;
		break;
	case PROTO_SCTP:
		if (avail < 12 || b + 12 > end)
			return -1;
		break;
	default:
		if (number == icmp) {
			if (avail < 4 || b + 4 > end)
				return -1;
			k->w[2] |= (u64)b[0] << 16 | b[1];
		}
		return 0;
	}
	k->w[7] |= (u64)FLAG_L4 << 32;
	k->w[2] |= be32(b);
	return 0;
}

static __always_inline int parse_ipv4(u8 *b, u8 *end, struct key *k)
{
	if (b + 20 > end || b[0] != 0x45)
		return -1;
	u32 len = end - b, total = be16(b + 2);
	if (total < 20 || total > len)
		return -1;
	u64 frag = be16(b + 6), flags = FLAG_IP;
	k->w[4] = be32(b + 12);
	k->w[6] = be32(b + 16);
	k->w[7] = (u64)b[9] << 56 | (u64)b[1] << 48 | (u64)b[8] << 40;
	if (frag & 0x1fff) {
		k->w[7] |= (flags | FLAG_LATER) << 32;
		return 0;
	}
	if (frag & 0x2000)
		flags |= FLAG_FIRST;
	k->w[7] |= flags << 32;
	return parse_l4(b + 20, end, total - 20, b[9], PROTO_ICMP, k);
}

static __always_inline int parse_ipv6(u8 *b, u8 *end, struct key *k)
{
	if (b + 40 > end || b[0] >> 4 != 6)
		return -1;
	u32 len = end - b, payload = be16(b + 4);
	if (40 + payload > len)
		return -1;
	k->w[3] = be64(b + 8);
	k->w[4] = be64(b + 16);
	k->w[5] = be64(b + 24);
	k->w[6] = be64(b + 32);
	k->w[7] = (u64)b[6] << 56 | (be16(b) >> 4 & 0xff) << 48 | (u64)b[7] << 40 | (u64)FLAG_IP << 32;
	switch (b[6]) {
	case 0: // extension headers, as flow.Parse lists them
	case 43:
	case 44:
	case 51:
	case 60:
	case 135:
	case 139:
	case 140:
	case 253:
	case 254:
		return -1;
	}
	return parse_l4(b + 40, end, payload, b[6], PROTO_ICMPV6, k);
}

// parse fills *k, which is zero, and returns 0; or returns -1: not for us.
static __always_inline int parse(u8 *b, u8 *end, u16 in, struct key *k)
{
	if (b + 14 > end)
		return -1;
	k->w[0] = (u64)in << 48 | be16(b + 6) << 32 | be32(b + 8);
	k->w[1] = be16(b) << 48 | be32(b + 2) << 16;
	u64 type = be16(b + 12);
	u8 *l3 = b + 14;
	if (is_tag(type)) {
		if (b + 18 > end)
			return -1;
		k->w[2] = (be16(b + 14) | TAG_PRESENT) << 48;
		type = be16(b + 16);
		l3 = b + 18;
		if (is_tag(type)) {
			if (b + 22 > end)
				return -1;
			k->w[2] |= (be16(b + 18) | TAG_PRESENT) << 32;
			type = be16(b + 20);
			l3 = b + 22;
			if (is_tag(type))
				return -1;
		}
	}
	k->w[1] |= type;
	if (type == ETH_IPV4)
		return parse_ipv4(l3, end, k);
	if (type == ETH_IPV6)
		return parse_ipv6(l3, end, k);
	return 0;
}
