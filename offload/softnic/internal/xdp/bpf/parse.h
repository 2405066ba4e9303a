// SPDX-License-Identifier: Apache-2.0
//
// The card's own packet parser, written from docs/semantics.md and compared with
// flow.Parse bit for bit by the tests. Loads are checked twice: against lengths for
// the meaning, and against data_end where the verifier cannot follow the lengths.
#pragma once

#include "card.h"

#define FLAG_IP (1 << 0)
#define FLAG_L4 (1 << 1)
#define FLAG_FIRST (1 << 2)
#define FLAG_LATER (1 << 3)
#define FLAG_ODD (1 << 4)

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

#define EXT_HOP 0
#define EXT_ROUTING 43
#define EXT_FRAGMENT 44
#define EXT_AUTH 51
#define EXT_DESTINATION 60
#define MAX_EXTENSIONS 8

// No frame that reaches XDP in one piece is as long as this; the verifier wants a
// bound on offsets.
#define MAX_OFFSET 0x3fff

#define be16(p) ((u64)bpf_ntohs(*(u16 *)(p)))
#define be32(p) ((u64)bpf_ntohl(*(u32 *)(p)))
#define be64(p) ((u64)__builtin_bswap64(*(u64 *)(p)))

struct frame {
	void *data, *end;
	u32 len;
};

#define flag(k, f) ((k)->w[7] |= (u64)(f) << 32)
#define proto(k, p) ((k)->w[7] |= (u64)(p) << 56)

static __always_inline int is_tag(u64 type)
{
	return type == ETH_VLAN || type == ETH_QINQ;
}

// l4 reads the transport header of a packet that is no later fragment. It lies at
// off … limit-1 of the frame.
static __always_inline void parse_l4(struct frame *f, struct key *k, u32 off, u32 limit, u8 number, u8 icmp)
{
	u32 avail = limit - off;
	u32 whole = 8;
	u8 *b = f->data + (off & MAX_OFFSET);

	switch (number) {
	case PROTO_TCP:
		whole = 20;
		break;
	case PROTO_SCTP:
		whole = 12;
		break;
	case PROTO_UDP:
		break;
	default:
		if (number != icmp)
			return;
		whole = 4;
	}
	if (avail < whole)
		flag(k, FLAG_ODD);
	if (avail < 4 || (void *)(b + 4) > f->end)
		return;
	if (number == icmp) {
		k->w[2] |= (u64)b[0] << 16 | b[1];
		return;
	}
	flag(k, FLAG_L4);
	k->w[2] |= be32(b);
	if (number == PROTO_TCP && avail >= 14 && (void *)(b + 14) <= f->end)
		k->w[7] |= (be16(b + 12) & 0x0fff) << 16;
}

static __always_inline void parse_ipv4(struct frame *f, struct key *k, u32 off)
{
	u8 *b = f->data + off;
	u32 len = f->len - off;

	if ((void *)(b + 20) > f->end || b[0] >> 4 != 4) {
		flag(k, FLAG_ODD);
		return;
	}
	u32 header = (b[0] & 15) * 4, total = be16(b + 2);
	if (header < 20 || header > len || total < header) {
		flag(k, FLAG_ODD);
		return;
	}
	if (header > 20 || total > len)
		flag(k, FLAG_ODD);
	flag(k, FLAG_IP);
	k->w[4] = be32(b + 12);
	k->w[6] = be32(b + 16);
	k->w[7] |= (u64)b[9] << 56 | (u64)b[1] << 48 | (u64)b[8] << 40;
	u64 frag = be16(b + 6);
	if (frag & 0x1fff) {
		flag(k, FLAG_LATER);
		return;
	}
	if (frag & 0x2000)
		flag(k, FLAG_FIRST);
	parse_l4(f, k, off + header, off + (total < len ? total : len), b[9], PROTO_ICMP);
}

// A walk along IPv6 extension headers.
struct walk {
	struct xdp_md *ctx;
	u64 word;       // what it adds to word 7 of the key
	u32 off, limit; // where it is, and where the packet ends
	u16 next;       // the header it stands before, or ENDED
	u16 fragmented;
};

#define ENDED 256

static __always_inline long end_walk(struct walk *w, u64 flags, u8 number)
{
	w->word |= flags << 32 | (u64)number << 56;
	w->next = ENDED;
	return 1;
}

