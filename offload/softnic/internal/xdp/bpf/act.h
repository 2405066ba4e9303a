// SPDX-License-Identifier: Apache-2.0
//
// What an entry does to one copy of a frame. The meaning is flow.Act's.
#pragma once

#include "card.h"
#include "parse.h"

enum verdict { SEND, DROP, FULL, BROKEN };

// tags counts the whole VLAN tags at the front of a frame, up to two.
static __always_inline int tags(void *data, void *end)
{
	if (data + 18 > end || !is_tag(be16(data + 12)))
		return 0;
	return data + 22 > end || !is_tag(be16(data + 16)) ? 1 : 2;
}

// push, pop and set are kept out of line so that the verifier sees each of them
// once and not once for every step.
static __noinline int push(struct xdp_md *ctx, u16 tag, u16 ether)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (tags(data, end) == 2)
		return FULL;
	if (bpf_xdp_adjust_head(ctx, -4))
		return BROKEN;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 16 > end)
		return BROKEN;
	__builtin_memmove(data, data + 4, 8);
	__builtin_memmove(data + 8, data + 12, 4);
	*(u16 *)(data + 12) = bpf_htons(ether);
	*(u16 *)(data + 14) = bpf_htons(tag);
	return SEND;
}

static __noinline int pop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (tags(data, end) == 0 || data + 16 > end)
		return SEND;
	__builtin_memmove(data + 12, data + 8, 4);
	__builtin_memmove(data + 4, data, 8);
	return bpf_xdp_adjust_head(ctx, 4) ? BROKEN : SEND;
}

static __noinline int set(struct xdp_md *ctx, u16 id)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (tags(data, end) == 0 || data + 16 > end)
		return SEND;
	u16 *tci = data + 14;
	*tci = bpf_htons((bpf_ntohs(*tci) & 0xf000) | (id & 0x0fff));
	return SEND;
}

// act carries out the steps of a slot up to the one that sends a copy to port. An
// entry sends at most one copy to a port, so the frame is then as it must leave.
static __always_inline int act(struct xdp_md *ctx, struct slot *s, u16 port)
{
	for (u32 i = 0; i < MAX_STEPS && i < s->steps; i++) {
		struct action *st = &s->step[i];
		int v = SEND;
		switch (st->op) {
		case OP_OUTPUT:
		case OP_MIRROR:
			if (st->port == port)
				return SEND;
			break;
		case OP_VLAN_PUSH:
			v = push(ctx, st->tag, st->proto);
			break;
		case OP_VLAN_POP:
			v = pop(ctx);
			break;
		case OP_VLAN_SET:
			v = set(ctx, st->tag);
			break;
		}
		if (v != SEND)
			return v;
	}
	return DROP;
}
