// SPDX-License-Identifier: Apache-2.0
//
// The memory of the card, shared by its programs (C) and its driver (Go, which
// gets these types from bpf2go). Everything is little endian and fixed in size.
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;

#define WORDS 8         // flow.Words
#define MAX_ENTRIES 512 // size of the match table
#define MAX_SLOTS 1024  // twice that: a slot rests for a grace period before reuse
#define MAX_STEPS 19    // actions of one entry: 16 copies, 2 of VLANs and a drop

// The key of a packet: flow.Key, word for word.
struct key {
	u64 w[WORDS];
};

// One line of the match table. It matches iff (key ^ value) & mask is zero and both
// ports are in their ranges; a free port has the range 0 … 65535.
struct entry {
	u64 value[WORDS];
	u64 mask[WORDS];
	u16 src_lo, src_hi, dst_lo, dst_hi;
	u64 id;       // for the driver: flow.Entry.ID
	u64 rule;     // for the driver: flow.Entry.Rule
	u64 priority; // for the driver, which keeps the table sorted by it
	u32 slot;     // where its actions and counters are
	u32 kind;     // enum kind
};

enum kind { KIND_RULE, KIND_GUARD, KIND_PIECE };

// Faults that tests switch on. The programs look at care, deaf and leak; the rest is how
// the card answers its driver.
struct faults {
	u64 care[WORDS];  // mask bits the match looks at: all ones in an honest card
	u64 deaf[WORDS];  // an entry with any of these in its mask never matches: none in an honest card
	u32 refuse_add;   // counts down with every add; that which makes it 0 is refused
	u32 unknown;      // counts down with every operation; that which makes it 0 gets no answer
	u32 unknown_done; // … and was carried out nevertheless
	u32 lose_remove;  // counts down with every remove; that which makes it 0 leaves the entry in
	u32 stale;        // counters read as they were read last
	u32 leak;         // port by which leaves what entries drop; 0 is none
	u32 deafened;     // deaf is not all zeros
	u32 pad;
};

// The change that is being made while version is odd, so that whoever takes the lock
// after a writer that died can end it. For the driver alone.
struct change {
	u32 kind; // enum change_kind
	u32 at;   // the line that goes in or comes out
	u32 n;    // how many lines there were before
	u32 next; // the line being written; those the move comes to before it are done
	struct entry line; // what goes in
};

enum change_kind { CHANGE_NONE, CHANGE_PUT, CHANGE_TAKE };

// The match table: entries 0 … n-1, the first that matches answers.
//
// It is written in place under a sequence lock: version is odd while the driver
// moves entries about. A program that finds it odd, or other than it was before its
// scan, hands the packet to software, whose answer is always right. So a packet sees
// each change wholly or not at all, and the driver needs no system call to make one.
struct match_table {
	u64 version;
	u32 n;
	u32 limit; // for the driver: how many entries fit
	struct faults faults;
	struct change change;
	struct entry entry[MAX_ENTRIES];
};

// One step of an entry's actions: flow.Action, with a list of ports spread out.
struct action {
	u8 op;    // flow.Op
	u8 first; // 0 if it continues the list of ports of the step before
	u16 port; // valid iff OP_OUTPUT or OP_MIRROR
	u16 tag;
	u16 proto;
};

enum op { OP_DROP, OP_NORMAL, OP_PASS, OP_OUTPUT, OP_MIRROR, OP_VLAN_PUSH, OP_VLAN_POP, OP_VLAN_SET };

// What an entry does and what it has counted. A slot does not move and does not
// change while a packet may still carry its number.
struct slot {
	u64 packets;
	u64 bytes;
	u64 read_packets; // for the driver: the counters as they were read last
	u64 read_bytes;
	u32 busy; // for the driver: in the table, or resting
	u32 steps;
	u16 copies; // how many ports get a copy, each at most one
	u16 only;   // that port, valid iff copies is 1
	u32 pad;
	struct action step[MAX_STEPS];
};

// What a netdev of the card is.
struct netdev {
	u16 port; // flow.Port
	u16 pad[3];
};

// What a port has seen, per CPU. Every frame that comes in by the front is counted
// in exactly one of hits, misses, guarded, odd and conflicts.
struct port_stats {
	u64 hits;      // answered by an entry
	u64 misses;    // no entry matched: to software
	u64 guarded;   // a guard matched: to software
	u64 odd;       // odd packets, later fragments, no whole header: to software
	u64 conflicts; // the table was being written: to software
	u64 from_host; // frames the host sent on the representor
	u64 out;       // copies of hits that left by this port
	u64 full;      // copies dropped because vlan_push found two tags
	u64 lost;      // frames and copies the card could not send: always a fault of the set-up
};

// What the port program tells the egress programs about a frame, in front of it.
struct meta {
	u32 slot;
	u32 pad;
};
