//go:build ignore

/* What an observer does in the kernel: it reads the sequence number at the end of
 * each frame and adds the frame to that number's cell. See observe.go for the
 * meaning of cells and totals; the structs here and the offsets there are one
 * format. The hash is Hash in hash.go, word for word. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_FRAME 2048
#define WORDS (MAX_FRAME / 8)
#define TRAILER 16
#define TCX_NEXT -1
#define TCX_DROP 2

enum { THEN_DROP, THEN_PASS, THEN_HUB };

const volatile __u32 sequences = 1;   /* how many cells there are */
const volatile __u32 keep = 0;        /* how many whole frames are kept */
const volatile __u32 then = THEN_DROP; /* what happens to a frame with our magic */
const volatile __u64 magic = 0;       /* the first half of a trailer, as it lies in memory */

struct cell {
	__u32 copies, bytes;
	__u64 hash, first, last;
};

struct totals {
	__u64 recorded, foreign, beyond, kept;
};

struct kept {
	__u64 sequence, time, length;
	__u64 words[WORDS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to sequences */
	__type(key, __u32);
	__type(value, struct cell);
} cells SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct totals);
} totals SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to keep */
	__type(key, __u32);
	__type(value, struct kept);
} frames SEC(".maps");

/* One frame per CPU, with room for a tag put back and for zeros behind the end. */
struct scratch {
	__u64 words[WORDS + 2];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct scratch);
} scratch SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} hub SEC(".maps");

static __always_inline __u64 mix(__u64 h, __u64 word)
{
	h = (h ^ word) * 0x9e3779b97f4a7c15ull;
	return h ^ h >> 32;
}

/* A frame is walked in blocks of words, by bpf_loop: the verifier looks at a block once, where
 * it would walk a loop to its end again and again (340,000 instructions, and most of what a
 * lab took to come up). */
#define BLOCK 8

struct walk {
	struct scratch *s;
	struct kept *k;
	__u64 len, hash;
};

static long hash_block(__u32 block, struct walk *w)
{
	if (block >= WORDS / BLOCK)
		return 1;
	__u64 h = w->hash, len = w->len;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < BLOCK; i++)
		if ((block * BLOCK + i) * 8 < len)
			h = mix(h, w->s->words[(block * BLOCK + i) & (WORDS - 1)]);
	w->hash = h;
	return 0;
}

static long keep_block(__u32 block, struct walk *w)
{
	if (block >= WORDS / BLOCK || !w->k)
		return 1;
#pragma clang loop unroll(full)
	for (__u32 i = 0; i < BLOCK; i++) /* what is behind the end is of no meaning */
		w->k->words[(block * BLOCK + i) & (WORDS - 1)] = w->s->words[(block * BLOCK + i) & (WORDS - 1)];
	return 0;
}

/* record adds the frame in s to its cell. It returns 0 if the frame is foreign. */
static __always_inline int record(struct scratch *s, __u64 len)
{
	__u32 zero = 0;
	struct totals *t = bpf_map_lookup_elem(&totals, &zero);
	if (!t)
		return 0;
	__u8 *b = (__u8 *)s->words;
	if (len < TRAILER || len > MAX_FRAME || *(__u64 *)(b + ((len - TRAILER) & (MAX_FRAME - 1))) != magic) {
		__sync_fetch_and_add(&t->foreign, 1);
		return 0;
	}
	__u64 sequence = __builtin_bswap64(*(__u64 *)(b + ((len - 8) & (MAX_FRAME - 1))));
	__u64 now = bpf_ktime_get_ns();
	*(__u64 *)(b + len) = 0; /* the last word may be cut short */

	struct walk w = { .s = s, .len = len, .hash = mix(0, len) };
	__u32 blocks = (len + BLOCK * 8 - 1) / (BLOCK * 8);
	bpf_loop(blocks, hash_block, &w, 0);
	if (t->kept < keep) {
		__u32 slot = __sync_fetch_and_add(&t->kept, 1);
		struct kept *k = bpf_map_lookup_elem(&frames, &slot);
		if (k) {
			k->sequence = sequence;
			k->time = now;
			k->length = len;
			w.k = k;
			bpf_loop(blocks, keep_block, &w, 0);
		}
	}
	__u32 at = sequence;
	struct cell *c = sequence < sequences ? bpf_map_lookup_elem(&cells, &at) : 0;
	if (!c) {
		__sync_fetch_and_add(&t->beyond, 1);
		return 1;
	}
	__sync_fetch_and_add(&c->hash, w.hash);
	__sync_fetch_and_add(&c->bytes, (__u32)len);
	if (__sync_fetch_and_add(&c->copies, 1) == 0)
		c->first = now;
	c->last = now;
	__sync_fetch_and_add(&t->recorded, 1);
	return 1;
}

/* fits says whether a length is one that may be loaded. Two comparisons, because compilers
 * make one of them, of another register, and verifiers before Linux 6.13 then know nothing
 * of this one. */
#define fits(len, most) (({ barrier_var(len); len != 0; }) && ({ barrier_var(len); len <= (most); }))

SEC("xdp")
int observe_xdp(struct xdp_md *x)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 len = bpf_xdp_get_buff_len(x);
	if (!s)
		return XDP_ABORTED;
	int ours = 0;
	if (fits(len, MAX_FRAME) && bpf_xdp_load_bytes(x, 0, s->words, len) == 0)
		ours = record(s, len);
	else
		ours = record(s, 0);
	if (then == THEN_HUB) /* everything, ours or not, goes to every other device of the hub */
		return bpf_redirect_map(&hub, 0, BPF_F_BROADCAST | BPF_F_EXCLUDE_INGRESS);
	return ours && then == THEN_DROP ? XDP_DROP : XDP_PASS;
}

/* The kernel takes the outer VLAN tag out of a frame before TCX sees it: it is put
 * back here, so that the frame is recorded as it was on the wire. */
SEC("tc")
int observe_tcx(struct __sk_buff *b)
{
	__u32 zero = 0;
	struct scratch *s = bpf_map_lookup_elem(&scratch, &zero);
	__u64 len = b->len;
	if (!s)
		return TCX_NEXT;
	__u8 *to = (__u8 *)s->words;
	int loaded = 0;
	if (!b->vlan_present) {
		loaded = fits(len, MAX_FRAME) && bpf_skb_load_bytes(b, 0, to, len) == 0;
	} else if (len > 12 && len <= MAX_FRAME - 4) {
		__u16 tci = b->vlan_tci;
		to[12] = b->vlan_proto & 0xff;
		to[13] = b->vlan_proto >> 8 & 0xff;
		to[14] = tci >> 8;
		to[15] = tci & 0xff;
		__u64 rest = len - 12;
		loaded = bpf_skb_load_bytes(b, 0, to, 12) == 0 && fits(rest, MAX_FRAME - 16) && bpf_skb_load_bytes(b, 12, to + 16, rest) == 0;
		len += 4;
	}
	return record(s, loaded ? len : 0) && then == THEN_DROP ? TCX_DROP : TCX_NEXT;
}
