// SPDX-License-Identifier: Apache-2.0
//
// The traffic of the datapath's tests: make writes the frame it is run on, sink sees
// what comes out. Each frame carries the time it was made at, by a clock that the test
// turns: 2g while table g is the current one, 2g+1 while it is being replaced by the
// next. Table g sends to port g modulo the number of ports.
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

typedef __u32 u32;
typedef __u64 u64;

#define PORTS 8
#define DESTINATION 7777 // UDP port of what make makes

volatile const u32 flows = 64; // a power of two
volatile const u32 spread = 3; // ports that tables send to
volatile const u32 source = 0x0a000001; // the first address

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, u32);
	__type(value, u32);
} ends SEC(".maps"); // port by ifindex of its far end, from 0

struct score {
	u64 clock;
	u64 made;
	u64 wrong; // came out of a port that no table which can have judged it sends to
	u64 late;  // came out after more than one change
	u64 out[PORTS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct score);
} scores SEC(".maps");

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	u64 clock;
	char rest[14];
} __attribute__((packed));

// The kernel runs make on the same pages again and again, with whatever the path has
// changed in them.
SEC("xdp")
int make(struct xdp_md *x)
{
	struct frame *f = (void *)(long)x->data;
	u32 zero = 0;
	struct score *s = bpf_map_lookup_elem(&scores, &zero);

	if (!s || (void *)(f + 1) > (void *)(long)x->data_end)
		return XDP_ABORTED;
	u64 n = __sync_fetch_and_add(&s->made, 1);
	__builtin_memset(f, 0, sizeof(*f));
	f->eth.h_dest[0] = 2;
	f->eth.h_dest[5] = 1;
	f->eth.h_source[0] = 2;
	f->eth.h_source[5] = 2;
	f->eth.h_proto = bpf_htons(ETH_P_IP);
	f->ip.version = 4;
	f->ip.ihl = 5;
	f->ip.tot_len = bpf_htons(sizeof(*f) - sizeof(f->eth));
	f->ip.ttl = 64;
	f->ip.protocol = IPPROTO_UDP;
	f->ip.saddr = bpf_htonl(source + (n & (flows - 1)));
	f->ip.daddr = bpf_htonl(0x0a000000);
	f->udp.source = bpf_htons(1000);
	f->udp.dest = bpf_htons(DESTINATION);
	f->udp.len = bpf_htons(sizeof(*f) - sizeof(f->eth) - sizeof(f->ip));
	f->clock = *(volatile u64 *)&s->clock;
	return XDP_TX;
}

SEC("xdp")
int sink(struct xdp_md *x)
{
	struct frame *f = (void *)(long)x->data;
	u32 zero = 0, ifindex = x->ingress_ifindex;
	struct score *s = bpf_map_lookup_elem(&scores, &zero);
	u32 *end = bpf_map_lookup_elem(&ends, &ifindex);

	if (!s || !end || (void *)(f + 1) > (void *)(long)x->data_end || f->udp.dest != bpf_htons(DESTINATION))
		return XDP_DROP;
	u32 port = *end & (PORTS - 1);
	u64 first = f->clock / 2, last = (*(volatile u64 *)&s->clock + 1) / 2;
	u64 right = first + (port + spread - first % spread) % spread; // the first table that sends to this port
	if (right > last)
		__sync_fetch_and_add(&s->wrong, 1);
	if (last > first + 1)
		__sync_fetch_and_add(&s->late, 1);
	__sync_fetch_and_add(&s->out[port], 1);
	return XDP_DROP;
}

char LICENSE[] SEC("license") = "Apache-2.0";
