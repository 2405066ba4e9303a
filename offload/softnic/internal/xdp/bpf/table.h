// SPDX-License-Identifier: Apache-2.0
//
// The match table: a linear scan, first match wins, under a sequence lock.
//
// Nanoseconds for a packet that only the last of n entries matches (test run, median
// of 12, parser and redirect included): 30 for n = 0, 72 for 16, 264 for 128, 955 for
// 512. To compare all words of an entry without a branch is slower (2,124 for 512):
// most entries differ in the first word that is looked at.
#pragma once

#include "card.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct match_table);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, MAX_SLOTS);
	__type(key, u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct scan {
	struct key key;
	struct match_table *table;
	u32 slot;
	u32 kind;
};

#define MISS (~0u)
#define CONFLICT (~0u - 1)

// deaf reports whether a fault keeps an entry from ever matching.
static __always_inline int deaf(struct match_table *t, struct entry *e)
{
#pragma unroll
	for (int w = 0; w < WORDS; w++)
		if (e->mask[w] & t->faults.deaf[w])
			return 1;
	u16 src = t->faults.deaf[2] >> 16, dst = t->faults.deaf[2];
	return (src && (e->src_lo != 0 || e->src_hi != 0xffff)) || (dst && (e->dst_lo != 0 || e->dst_hi != 0xffff));
}

static long ask(u32 i, struct scan *s)
{
	struct match_table *t = s->table;

	if (i >= MAX_ENTRIES)
		return 1;
	struct entry *e = &t->entry[i];
	// From the last word to the first: addresses and protocol tell most entries apart.
#pragma unroll
	for (int w = WORDS - 1; w >= 0; w--)
		if ((s->key.w[w] ^ e->value[w]) & e->mask[w] & t->faults.care[w])
			return 0;
	u16 src = s->key.w[2] >> 16, dst = s->key.w[2];
	if (src < e->src_lo || src > e->src_hi || dst < e->dst_lo || dst > e->dst_hi)
		return 0;
	if (t->faults.deafened && deaf(t, e))
		return 0;
	s->slot = e->slot;
	s->kind = e->kind;
	return 1;
}

// version reads the table's version. An atomic add of nothing is a full barrier on
// every architecture: the scan stays between the two reads.
static __always_inline u64 version(struct match_table *t)
{
	return __sync_fetch_and_add(&t->version, 0);
}

// search sets s->slot to the slot of the first entry that matches, MISS or CONFLICT.
static __always_inline void search(struct scan *s)
{
	u32 zero = 0;

	s->slot = CONFLICT;
	s->table = bpf_map_lookup_elem(&table, &zero);
	if (!s->table)
		return;
	u64 before = version(s->table);
	if (before & 1)
		return;
	s->slot = MISS;
	bpf_loop(s->table->n, ask, s, 0);
	if (version(s->table) != before)
		s->slot = CONFLICT;
}
