// SPDX-License-Identifier: Apache-2.0
//
// The XDP programs of the flow cache:
//
//	cache_port  on a port's device: parse, look up, answer; or up to Go
//	cache_key   for tests: puts the parsed key in front of the frame
#include "cache.h"
#include "parse.h"

// Whether several CPUs may answer frames of one queue at once, as in generic mode. Else
// the first queue is counted by plain additions, which saves 12 ns a packet, beside all
// others, which have counters of their own.
volatile const u8 shared = 1;
// Whether loads may be seen out of order (not on x86): then a stamp is read with an
// atomic addition of nothing, a full barrier.
volatile const u8 weak = 1;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct state);
} control SEC(".maps");

// The owner sets the size, a power of two.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 8192);
	__type(key, u32);
	__type(value, struct set);
} sets SEC(".maps");

// The programs do not look at the book; it is here so that it is pinned with the rest.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, LINES);
	__type(key, u32);
	__type(value, struct line);
} book SEC(".maps");

// Ports by number.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, PORTS);
	__type(key, u32);
	__type(value, struct port);
} ports SEC(".maps");

// Port numbers by ifindex: an array, because a look into a hash costs 15 ns more; and the
// hash for numbers beyond it.
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_IFINDEX);
	__type(key, u32);
	__type(value, u64);
} devices SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, PORTS);
	__type(key, u32);
	__type(value, u64);
} distant SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, PORTS);
	__type(key, u32);
	__type(value, u32);
} out SEC(".maps");

// Sockets by port and queue.
struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, PORTS * QUEUES);
	__type(key, u32);
	__type(value, u32);
} sockets SEC(".maps");

// An update of a map of maps returns after an RCU grace period: the owner's barrier.
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

#define add(p, n) __sync_fetch_and_add(p, n)

static __always_inline u64 *port_of(u32 ifindex)
{
	u64 *port = bpf_map_lookup_elem(&devices, &ifindex);
	return port ? port : bpf_map_lookup_elem(&distant, &ifindex);
}

// up gives a frame to Go, if Go is there and has a table, and the frame's port still has
// something in its bucket. The bucket is kept as the time at which it will be full: a
// frame moves that on by its price, and not further than depth ahead of now.
static __always_inline int up(struct xdp_md *ctx, struct port *p, u32 number, int heard)
{
	int action = p->fail & 3;
	u32 queue = ctx->rx_queue_index;

	if (heard && queue < QUEUES)
		action = bpf_redirect_map(&sockets, number * QUEUES + queue, p->fail & 3);
	if (action != XDP_REDIRECT) {
		add(&p->unheard, 1);
		return action;
	}
	if (p->price) {
		u64 now = bpf_ktime_get_ns(), filled = p->filled;
		if (filled < now)
			filled = now;
		if (filled + p->price > now + p->depth) {
			add(&p->limited, 1);
			return XDP_DROP;
		}
		p->filled = filled + p->price;
	}
	add(&p->upcalls, 1);
	return action;
}

static __always_inline int push(struct xdp_md *ctx, u16 tag, u16 ether)
{
	if (bpf_xdp_adjust_head(ctx, -4))
		return -1;
	u8 *b = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (b + 16 > end)
		return -1;
	__builtin_memmove(b, b + 4, 8);
	__builtin_memmove(b + 8, b + 12, 4);
	*(u16 *)(b + 12) = bpf_htons(ether);
	*(u16 *)(b + 14) = bpf_htons(tag);
	return 0;
}

static __always_inline int pop(struct xdp_md *ctx)
{
	u8 *b = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (b + 18 > end)
		return -1;
	__builtin_memmove(b + 12, b + 8, 4);
	__builtin_memmove(b + 4, b, 8);
	return bpf_xdp_adjust_head(ctx, 4);
}

static __always_inline int set(struct xdp_md *ctx, u16 id)
{
	u8 *b = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	if (b + 16 > end)
		return -1;
	*(u16 *)(b + 14) = bpf_htons((bpf_ntohs(*(u16 *)(b + 14)) & 0xf000) | (id & 0x0fff));
	return 0;
}

