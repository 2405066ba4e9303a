// SPDX-License-Identifier: Apache-2.0
//
// The far ends of a card's cables, for its tests: tap hands every frame that arrives
// to the test, whole; send puts the frame it is run on into a cable.
#include "card.h"

#define MAX_FRAME 2048

struct record {
	u32 ifindex;
	u32 len;
	u8 data[MAX_FRAME];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 64 << 20);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u32);
} cable SEC(".maps");

u64 missed; // frames that found the ring full
u64 marked; // frames that came with metadata, which is the card's own business

SEC("xdp")
int tap(struct xdp_md *ctx)
{
	u32 len = ctx->data_end - ctx->data;
	struct record *r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);

	if (ctx->data_meta != ctx->data)
		__sync_fetch_and_add(&marked, 1);
	if (!r) {
		__sync_fetch_and_add(&missed, 1);
		return XDP_DROP;
	}
	r->ifindex = ctx->ingress_ifindex;
	r->len = len;
	len &= MAX_FRAME - 1;
	asm volatile("" : "+r"(len)); // or the compiler folds the bounds into one the verifier cannot read
	if (len > 0)
		bpf_xdp_load_bytes(ctx, 0, r->data, len);
	bpf_ringbuf_submit(r, 0);
	return XDP_DROP;
}

SEC("xdp")
int send(struct xdp_md *ctx)
{
	return bpf_redirect_map(&cable, 0, XDP_ABORTED);
}

char LICENSE[] SEC("license") = "Apache-2.0";