// step passes header n. It is a bpf_loop body and no plain loop because the verifier
// would follow every combination of eight headers: 600,000 instructions.
static long step(u32 n, struct walk *w)
{
	void *data = (void *)(long)w->ctx->data, *end = (void *)(long)w->ctx->data_end;
	u8 *b = data + (w->off & MAX_OFFSET);
	u32 avail = w->limit - w->off, size;
	u8 next = w->next;

	switch (next) {
	case EXT_HOP:
	case EXT_ROUTING:
	case EXT_FRAGMENT:
	case EXT_AUTH:
	case EXT_DESTINATION:
		if (n == MAX_EXTENSIONS || avail < 8 || (void *)(b + 8) > end || (next == EXT_FRAGMENT && w->fragmented))
			return end_walk(w, FLAG_ODD, next);
		break;
	case 135: // mobility
	case 139: // HIP
	case 140: // shim6
	case 253: // experiments
	case 254:
		return end_walk(w, FLAG_ODD, next);
	default:
		return 1;
	}
	size = (b[1] + 1) * 8;
	if (next == EXT_AUTH)
		size = (b[1] + 2) * 4;
	if (next == EXT_FRAGMENT) {
		u64 frag = be16(b + 2);
		size = 8;
		w->fragmented = 1;
		if (frag & 0xfff8)
			return end_walk(w, FLAG_LATER, b[0]);
		w->word |= (u64)(frag & 1 ? FLAG_FIRST : FLAG_ODD) << 32;
	}
	if (size > avail)
		return end_walk(w, FLAG_ODD, next);
	w->next = b[0];
	w->off += size;
	return 0;
}

static __always_inline void parse_ipv6(struct xdp_md *ctx, struct frame *f, struct key *k, u32 off)
{
	u8 *b = f->data + off;
	u32 len = f->len - off;

	if ((void *)(b + 40) > f->end || b[0] >> 4 != 6) {
		flag(k, FLAG_ODD);
		return;
	}
	flag(k, FLAG_IP);
	k->w[3] = be64(b + 8);
	k->w[4] = be64(b + 16);
	k->w[5] = be64(b + 24);
	k->w[6] = be64(b + 32);
	k->w[7] |= (be16(b) >> 4 & 0xff) << 48 | (u64)b[7] << 40;
	struct walk w = {.ctx = ctx, .next = b[6], .off = off + 40};
	u32 end = 40 + be16(b + 4);
	if ((end == 40 && w.next == EXT_HOP) || end > len) {
		flag(k, FLAG_ODD);
		end = len;
	}
	w.limit = off + end;
	bpf_loop(MAX_EXTENSIONS + 1, step, &w, 0);
	k->w[7] |= w.word;
	if (w.next == ENDED)
		return;
	proto(k, w.next);
	parse_l4(f, k, w.off, w.limit, w.next, PROTO_ICMPV6);
}

// parse fills *k, which is zero, and returns 0; or returns -1 if the frame has no
// whole Ethernet header.
static __always_inline int parse(struct xdp_md *ctx, struct frame *f, u16 in, struct key *k)
{
	u8 *b = f->data;
	u32 off = 14;

	if ((void *)(b + 14) > f->end)
		return -1;
	k->w[0] = (u64)in << 48 | be16(b + 6) << 32 | be32(b + 8);
	k->w[1] = be16(b) << 48 | be32(b + 2) << 16;
	u64 type = be16(b + 12);
	if (is_tag(type)) {
		if ((void *)(b + 18) <= f->end) {
			k->w[2] |= (be16(b + 14) | TAG_PRESENT) << 48;
			type = be16(b + 16);
			off = 18;
			if (is_tag(type) && (void *)(b + 22) <= f->end) {
				k->w[2] |= (be16(b + 18) | TAG_PRESENT) << 32;
				type = be16(b + 20);
				off = 22;
			}
		}
		if (is_tag(type)) // a third one, or one cut short
			flag(k, FLAG_ODD);
	}
	k->w[1] |= type;
	if (type == ETH_IPV4)
		parse_ipv4(f, k, off);
	else if (type == ETH_IPV6)
		parse_ipv6(ctx, f, k, off);
	return 0;
}