// forward changes a frame and sends it on. The frame has the tags that its verdict was
// made for: they are in every key.
static __always_inline int forward(struct xdp_md *ctx, struct port *p, struct verdict v)
{
	int failed = 0;

	switch (v.edit) {
	case EDIT_PUSH:
		failed = push(ctx, v.tag, v.proto);
		break;
	case EDIT_POP:
		failed = pop(ctx);
		break;
	case EDIT_SET:
		failed = set(ctx, v.tag);
		break;
	}
	int action = failed ? XDP_DROP : bpf_redirect_map(&out, v.port, XDP_DROP);
	if (action != XDP_REDIRECT)
		add(&p->unsent, 1);
	return action;
}

// answer returns what an entry says of a frame, or -1 if it is not an entry for it.
// The stamp is read first: while it is the current epoch, the rest stays as it is.
static __always_inline int answer(struct xdp_md *ctx, struct port *p, struct entry *e, struct key *k, u64 epoch, u64 len)
{
	u64 stamp = weak ? __sync_fetch_and_add(&e->stamp, 0) : *(volatile u64 *)&e->stamp;
	if (stamp != epoch)
		return -1;
	u64 differ = 0;
#pragma unroll
	for (int i = 0; i < WORDS; i++)
		differ |= k->w[i] ^ e->key[i];
	if (differ)
		return -1;
	if (!shared && ctx->rx_queue_index == 0) {
		e->packets++;
		e->bytes += len;
	} else {
		add(&e->more_packets, 1);
		add(&e->more_bytes, len);
	}
	struct verdict v = e->verdict;
	if (v.op == OP_FORWARD)
		return forward(ctx, p, v);
	return v.op == OP_PASS ? XDP_PASS : XDP_DROP;
}

SEC("xdp")
int cache_port(struct xdp_md *ctx)
{
	u8 *b = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	u32 ifindex = ctx->ingress_ifindex, zero = 0;
	u64 len = end - b;
	struct key k = {};

	u64 *device = port_of(ifindex);
	if (!device)
		return XDP_ABORTED;
	u32 in = *device;
	struct port *p = bpf_map_lookup_elem(&ports, &in);
	struct state *c = bpf_map_lookup_elem(&control, &zero);
	if (!p || !c)
		return XDP_ABORTED;
	// Read once: a packet is judged in one epoch.
	u64 epoch = weak ? __sync_fetch_and_add(&c->epoch, 0) : *(volatile u64 *)&c->epoch;
	if (len > c->longest || parse(b, end, in, &k))
		return up(ctx, p, in, epoch > c->silent);

	struct view *view = &c->view[epoch & 1];
	u64 h = 0;
#pragma unroll
	for (int i = 0; i < WORDS; i++) {
		k.w[i] &= view->mask[i];
		h += (k.w[i] ^ k.w[i] >> 32) * c->mix[i];
	}
	u32 at = h >> 48 & c->last;
	struct set *s = bpf_map_lookup_elem(&sets, &at);
	if (!s)
		return XDP_ABORTED;
	u32 first = h >> 46;
#pragma unroll
	for (u32 i = 0; i < WAYS; i++) {
		int action = answer(ctx, p, &s->way[(first + i) & (WAYS - 1)], &k, epoch, len);
		if (action >= 0)
			return action;
	}
	return up(ctx, p, in, epoch > c->silent);
}

SEC("xdp")
int cache_key(struct xdp_md *ctx)
{
	u32 ifindex = ctx->ingress_ifindex;
	struct key k = {};
	u64 *device = port_of(ifindex);

	if (!device || parse((void *)(long)ctx->data, (void *)(long)ctx->data_end, *device, &k) || bpf_xdp_adjust_head(ctx, -(int)sizeof(k)))
		return XDP_DROP;
	void *data = (void *)(long)ctx->data;
	if (data + sizeof(k) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	__builtin_memcpy(data, &k, sizeof(k));
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Apache-2.0";
