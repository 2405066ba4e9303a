// SPDX-License-Identifier: GPL-2.0
/*
 * Rules of the kernel (tc flower, and rx rules that speak alike) to entries of the table,
 * and their counters back.
 */
#include "tcamsim.h"

static LIST_HEAD(ts_blocks);

static int ts_read_key(const struct flow_match *from, struct ts_key *key, struct ts_key *mask, struct netlink_ext_ack *extack)
{
	const struct flow_dissector *d = from->dissector;
	const u64 addrs = BIT_ULL(FLOW_DISSECTOR_KEY_IPV4_ADDRS) | BIT_ULL(FLOW_DISSECTOR_KEY_IPV6_ADDRS);
	const struct flow_dissector_key_control *c = from->key + d->offset[FLOW_DISSECTOR_KEY_CONTROL];
	u64 left = d->used_keys;
	uint i;

	/* Addresses of both families share memory in tc flower, which names both if either is masked. */
	if ((left & addrs) == addrs)
		left &= ~addrs | BIT_ULL(c->addr_type);
	if (left & ~key_caps) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "unsupported match keys %#llx", left & ~key_caps);
		return -EOPNOTSUPP;
	}
	for (i = 0; i < ARRAY_SIZE(ts_fields); i++) {
		const struct ts_field *f = &ts_fields[i];

		if (!(left & BIT_ULL(f->id)))
			continue;
		left &= ~BIT_ULL(f->id);
		memcpy((u8 *)mask + f->offset, (u8 *)from->mask + d->offset[f->id], f->size);
		memcpy((u8 *)key + f->offset, (u8 *)from->key + d->offset[f->id], f->size);
	}
	if (left) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "unsupported match keys %#llx", left);
		return -EOPNOTSUPP;
	}
	if (!flow_rule_is_supp_control_flags(FLOW_DIS_IS_FRAGMENT | FLOW_DIS_FIRST_FRAG, mask->control.flags, extack))
		return -EOPNOTSUPP;
	mask->port.dst &= ~htons(blind_dst_port); /* a lie: nobody is told */
	ts_masked(key, key, mask);
	return 0;
}

static int ts_read_police(struct ts_action *a, const struct flow_action_entry *e, bool last, struct netlink_ext_ack *extack)
{
	struct ts_bucket *b;

	if (e->police.exceed.act_id != FLOW_ACTION_DROP ||
	    (e->police.notexceed.act_id != FLOW_ACTION_PIPE &&
	     !(e->police.notexceed.act_id == FLOW_ACTION_ACCEPT && last)) ||
	    e->police.peakrate_bytes_ps || e->police.avrate || e->police.overhead) {
		NL_SET_ERR_MSG_MOD(extack, "a policer drops what exceeds a rate, and can nothing else");
		return -EOPNOTSUPP;
	}
	b = kzalloc(sizeof(*b), GFP_KERNEL);
	if (!b)
		return -ENOMEM;
	spin_lock_init(&b->lock);
	b->rate = e->police.rate_bytes_ps;
	b->bytes = b->burst = e->police.burst;
	b->packet_rate = e->police.rate_pkt_ps;
	b->packets = b->packet_burst = e->police.burst_pkt;
	b->filled = ktime_get_ns();
	a->bucket = b;
	return 0;
}

static int ts_read_action(struct ts_action *a, const struct flow_action_entry *e, bool alone, bool last, struct netlink_ext_ack *extack)
{
	if (!(action_caps & BIT_ULL(e->id))) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "unsupported action %d", e->id);
		return -EOPNOTSUPP;
	}
	switch (e->id) {
	case FLOW_ACTION_ACCEPT:
	case FLOW_ACTION_DROP:
	case FLOW_ACTION_TRAP:
	case FLOW_ACTION_VLAN_POP:
		break;
	case FLOW_ACTION_GOTO:
		if (e->chain_index > max_chain) {
			NL_SET_ERR_MSG_FMT_MOD(extack, "no chain beyond %u", max_chain);
			return -EOPNOTSUPP;
		}
		if (!alone) { /* a miss there goes up as the frame came in */
			NL_SET_ERR_MSG_MOD(extack, "goto goes with no other action");
			return -EOPNOTSUPP;
		}
		a->chain = e->chain_index;
		break;
	case FLOW_ACTION_REDIRECT:
	case FLOW_ACTION_MIRRED:
	case FLOW_ACTION_REDIRECT_INGRESS:
	case FLOW_ACTION_MIRRED_INGRESS:
		if (e->dev->netdev_ops != &ts_rep_ops) {
			NL_SET_ERR_MSG_MOD(extack, "the target is not a port of this switch");
			return -EOPNOTSUPP;
		}
		a->dev = e->dev;
		break;
	case FLOW_ACTION_VLAN_PUSH:
	case FLOW_ACTION_VLAN_MANGLE:
		a->vlan.vid = e->vlan.vid;
		a->vlan.prio = e->vlan.prio;
		a->vlan.proto = e->vlan.proto;
		break;
	case FLOW_ACTION_MANGLE:
		if (e->mangle.htype == FLOW_ACT_MANGLE_UNSPEC) {
			NL_SET_ERR_MSG_MOD(extack, "an edit says which header it is of");
			return -EOPNOTSUPP;
		}
		a->edit.base = e->mangle.htype;
		a->edit.offset = e->mangle.offset;
		a->edit.mask = e->mangle.mask;
		a->edit.value = e->mangle.val;
		break;
	case FLOW_ACTION_CSUM:
		a->csum = e->csum_flags;
		break;
	case FLOW_ACTION_POLICE: {
		int err = ts_read_police(a, e, last, extack);

		if (err)
			return err;
		break;
	}
	default:
		NL_SET_ERR_MSG_FMT_MOD(extack, "unsupported action %d", e->id);
		return -EOPNOTSUPP;
	}
	a->id = e->id;
	return 0;
}

