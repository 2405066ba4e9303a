// SPDX-License-Identifier: Apache-2.0
//
// The memory of the flow cache, shared by its program (C) and its owner (Go, which
// gets these types from bpf2go). Everything is little endian and fixed in size.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define WORDS 8  // flow.Words
#define WAYS 4   // entries that share a set
#define LINES 65536 // rules that can have counters at a time
#define PORTS 1024
#define QUEUES 64 // receive queues of a port that have a place for a socket
#define MAX_IFINDEX 65536 // those from here on are in a hash

// The key of a packet: flow.Key, word for word.
struct key {
	u64 w[WORDS];
};

enum op { OP_DROP, OP_FORWARD, OP_PASS };
enum edit { EDIT_NONE, EDIT_PUSH, EDIT_POP, EDIT_SET };

// What is done to a frame.
struct verdict {
	u8 op;
	u8 edit; // valid iff op is OP_FORWARD
	u16 port; // valid iff op is OP_FORWARD
	u16 tag; // valid iff edit is EDIT_PUSH or EDIT_SET
	u16 proto; // valid iff edit is EDIT_PUSH
};

// One flow: two cache lines. A packet is answered by it iff stamp is the current
// epoch and the packet's key, under the epoch's mask, is this one. What it holds does
// not change while a packet may still see it, see the essay in cache.go.
struct entry {
	u64 key[WORDS];
	u64 stamp; // the epoch it is valid in; 0 while it is being written
	struct verdict verdict;
	u64 packets; // of the device's first queue, which one CPU at a time reads
	u64 bytes;
	u64 more_packets; // of all others, by several CPUs at once
	u64 more_bytes;
	u64 seen; // for the owner: all packets when it was last looked at for a victim
	u32 line; // for the owner: which line of the book it counts for
	u32 pad;
};

struct set {
	struct entry way[WAYS];
};

// The counters of one rule: what its entries had counted when they were taken out.
struct line {
	u64 rule; // flow.RuleID
	u64 packets;
	u64 bytes;
	u64 used; // 0 for a free line
};

// An entry's counters on their way into the book, so that who comes after an owner
// that died here ends it: all of it can be done twice.
struct transfer {
	u64 entry; // index + 1; 0 if there is none
	u64 line;
	u64 packets, bytes; // what the line has afterwards
};

// What one epoch looks at: the bits of the key that a verdict may depend on; and, for
// the owner, which table its verdicts are of.
struct view {
	u64 mask[WORDS];
	u8 table[32]; // flowcache.Digest; 0 for none
};

struct state {
	u64 epoch; // the current one; never 0
	u64 version; // of this layout
	u64 last; // the number of the last set
	u64 longest; // longer frames go to Go: some port could not send them
	u64 silent; // Go has no table yet in epochs up to this one, and gets no frames
	u64 identity; // for the owner: tells this memory from what was there before
	u64 mix[WORDS]; // odd numbers nobody can guess: the hash
	struct view view[2]; // by the last bit of the epoch
	struct transfer transfer;
};

enum fail { FAIL_CLOSED = XDP_DROP, FAIL_KERNEL = XDP_PASS };

// A port of the blade, and what its frames met. One device fills one port; where it
// has several queues, or in generic mode, several CPUs do, and the bucket is then only
// nearly exact. Counters always are.
struct port {
	u32 ifindex; // 0 if nothing is attached
	u32 fail; // enum fail: what unknown frames get when nobody listens
	u64 price; // nanoseconds one frame costs its bucket; 0 for no limit
	u64 depth; // nanoseconds the bucket holds
	u64 filled; // when the bucket was, or will be, full
	u64 upcalls; // frames given to the socket
	u64 limited; // dropped: too many unknown frames
	u64 unheard; // unknown, and nobody listens: given what fail says
	u64 unsent; // answered, and refused on the way out: dropped
};
