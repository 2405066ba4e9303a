//go:build ignore

/* Makes frames in the kernel: each time it runs it writes the next of a list over the
 * frame that it is given, stamped with its sequence number, and sends it. */

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define MAX_FRAME 512
#define TRAILER 16

const volatile __u32 count = 1; /* of frames */
const volatile __u64 first = 0; /* the first sequence number */

struct frame {
	__u64 length;
	__u8 bytes[MAX_FRAME + 8];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1); /* set to count */
	__type(key, __u32);
	__type(value, struct frame);
} frames SEC(".maps");

/* How many frames were made. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} made SEC(".maps");

/* When each was made, CLOCK_MONOTONIC in ns. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1); /* set to how many may be made */
	__type(key, __u32);
	__type(value, __u64);
} times SEC(".maps");

SEC("xdp")
int make_frame(struct xdp_md *x)
{
	__u32 zero = 0;
	__u64 *n = bpf_map_lookup_elem(&made, &zero);
	if (!n || !count)
		return XDP_ABORTED;
	__u32 at = *n;
	__u64 sequence = first + at;
	__u64 *time = bpf_map_lookup_elem(&times, &at);
	__u32 which = sequence % count;
	struct frame *f = bpf_map_lookup_elem(&frames, &which);
	if (!time || !f)
		return XDP_ABORTED;
	__u64 length = f->length;
	if (length < TRAILER || length > MAX_FRAME)
		return XDP_ABORTED;
	if (bpf_xdp_adjust_tail(x, (int)length - (int)bpf_xdp_get_buff_len(x)))
		return XDP_ABORTED;
	*(__u64 *)(f->bytes + ((length - 8) & (MAX_FRAME - 1))) = __builtin_bswap64(sequence);
	if (bpf_xdp_store_bytes(x, 0, f->bytes, length))
		return XDP_ABORTED;
	*time = bpf_ktime_get_ns();
	*n += 1;
	return XDP_TX;
}
