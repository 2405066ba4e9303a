//go:build ignore

/* The small programs of the bench: one that makes frames, one that counts and drops
 * them, and the plain XDP and TCX peers. See doc.go for what is wired to what. */

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";



const volatile __u32 inside = 0;  /* ifindex of the device under test that faces the sender */
const volatile __u32 outside = 0; /* and of the one that faces the sink */
const volatile __u32 flow_mask = 0;
const volatile __u64 to = 0;      /* destination MAC of what is made, as it lies in memory */
const volatile __u64 from = 0;

struct headers {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

/* What makes one flow differ from another, ready to be stored. */
struct tuple {
	__be32 saddr, daddr;
	__be16 source, dest;
	__sum16 check; /* of the IP header */
	__u16 unused;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to the number of flows, a power of two */
	__type(key, __u32);
	__type(value, struct tuple);
} flows SEC(".maps");

/* One cache line for each CPU, read by user space without a call. */
struct line {
	__u64 packets, unused[7];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to the number of CPUs */
	__type(key, __u32);
	__type(value, struct line);
} made SEC(".maps"), counted SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 2); /* 0: outside, 1: inside */
	__type(key, __u32);
	__type(value, __u32);
} ports SEC(".maps");

/* add returns how many there were on this CPU before. */
static __always_inline __u64 add(void *counters)
{
	__u32 cpu = bpf_get_smp_processor_id();
	struct line *l = bpf_map_lookup_elem(counters, &cpu);
	return l ? l->packets++ : 0;
}

/* make_frames writes the headers of the next frame, all of them: the kernel gives the
 * same pages again and again, with whatever the path changed in them. */
SEC("xdp")
int make_frames(struct xdp_md *x)
{
	struct headers *h = (void *)(long)x->data;
	if ((void *)(h + 1) > (void *)(long)x->data_end)
		return XDP_ABORTED;
	__u32 i = add(&made) * 0x9e3779b97f4a7c15ull >> 32 & flow_mask; /* flows in no order */
	struct tuple *t = bpf_map_lookup_elem(&flows, &i);
	if (!t)
		return XDP_ABORTED;
	__u64 dest = to, source = from;
	__builtin_memcpy(h->eth.h_dest, &dest, ETH_ALEN);
	__builtin_memcpy(h->eth.h_source, &source, ETH_ALEN);
	h->eth.h_proto = bpf_htons(ETH_P_IP);
	h->ip.tos = 0;
	h->ip.ttl = 64;
	h->ip.check = t->check;
	h->ip.saddr = t->saddr;
	h->ip.daddr = t->daddr;
	h->udp.source = t->source;
	h->udp.dest = t->dest;
	return XDP_TX;
}

/* count_drop is the sink, and the peer that does nothing but drop. */
SEC("xdp")
int count_drop(struct xdp_md *x)
{
	struct ethhdr *eth = (void *)(long)x->data;
	if ((void *)(eth + 1) > (void *)(long)x->data_end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	add(&counted);
	return XDP_DROP;
}

SEC("xdp")
int redirect(struct xdp_md *x)
{
	return bpf_redirect_map(&ports, x->ingress_ifindex == outside, XDP_DROP);
}

SEC("tc")
int tcx_redirect(struct __sk_buff *b)
{
	return bpf_redirect(b->ingress_ifindex == outside ? inside : outside, 0);
}

SEC("tc")
int tcx_drop(struct __sk_buff *b)
{
	if (b->protocol != bpf_htons(ETH_P_IP))
		return TC_ACT_OK;
	add(&counted);
	return TC_ACT_SHOT;
}
