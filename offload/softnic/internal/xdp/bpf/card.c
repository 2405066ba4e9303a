// SPDX-License-Identifier: Apache-2.0
//
// The silicon of softnic: four XDP programs.
//
//	card_port    on the front of a port: parse, search, redirect
//	card_egress  on every copy that a hit sends out of a front: act
//	card_host    on the back of a port: what the host sends goes out of the front
//	card_key     for tests: puts the parsed key in front of the frame
//
// A hit is redirected with the number of its slot as metadata in front of it: to one
// port, or to all ports at once, each of which drops the copy unless the slot names
// it. So each copy is changed after it was cloned, and one program has all actions.
#include "card.h"
#include "parse.h"
#include "table.h"
#include "act.h"

// Netdevs of the card by ifindex.
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 512);
	__type(key, u32);
	__type(value, struct netdev);
} ports SEC(".maps");

// Netdevs by port: where hits leave (through card_egress), the same without a
// program, and the way to the representor. The maker sets the size: a broadcast
// walks the whole map.
struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct bpf_devmap_val);
} out SEC(".maps"), down SEC(".maps"), up SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct port_stats);
} stats SEC(".maps");

// An update of a map of maps returns after an RCU grace period: the driver's barrier.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 1);
	__type(key, u32);
	__array(values, struct {
		__uint(type, BPF_MAP_TYPE_ARRAY);
		__uint(max_entries, 1);
		__type(key, u32);
		__type(value, u32);
	});
} barrier SEC(".maps");

// What the card is called and which netdevs it has, as the driver wrote it (text).
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u8[16384]);
} about SEC(".maps");

// redirect sends a frame to port number to in map.
static __always_inline int redirect(void *map, u32 to, u64 flags, struct port_stats *st)
{
	int action = bpf_redirect_map(map, to, flags);

	if (action != XDP_REDIRECT)
		st->lost++;
	return action;
}

// carry puts the slot's number in front of the frame. What an earlier card on the
// frame's way may have left there goes first.
static __always_inline int carry(struct xdp_md *ctx, u32 slot)
{
	if (bpf_xdp_adjust_meta(ctx, (int)(ctx->data - ctx->data_meta)))
		return -1;
	if (bpf_xdp_adjust_meta(ctx, -(int)sizeof(struct meta)))
		return -1;
	struct meta *m = (void *)(long)ctx->data_meta;
	if ((void *)(m + 1) > (void *)(long)ctx->data)
		return -1;
	m->slot = slot;
	m->pad = 0;
	return 0;
}

SEC("xdp")
int card_port(struct xdp_md *ctx)
{
	struct frame f = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct scan s = {};
	u32 ifindex = ctx->ingress_ifindex;

	f.len = f.end - f.data;
	struct netdev *in = bpf_map_lookup_elem(&ports, &ifindex);
	if (!in)
		return XDP_ABORTED;
	u32 port = in->port;
	struct port_stats *st = bpf_map_lookup_elem(&stats, &port);
	if (!st)
		return XDP_ABORTED;

	if (parse(ctx, &f, port, &s.key) || s.key.w[7] >> 32 & (FLAG_ODD | FLAG_LATER)) {
		st->odd++;
		return redirect(&up, port, XDP_DROP, st);
	}
	search(&s);
	if (s.slot == MISS) {
		st->misses++;
		return redirect(&up, port, XDP_DROP, st);
	}
	struct slot *hit = bpf_map_lookup_elem(&slots, &s.slot);
	if (!hit) { // CONFLICT
		st->conflicts++;
		return redirect(&up, port, XDP_DROP, st);
	}
	__sync_fetch_and_add(&hit->packets, 1);
	__sync_fetch_and_add(&hit->bytes, f.len);
	if (s.kind == KIND_GUARD) {
		st->guarded++;
		return redirect(&up, port, XDP_DROP, st);
	}
	st->hits++;
	if (hit->copies == 0) {
		u32 to = s.table ? s.table->faults.leak : 0;
		struct port_stats *by = to ? bpf_map_lookup_elem(&stats, &to) : 0;

		if (!by)
			return XDP_DROP;
		by->out++;
		return redirect(&down, to, XDP_DROP, st);
	}
	if (carry(ctx, s.slot)) {
		st->lost++;
		return XDP_ABORTED;
	}
	if (hit->copies == 1)
		return redirect(&out, hit->only, XDP_DROP, st);
	return redirect(&out, 0, BPF_F_BROADCAST, st);
}

SEC("xdp/devmap")
int card_egress(struct xdp_md *ctx)
{
	u32 ifindex = ctx->egress_ifindex;
	struct netdev *to = bpf_map_lookup_elem(&ports, &ifindex);
	if (!to)
		return XDP_ABORTED;
	u32 port = to->port;
	struct port_stats *st = bpf_map_lookup_elem(&stats, &port);
	if (!st)
		return XDP_ABORTED;

	struct meta *m = (void *)(long)ctx->data_meta;
	if ((void *)(m + 1) > (void *)(long)ctx->data) {
		st->lost++;
		return XDP_ABORTED;
	}
	u32 number = m->slot;
	struct slot *s = bpf_map_lookup_elem(&slots, &number);
	if (!s || bpf_xdp_adjust_meta(ctx, sizeof(*m))) {
		st->lost++;
		return XDP_ABORTED;
	}
	switch (act(ctx, s, port)) {
	case SEND:
		st->out++;
		return XDP_PASS;
	case FULL:
		st->full++;
		return XDP_DROP;
	case BROKEN:
		st->lost++;
		return XDP_ABORTED;
	}
	return XDP_DROP; // a broadcast that does not mean this port
}

SEC("xdp")
int card_host(struct xdp_md *ctx)
{
	u32 ifindex = ctx->ingress_ifindex;
	struct netdev *from = bpf_map_lookup_elem(&ports, &ifindex);
	if (!from)
		return XDP_ABORTED;
	u32 port = from->port;
	struct port_stats *st = bpf_map_lookup_elem(&stats, &port);
	if (!st)
		return XDP_ABORTED;
	st->from_host++;
	return redirect(&down, port, XDP_DROP, st);
}

SEC("xdp")
int card_key(struct xdp_md *ctx)
{
	struct frame f = {(void *)(long)ctx->data, (void *)(long)ctx->data_end};
	struct key k = {};
	u32 ifindex = ctx->ingress_ifindex;

	f.len = f.end - f.data;
	struct netdev *in = bpf_map_lookup_elem(&ports, &ifindex);
	if (!in || parse(ctx, &f, in->port, &k) || bpf_xdp_adjust_head(ctx, -(int)sizeof(k)))
		return XDP_DROP;
	void *data = (void *)(long)ctx->data;
	if (data + sizeof(k) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(data, &k, sizeof(k));
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