int ts_add_rule(struct ts_port *p, struct flow_rule *rule, unsigned long cookie, u32 chain, u32 prio, __be16 proto, struct netlink_ext_ack *extack)
{
	struct flow_action_entry *from;
	struct ts_key mask = {};
	struct ts_entry *e;
	int err, i;

	if (chain > max_chain) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "no chain beyond %u", max_chain);
		return -EOPNOTSUPP;
	}
	if (rule->action.num_entries > MAX_ACTIONS) {
		NL_SET_ERR_MSG_FMT_MOD(extack, "more than %d actions", MAX_ACTIONS);
		return -EOPNOTSUPP;
	}
	e = kzalloc(struct_size(e, action, rule->action.num_entries), GFP_KERNEL);
	if (!e)
		return -ENOMEM;
	e->actions = rule->action.num_entries;
	e->port = p;
	e->cookie = cookie;
	e->told = jiffies;
	err = ts_read_key(&rule->match, &e->key, &mask, extack);
	if (err)
		goto out;
	flow_action_for_each(i, from, &rule->action) {
		err = ts_read_action(&e->action[i], from, e->actions == 1, i == e->actions - 1, extack);
		if (err)
			goto out;
	}
	err = ts_insert(e, chain, prio, proto, &mask, extack);
out:
	if (err)
		ts_free(e);
	return err;
}

/* A counter of counter_bits, read before and now: what was counted between, if it did not
 * wrap more than once.
 */
static u64 ts_counted(u64 now, u64 before)
{
	u64 mask = counter_bits < 64 ? BIT_ULL(counter_bits) - 1 : ~0ULL;

	return (now - before) & mask;
}

static int ts_stats(struct ts_port *p, struct flow_cls_offload *f)
{
	enum flow_action_hw_stats how = stats_ms ? FLOW_ACTION_HW_STATS_DELAYED : FLOW_ACTION_HW_STATS_IMMEDIATE;
	struct ts_entry *e;
	u64 packets, bytes;

	guard(mutex)(&ts_lock);
	e = ts_find(p, f->cookie);
	if (!e)
		return -ENOENT;
	if (stats_ms && time_before(jiffies, e->told + msecs_to_jiffies(stats_ms))) {
		flow_stats_update(&f->stats, 0, 0, 0, e->lastused, how);
		return 0;
	}
	packets = atomic64_read(&e->packets);
	bytes = atomic64_read(&e->bytes);
	flow_stats_update(&f->stats, ts_counted(bytes, e->told_bytes), ts_counted(packets, e->told_packets), 0, e->lastused, how);
	e->told_packets = packets;
	e->told_bytes = bytes;
	e->told = jiffies;
	return 0;
}

static int ts_block_cb(enum tc_setup_type type, void *data, void *priv)
{
	struct flow_cls_offload *f = data;
	struct net_device *dev = priv;
	struct ts_port *p = ts_port_of(dev);

	if (type != TC_SETUP_CLSFLOWER)
		return -EOPNOTSUPP;
	switch (f->command) {
	case FLOW_CLS_REPLACE:
		if (!tc_can_offload_extack(dev, f->common.extack))
			return -EOPNOTSUPP;
		if (!flow_action_basic_hw_stats_check(&flow_cls_offload_flow_rule(f)->action, f->common.extack))
			return -EOPNOTSUPP;
		return ts_add_rule(p, flow_cls_offload_flow_rule(f), f->cookie, f->common.chain_index, f->common.prio, f->common.protocol, f->common.extack);
	case FLOW_CLS_DESTROY:
		return ts_remove(p, f->cookie);
	case FLOW_CLS_STATS:
		return ts_stats(p, f);
	default:
		return -EOPNOTSUPP;
	}
}

int ts_setup_tc(struct net_device *dev, enum tc_setup_type type, void *data)
{
	if (type != TC_SETUP_BLOCK)
		return -EOPNOTSUPP;
	return flow_block_cb_setup_simple(data, &ts_blocks, ts_block_cb, dev, dev, true);
}
