// SPDX-License-Identifier: GPL-2.0
/*
 * The bounded match table: masks in order, entries by key, and the failures and lies
 * that parameters ask for.
 */
#include "tcamsim.h"

DEFINE_MUTEX(ts_lock);
static DEFINE_HASHTABLE(ts_by_key, 14);
static DEFINE_HASHTABLE(ts_by_cookie, 14);
static uint ts_masks;
static ulong ts_seq, ts_inserts;

static u32 ts_hash(const struct ts_key *key, u32 seed)
{
	return jhash2((const u32 *)key, KEY_WORDS, seed);
}

void ts_masked(struct ts_key *to, const struct ts_key *key, const struct ts_key *mask)
{
	const u32 *k = (const u32 *)key, *m = (const u32 *)mask;
	u32 *t = (u32 *)to;
	int i;

	for (i = 0; i < KEY_WORDS; i++)
		t[i] = k[i] & m[i];
}

struct ts_entry *ts_lookup(struct ts_port *p, u32 chain, __be16 proto, const struct ts_key *key)
{
	struct ts_key masked;
	struct ts_entry *e;
	struct ts_mask *m;

	list_for_each_entry_rcu(m, &p->masks, node) {
		if (m->chain != chain || (m->proto != htons(ETH_P_ALL) && m->proto != proto))
			continue;
		ts_masked(&masked, key, &m->mask);
		hash_for_each_possible_rcu(ts_by_key, e, by_key, ts_hash(&masked, m->seed))
			if (e->mask == m && !memcmp(&e->key, &masked, sizeof(masked)))
				return e;
	}
	return NULL;
}

struct ts_entry *ts_find(struct ts_port *p, unsigned long cookie)
{
	struct ts_entry *e;

	hash_for_each_possible(ts_by_cookie, e, by_cookie, cookie)
		if (e->cookie == cookie && e->port == p)
			return e;
	return NULL;
}

/* whether a goes before b; of equals, the older one does */
static bool ts_before(const struct ts_mask *a, u32 chain, u32 prio)
{
	if (a->chain != chain)
		return a->chain < chain;
	if (!honour_prio && prio < RX_PRIORITY)
		return a->prio < RX_PRIORITY;
	return a->prio <= prio;
}

static struct ts_mask *ts_get_mask(struct ts_port *p, u32 chain, u32 prio, __be16 proto, const struct ts_key *mask)
{
	struct list_head *at = &p->masks;
	struct ts_mask *m;

	list_for_each_entry(m, &p->masks, node) {
		if (!ts_before(m, chain, prio)) {
			at = &m->node;
			break;
		}
		if (m->chain == chain && m->prio == prio && m->proto == proto && !memcmp(&m->mask, mask, sizeof(*mask)))
			return m;
	}
	if (mask_limit && ts_masks >= mask_limit)
		return ERR_PTR(-ENOSPC);
	m = kzalloc(sizeof(*m), GFP_KERNEL);
	if (!m)
		return ERR_PTR(-ENOMEM);
	m->chain = chain;
	m->prio = prio;
	m->proto = proto;
	m->mask = *mask;
	m->seed = get_random_u32();
	list_add_tail_rcu(&m->node, at);
	ts_masks++;
	return m;
}

static void ts_put_mask(struct ts_mask *m)
{
	if (m->entries)
		return;
	list_del_rcu(&m->node);
	ts_masks--;
	kfree_rcu(m, rcu);
}

void ts_free(struct ts_entry *e)
{
	uint i;

	for (i = 0; i < e->actions; i++)
		if (e->action[i].id == FLOW_ACTION_POLICE)
			kfree(e->action[i].bucket);
	kfree(e);
}

static void ts_free_rcu(struct rcu_head *head)
{
	ts_free(container_of(head, struct ts_entry, rcu));
}

/* The lie: nothing of it shows in what the driver says. */
static void ts_lie(struct ts_entry *e)
{
	struct ts_action *a = &e->action[0];
	struct net_device *to = NULL;
	uint i;

	for (i = 0; i < ports && !to; i++)
		if (i != e->port->index)
			to = ts_ports[i].rep;
	if (!e->actions)
		return;
	if (a->id == FLOW_ACTION_DROP && to) {
		a->id = FLOW_ACTION_REDIRECT;
		a->dev = to;
	} else if (a->id != FLOW_ACTION_POLICE) {
		a->id = FLOW_ACTION_DROP;
	}
}

int ts_insert(struct ts_entry *e, u32 chain, u32 prio, __be16 proto, const struct ts_key *mask, struct netlink_ext_ack *extack)
{
	struct ts_mask *m;

	if (insert_us)
		usleep_range(insert_us, insert_us + insert_us / 8 + 1);
	guard(mutex)(&ts_lock);
	ts_inserts++;
	if (fail_every && ts_inserts % fail_every == 0) {
		NL_SET_ERR_MSG_MOD(extack, "injected firmware failure");
		return -EIO;
	}
	if (used >= table_size) {
		NL_SET_ERR_MSG_MOD(extack, "match table is full");
		return -ENOSPC;
	}
	m = ts_get_mask(e->port, chain, prio, proto, mask);
	if (IS_ERR(m)) {
		if (PTR_ERR(m) == -ENOSPC)
			NL_SET_ERR_MSG_MOD(extack, "no room for another mask");
		return PTR_ERR(m);
	}
	if (lie_every && ++ts_seq % lie_every == 0)
		ts_lie(e);
	m->entries++;
	e->mask = m;
	hash_add_rcu(ts_by_key, &e->by_key, ts_hash(&e->key, m->seed));
	hash_add(ts_by_cookie, &e->by_cookie, e->cookie);
	used++;
	return 0;
}

int ts_remove(struct ts_port *p, unsigned long cookie)
{
	struct ts_entry *e;

	guard(mutex)(&ts_lock);
	e = ts_find(p, cookie);
	if (!e)
		return -ENOENT;
	hash_del_rcu(&e->by_key);
	hash_del(&e->by_cookie);
	e->mask->entries--;
	ts_put_mask(e->mask);
	used--;
	call_rcu(&e->rcu, ts_free_rcu);
	return 0;
}
