// SPDX-License-Identifier: GPL-2.0
/*
 * tcamsim: a NIC with an eSwitch and a bounded match table, for tests.
 *
 * Each port N is a pair of netdevs: simfN, what is outside (a VF's workload, or the wire
 * of port 0), and simrN, its representor. A frame sent on simfN is looked up in the table:
 * what an entry answers is done here, which is "the hardware"; what none answers appears
 * on simrN. A frame sent on simrN leaves on simfN whatever the table says.
 *
 * Entries come by tc flower on a representor's ingress, and by ethtool rx rules, which are
 * asked last. All share one table of table_size lines. A frame is dissected once, by the
 * kernel's own dissector, so the module says nothing about parsers; then each mask in
 * order (chain, priority, age) is one probe of a hash table.
 *
 * With pci=0000:01:00.0 it is the eSwitch of that function: representors hang below it,
 * come and go with its VFs and with devlink's eswitch mode, and the uplink's speaks for
 * the VFs (ip link set simr0 vf N ...): what the function's driver does not have, rates
 * at least and link state, is held here.
 *
 * The parameters make it small, slow, old, forgetful or a liar. All may change at run
 * time but ports, pci and rx_rules; entries that are in stay as they are.
 */
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/ethtool.h>
#include <linux/hashtable.h>
#include <linux/if_vlan.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/jhash.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <linux/rtnetlink.h>
#include <net/devlink.h>
#include <net/flow_dissector.h>
#include <net/flow_offload.h>
#include <net/ip6_checksum.h>
#include <net/pkt_cls.h>
#include <net/pkt_sched.h>
#include <linux/tc_act/tc_csum.h>

#define MAX_PORTS 64
#define MAX_ACTIONS 16
#define RX_PRIORITY 0x80000000u /* behind everything of tc, whose priorities have 16 bits */

#define KEY(x) BIT_ULL(FLOW_DISSECTOR_KEY_##x)
#define ACT(x) BIT_ULL(FLOW_ACTION_##x)

static uint ports = 4;
module_param(ports, uint, 0444);
MODULE_PARM_DESC(ports, "ports, the uplink among them");
static char *pci;
module_param(pci, charp, 0444);
MODULE_PARM_DESC(pci, "the PCI function that has the VFs");
static uint rx_rules = 64;
module_param(rx_rules, uint, 0444);
MODULE_PARM_DESC(rx_rules, "locations for ethtool rx rules on each port");
static uint table_size = 64;
module_param(table_size, uint, 0644);
MODULE_PARM_DESC(table_size, "entries that fit");
static uint mask_limit;
module_param(mask_limit, uint, 0644);
MODULE_PARM_DESC(mask_limit, "different masks that fit; 0: any number");
static uint max_chain = 3;
module_param(max_chain, uint, 0644);
MODULE_PARM_DESC(max_chain, "the highest chain");
static bool honour_prio = true;
module_param(honour_prio, bool, 0644);
MODULE_PARM_DESC(honour_prio, "lookups follow tc's priorities; if not, the age of masks");
static unsigned long long key_caps = KEY(CONTROL) | KEY(BASIC) | KEY(ETH_ADDRS) | KEY(VLAN) |
	KEY(CVLAN) | KEY(IPV4_ADDRS) | KEY(IPV6_ADDRS) | KEY(PORTS) | KEY(TCP) | KEY(IP) |
	KEY(ICMP) | KEY(ARP);
module_param(key_caps, ullong, 0644);
MODULE_PARM_DESC(key_caps, "keys of this generation, a bit for each flow_dissector_key_id");
static unsigned long long action_caps = ACT(ACCEPT) | ACT(DROP) | ACT(TRAP) | ACT(GOTO) |
	ACT(REDIRECT) | ACT(MIRRED) | ACT(REDIRECT_INGRESS) | ACT(MIRRED_INGRESS) |
	ACT(VLAN_PUSH) | ACT(VLAN_POP) | ACT(VLAN_MANGLE) | ACT(MANGLE) | ACT(CSUM) | ACT(POLICE);
module_param(action_caps, ullong, 0644);
MODULE_PARM_DESC(action_caps, "actions of this generation, a bit for each flow_action_id");
static uint insert_us;
module_param(insert_us, uint, 0644);
MODULE_PARM_DESC(insert_us, "how long an insertion takes");
static uint fail_every;
module_param(fail_every, uint, 0644);
MODULE_PARM_DESC(fail_every, "every n-th insertion fails with EIO; 0: none");
static uint lie_every;
module_param(lie_every, uint, 0644);
MODULE_PARM_DESC(lie_every, "every n-th entry forwards what it should drop, or drops; 0: none");
static uint stats_ms;
module_param(stats_ms, uint, 0644);
MODULE_PARM_DESC(stats_ms, "how old counters may be");
static uint counter_bits = 64;
module_param(counter_bits, uint, 0644);
MODULE_PARM_DESC(counter_bits, "width of counters, which wrap");
static bool mode_needs_no_vfs;
module_param(mode_needs_no_vfs, bool, 0644);
MODULE_PARM_DESC(mode_needs_no_vfs, "the eSwitch's mode changes only without VFs");
static uint used;
module_param(used, uint, 0444);
MODULE_PARM_DESC(used, "entries that are in");

/* What lookups see of a frame. */
struct ts_key {
	struct flow_dissector_key_control control;
	struct flow_dissector_key_basic basic;
	struct flow_dissector_key_eth_addrs eth;
	struct flow_dissector_key_vlan vlan;
	struct flow_dissector_key_vlan cvlan;
	struct flow_dissector_key_ipv4_addrs ipv4;
	struct flow_dissector_key_ipv6_addrs ipv6;
	struct flow_dissector_key_ports port;
	struct flow_dissector_key_tcp tcp;
	struct flow_dissector_key_ip ip;
	struct flow_dissector_key_icmp icmp;
	struct flow_dissector_key_arp arp;
} __aligned(8);

#define KEY_WORDS (sizeof(struct ts_key) / sizeof(u32))

static const struct ts_field {
	enum flow_dissector_key_id id;
	u16 offset, size;
} ts_fields[] = {
#define FIELD(ID, m) { FLOW_DISSECTOR_KEY_##ID, offsetof(struct ts_key, m), sizeof_field(struct ts_key, m) }
	FIELD(CONTROL, control), FIELD(BASIC, basic), FIELD(ETH_ADDRS, eth), FIELD(VLAN, vlan),
	FIELD(CVLAN, cvlan), FIELD(IPV4_ADDRS, ipv4), FIELD(IPV6_ADDRS, ipv6), FIELD(PORTS, port),
	FIELD(TCP, tcp), FIELD(IP, ip), FIELD(ICMP, icmp), FIELD(ARP, arp),
};

struct ts_bucket { /* of a policer */
	spinlock_t lock; /* guards the next three */
	s64 bytes, packets;
	u64 filled;
	u64 rate, burst, packet_rate, packet_burst;
};

struct ts_action {
	enum flow_action_id id;
	union {
		struct net_device *dev;
		u32 chain;
		u32 csum;
		struct { u16 vid; u8 prio; __be16 proto; } vlan;
		struct { u8 base; u32 offset, mask, value; } edit;
		struct ts_bucket *bucket;
	};
};

struct ts_mask {
	struct list_head node; /* in its port's, in order */
	struct rcu_head rcu;
	u32 chain, prio, seed;
	__be16 proto;
	uint entries;
	struct ts_key mask;
};

struct ts_entry {
	struct hlist_node by_key, by_cookie;
	struct rcu_head rcu;
	struct ts_port *port;
	struct ts_mask *mask;
	unsigned long cookie, lastused;
	atomic64_t packets, bytes;
	u64 told_packets, told_bytes; /* of what tc asked for so far */
	unsigned long told;	      /* jiffies */
	uint actions;
	struct ts_key key;
	struct ts_action action[] __counted_by(actions);
};

struct ts_port {
	struct net_device *rep, *fn; /* rep is NULL while there is none */
	uint index;
	struct list_head masks;
	struct ethtool_rx_flow_spec *rules; /* by location; unused ones have flow_type 0 */
	int min_rate, link_state;	    /* of the VF, where its driver has none */
};

struct ts_priv { struct ts_port *port; };

static DEFINE_MUTEX(ts_lock); /* guards the table, rules and seq */
static DEFINE_HASHTABLE(ts_by_key, 14);
static DEFINE_HASHTABLE(ts_by_cookie, 14);
static uint ts_masks;
static ulong ts_seq, ts_inserts;
static struct ts_port *ts_ports;
static struct flow_dissector ts_dissector;
static LIST_HEAD(ts_blocks);
static DEFINE_MUTEX(ts_mode_lock); /* guards the mode and which representors there are */
static u16 ts_mode = DEVLINK_ESWITCH_MODE_SWITCHDEV;
static struct pci_dev *ts_pdev;
static struct devlink *ts_devlink;
static struct notifier_block ts_vf_notifier;

static const struct net_device_ops ts_rep_ops;

static struct ts_port *ts_port_of(struct net_device *dev)
{
	return ((struct ts_priv *)netdev_priv(dev))->port;
}

/* ---- the table ---- */

static u32 ts_hash(const struct ts_key *key, u32 seed)
{
	return jhash2((const u32 *)key, KEY_WORDS, seed);
}

static void ts_masked(struct ts_key *to, const struct ts_key *key, const struct ts_key *mask)
{
	const u32 *k = (const u32 *)key, *m = (const u32 *)mask;
	u32 *t = (u32 *)to;
	int i;

	for (i = 0; i < KEY_WORDS; i++)
		t[i] = k[i] & m[i];
}

static struct ts_entry *ts_lookup(struct ts_port *p, u32 chain, __be16 proto, const struct ts_key *key)
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

static struct ts_entry *ts_find(struct ts_port *p, unsigned long cookie)
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

static void ts_free(struct ts_entry *e)
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

static int ts_insert(struct ts_entry *e, u32 chain, u32 prio, __be16 proto, const struct ts_key *mask, struct netlink_ext_ack *extack)
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

static int ts_remove(struct ts_port *p, unsigned long cookie)
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

/* ---- what comes in: rules of the kernel to entries ---- */

static int ts_read_key(const struct flow_match *from, struct ts_key *key, struct ts_key *mask, struct netlink_ext_ack *extack)
{
	const struct flow_dissector *d = from->dissector;
	u64 left = d->used_keys;
	uint i;

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

static int ts_add_rule(struct ts_port *p, struct flow_rule *rule, unsigned long cookie, u32 chain, u32 prio, __be16 proto, struct netlink_ext_ack *extack)
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

static int ts_setup_tc(struct net_device *dev, enum tc_setup_type type, void *data)
{
	if (type != TC_SETUP_BLOCK)
		return -EOPNOTSUPP;
	return flow_block_cb_setup_simple(data, &ts_blocks, ts_block_cb, dev, dev, true);
}

/* ---- what frames go through ---- */

/* delivers a frame, from its MAC header on, to a netdev */
static void ts_deliver(struct sk_buff *skb, struct net_device *to)
{
	if (!to || !netif_running(to) || !netif_carrier_ok(to)) {
		kfree_skb(skb);
		return;
	}
	if (skb_vlan_tag_present(skb)) { /* generic XDP sees only tags that are in the frame */
		skb = __vlan_hwaccel_push_inside(skb);
		if (!skb)
			return;
	}
	skb->pkt_type = PACKET_HOST;
	skb->protocol = eth_type_trans(skb, to);
	dev_sw_netstats_rx_add(to, skb->len + ETH_HLEN);
	netif_rx(skb);
}

static void ts_copy(struct sk_buff *skb, struct net_device *to)
{
	struct sk_buff *copy = skb_copy(skb, GFP_ATOMIC); /* edits of the original follow */

	if (copy)
		ts_deliver(copy, to);
}

static bool ts_conforms(struct ts_bucket *b, uint len)
{
	u64 now = ktime_get_ns(), dt;
	bool ok = true;

	spin_lock_bh(&b->lock);
	dt = min_t(u64, now - b->filled, NSEC_PER_SEC);
	b->filled = now;
	b->bytes = min_t(s64, b->burst, b->bytes + mul_u64_u64_div_u64(b->rate, dt, NSEC_PER_SEC));
	b->packets = min_t(s64, b->packet_burst, b->packets + mul_u64_u64_div_u64(b->packet_rate, dt, NSEC_PER_SEC));
	if ((b->rate && b->bytes < len) || (b->packet_rate && b->packets < 1))
		ok = false;
	if (ok) {
		b->bytes -= len;
		b->packets -= 1;
	}
	spin_unlock_bh(&b->lock);
	return ok;
}

/* the network and transport header of a frame that starts at its MAC header */
static int ts_headers(struct sk_buff *skb, int *l4, u8 *proto)
{
	int l3 = ETH_HLEN;
	__be16 type = ((struct ethhdr *)skb->data)->h_proto;

	while (eth_type_vlan(type)) {
		struct vlan_hdr *v = skb_header_pointer(skb, l3, sizeof(*v), &(struct vlan_hdr){});

		if (!v)
			return -1;
		type = v->h_vlan_encapsulated_proto;
		l3 += VLAN_HLEN;
	}
	*proto = 0;
	*l4 = -1;
	if (type == htons(ETH_P_IP)) {
		struct iphdr *ip = skb_header_pointer(skb, l3, sizeof(*ip), &(struct iphdr){});

		if (!ip)
			return -1;
		*proto = ip->protocol;
		*l4 = l3 + ip->ihl * 4;
	} else if (type == htons(ETH_P_IPV6)) {
		struct ipv6hdr *ip = skb_header_pointer(skb, l3, sizeof(*ip), &(struct ipv6hdr){});

		if (!ip)
			return -1;
		*proto = ip->nexthdr;
		*l4 = l3 + sizeof(*ip);
	}
	return l3;
}

static void ts_edit(struct sk_buff *skb, const struct ts_action *a)
{
	int l4, l3, at;
	u8 proto;
	u32 *word;

	l3 = ts_headers(skb, &l4, &proto);
	switch (a->edit.base) {
	case FLOW_ACT_MANGLE_HDR_TYPE_ETH:
		at = 0;
		break;
	case FLOW_ACT_MANGLE_HDR_TYPE_IP4:
	case FLOW_ACT_MANGLE_HDR_TYPE_IP6:
		at = l3;
		break;
	default:
		at = l4;
	}
	if (at < 0 || skb_ensure_writable(skb, at + a->edit.offset + sizeof(*word)))
		return;
	word = (u32 *)(skb->data + at + a->edit.offset);
	put_unaligned((get_unaligned(word) & a->edit.mask) | a->edit.value, word);
}

/* computes checksums anew, as the csum action does */
static void ts_checksum(struct sk_buff *skb, u32 what)
{
	__sum16 *sum;
	int l3, l4;
	uint len;
	u8 proto;

	l3 = ts_headers(skb, &l4, &proto);
	if (l3 < 0 || l4 < 0 || skb_ensure_writable(skb, skb->len))
		return;
	if (what & TCA_CSUM_UPDATE_FLAG_IPV4HDR && l4 - l3 >= sizeof(struct iphdr) && ((u8 *)skb->data)[l3] >> 4 == 4)
		ip_send_check((struct iphdr *)(skb->data + l3));
	if (!(what & TCA_CSUM_UPDATE_FLAG_TCP && proto == IPPROTO_TCP) &&
	    !(what & TCA_CSUM_UPDATE_FLAG_UDP && proto == IPPROTO_UDP))
		return;
	if (skb->data[l3] >> 4 == 4) {
		struct iphdr *ip = (struct iphdr *)(skb->data + l3);

		if (ip_is_fragment(ip))
			return;
		len = ntohs(ip->tot_len) - ip->ihl * 4;
	} else {
		len = ntohs(((struct ipv6hdr *)(skb->data + l3))->payload_len);
	}
	if (l4 + len > skb->len || len < (proto == IPPROTO_TCP ? 20 : 8))
		return;
	sum = (__sum16 *)(skb->data + l4 + (proto == IPPROTO_TCP ? 16 : 6));
	if (proto == IPPROTO_UDP && !*sum && skb->data[l3] >> 4 == 4)
		return; /* the sender wants none */
	*sum = 0;
	if (skb->data[l3] >> 4 == 4) {
		struct iphdr *ip = (struct iphdr *)(skb->data + l3);

		*sum = csum_tcpudp_magic(ip->saddr, ip->daddr, len, proto, skb_checksum(skb, l4, len, 0));
	} else {
		struct ipv6hdr *ip = (struct ipv6hdr *)(skb->data + l3);

		*sum = csum_ipv6_magic(&ip->saddr, &ip->daddr, len, proto, skb_checksum(skb, l4, len, 0));
	}
	if (proto == IPPROTO_UDP && !*sum)
		*sum = CSUM_MANGLED_0;
	skb->ip_summed = CHECKSUM_NONE;
}

/* What is left of a frame when the actions of an entry are done. */
enum ts_left { TS_GONE, TS_UP, TS_CHAIN };

/* carries out an entry on a frame, from its MAC header on */
static enum ts_left ts_act(const struct ts_entry *e, struct sk_buff *skb, u32 *chain)
{
	uint i;

	for (i = 0; i < e->actions; i++) {
		const struct ts_action *a = &e->action[i];

		switch (a->id) {
		case FLOW_ACTION_DROP:
			kfree_skb(skb);
			return TS_GONE;
		case FLOW_ACTION_REDIRECT:
			ts_deliver(skb, ts_port_of(a->dev)->fn);
			return TS_GONE;
		case FLOW_ACTION_REDIRECT_INGRESS:
			ts_deliver(skb, a->dev);
			return TS_GONE;
		case FLOW_ACTION_MIRRED:
			ts_copy(skb, ts_port_of(a->dev)->fn);
			break;
		case FLOW_ACTION_MIRRED_INGRESS:
			ts_copy(skb, a->dev);
			break;
		case FLOW_ACTION_VLAN_POP:
			if (skb_vlan_pop(skb))
				goto failed;
			break;
		case FLOW_ACTION_VLAN_PUSH:
			if (skb_vlan_push(skb, a->vlan.proto, a->vlan.vid | a->vlan.prio << VLAN_PRIO_SHIFT))
				return TS_GONE; /* it was freed */
			break;
		case FLOW_ACTION_VLAN_MANGLE:
			if (skb_vlan_tag_present(skb))
				__vlan_hwaccel_put_tag(skb, a->vlan.proto, a->vlan.vid | a->vlan.prio << VLAN_PRIO_SHIFT);
			break;
		case FLOW_ACTION_MANGLE:
			ts_edit(skb, a);
			break;
		case FLOW_ACTION_CSUM:
			ts_checksum(skb, a->csum);
			break;
		case FLOW_ACTION_POLICE:
			if (!ts_conforms(a->bucket, skb->len))
				goto failed;
			break;
		case FLOW_ACTION_GOTO:
			*chain = a->chain;
			return TS_CHAIN;
		default: /* accept, trap */
			return TS_UP;
		}
	}
	return TS_UP;
failed:
	kfree_skb(skb);
	return TS_GONE;
}

/* looks a frame up and does what the table says; the frame is gone afterwards */
static void ts_switch(struct ts_port *p, struct sk_buff *skb)
{
	uint len = skb->len + ETH_HLEN, round;
	u32 chain = 0;

	for (round = 0; round <= MAX_PORTS; round++) { /* chains may lead in a circle */
		struct ts_key key = {};
		struct ts_entry *e;
		enum ts_left left;

		skb_flow_dissect(skb, &ts_dissector, &key, FLOW_DISSECTOR_F_STOP_BEFORE_ENCAP);
		e = ts_lookup(p, chain, skb_protocol(skb, false), &key);
		if (!e)
			break;
		atomic64_inc(&e->packets);
		atomic64_add(len, &e->bytes);
		WRITE_ONCE(e->lastused, jiffies);
		skb_push(skb, ETH_HLEN);
		left = ts_act(e, skb, &chain);
		if (left == TS_GONE)
			return;
		skb->protocol = eth_type_trans(skb, p->rep);
		skb_reset_network_header(skb);
		if (left == TS_UP)
			break;
	}
	skb_push(skb, ETH_HLEN);
	ts_deliver(skb, p->rep);
}

static netdev_tx_t ts_fn_xmit(struct sk_buff *skb, struct net_device *dev)
{
	struct ts_port *p = ts_port_of(dev);
	struct net_device *rep;

	dev_sw_netstats_tx_add(dev, 1, skb->len);
	skb_scrub_packet(skb, true);
	rcu_read_lock();
	rep = READ_ONCE(p->rep);
	if (!rep || !netif_carrier_ok(dev)) { /* a card in legacy mode switches elsewhere */
		kfree_skb(skb);
		goto out;
	}
	skb->protocol = eth_type_trans(skb, rep);
	skb_reset_network_header(skb);
	if (eth_type_vlan(skb->protocol)) {
		skb = skb_vlan_untag(skb);
		if (!skb)
			goto out;
	}
	ts_switch(p, skb);
out:
	rcu_read_unlock();
	return NETDEV_TX_OK;
}

static netdev_tx_t ts_rep_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_sw_netstats_tx_add(dev, 1, skb->len);
	skb_scrub_packet(skb, true);
	ts_deliver(skb, ts_port_of(dev)->fn);
	return NETDEV_TX_OK;
}

/* ---- ethtool: rx rules ---- */

static unsigned long ts_rx_cookie(u32 location)
{
	return location + 1; /* tc's are addresses */
}

static int ts_rx_add(struct ts_port *p, struct ethtool_rx_flow_spec *fs)
{
	struct ethtool_rx_flow_spec_input in = { .fs = fs };
	struct ethtool_rx_flow_rule *rule;
	int err;

	if (fs->location >= rx_rules)
		return -EINVAL; /* RX_CLS_LOC_ANY, too: the caller chooses */
	if (fs->ring_cookie != RX_CLS_FLOW_DISC && fs->ring_cookie != 0)
		return -EINVAL; /* there is one queue */
	rule = ethtool_rx_flow_rule_create(&in);
	if (IS_ERR(rule))
		return PTR_ERR(rule);
	if (fs->ring_cookie != RX_CLS_FLOW_DISC)
		rule->rule->action.entries[0].id = FLOW_ACTION_ACCEPT;
	ts_remove(p, ts_rx_cookie(fs->location)); /* there may be none */
	err = ts_add_rule(p, rule->rule, ts_rx_cookie(fs->location), 0, RX_PRIORITY + fs->location, htons(ETH_P_ALL), NULL);
	ethtool_rx_flow_rule_destroy(rule);
	if (err)
		memset(&p->rules[fs->location], 0, sizeof(*fs));
	else
		p->rules[fs->location] = *fs;
	return err;
}

static int ts_set_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info)
{
	struct ts_port *p = ts_port_of(dev);

	switch (info->cmd) {
	case ETHTOOL_SRXCLSRLINS:
		return ts_rx_add(p, &info->fs);
	case ETHTOOL_SRXCLSRLDEL:
		if (info->fs.location >= rx_rules || !p->rules[info->fs.location].flow_type)
			return -ENOENT;
		memset(&p->rules[info->fs.location], 0, sizeof(info->fs));
		return ts_remove(p, ts_rx_cookie(info->fs.location));
	default:
		return -EOPNOTSUPP;
	}
}

static int ts_get_rxnfc(struct net_device *dev, struct ethtool_rxnfc *info, u32 *locations)
{
	struct ts_port *p = ts_port_of(dev);
	uint i, n = 0;

	switch (info->cmd) {
	case ETHTOOL_GRXRINGS:
		info->data = 1;
		return 0;
	case ETHTOOL_GRXCLSRLCNT:
		for (i = 0; i < rx_rules; i++)
			n += p->rules[i].flow_type != 0;
		info->rule_cnt = n;
		info->data = rx_rules;
		return 0;
	case ETHTOOL_GRXCLSRULE:
		if (info->fs.location >= rx_rules || !p->rules[info->fs.location].flow_type)
			return -ENOENT;
		info->fs = p->rules[info->fs.location];
		return 0;
	case ETHTOOL_GRXCLSRLALL:
		for (i = 0; i < rx_rules; i++) {
			if (!p->rules[i].flow_type)
				continue;
			if (n == info->rule_cnt)
				return -EMSGSIZE;
			locations[n++] = i;
		}
		info->rule_cnt = n;
		info->data = rx_rules;
		return 0;
	default:
		return -EOPNOTSUPP;
	}
}

static void ts_drvinfo(struct net_device *dev, struct ethtool_drvinfo *info)
{
	strscpy(info->driver, "tcamsim", sizeof(info->driver));
	strscpy(info->fw_version, "1.0", sizeof(info->fw_version));
	strscpy(info->bus_info, ts_pdev ? pci_name(ts_pdev) : "virtual", sizeof(info->bus_info));
}

static int ts_link_settings(struct net_device *dev, struct ethtool_link_ksettings *s)
{
	s->base.speed = SPEED_25000;
	s->base.duplex = DUPLEX_FULL;
	s->base.port = PORT_OTHER;
	return 0;
}

static const struct ethtool_ops ts_fn_ethtool = {
	.get_drvinfo = ts_drvinfo, .get_link = ethtool_op_get_link, .get_link_ksettings = ts_link_settings,
};

static const struct ethtool_ops ts_rep_ethtool = {
	.get_drvinfo = ts_drvinfo, .get_link = ethtool_op_get_link, .get_link_ksettings = ts_link_settings,
	.get_rxnfc = ts_get_rxnfc, .set_rxnfc = ts_set_rxnfc,
};

/* ---- VFs: what the function's own driver does not have is held here ---- */

static struct net_device *ts_lower(int vf)
{
	struct net_device *dev;

	if (!ts_pdev || vf < 0 || vf + 1 >= ports)
		return NULL;
	dev = pci_get_drvdata(ts_pdev); /* under rtnl, which the driver takes before it goes */
	return ts_pdev->driver && !strcmp(ts_pdev->driver->name, "igb") ? dev : NULL;
}

#define FORWARD(op, vf, ...) \
	struct net_device *lower = ts_lower(vf); \
	if (!lower) \
		return -EINVAL; \
	if (!lower->netdev_ops->op) \
		return -EOPNOTSUPP; \
	return lower->netdev_ops->op(lower, vf, ##__VA_ARGS__)

static int ts_vf_mac(struct net_device *dev, int vf, u8 *mac)
{
	FORWARD(ndo_set_vf_mac, vf, mac);
}

static int ts_vf_vlan(struct net_device *dev, int vf, u16 vlan, u8 qos, __be16 proto)
{
	FORWARD(ndo_set_vf_vlan, vf, vlan, qos, proto);
}

static int ts_vf_spoofchk(struct net_device *dev, int vf, bool on)
{
	FORWARD(ndo_set_vf_spoofchk, vf, on);
}

static int ts_vf_trust(struct net_device *dev, int vf, bool on)
{
	FORWARD(ndo_set_vf_trust, vf, on);
}

static int ts_vf_rate(struct net_device *dev, int vf, int min, int max)
{
	struct net_device *lower = ts_lower(vf);
	int err;

	if (!lower || (max && min > max))
		return -EINVAL;
	err = lower->netdev_ops->ndo_set_vf_rate(lower, vf, 0, max);
	if (!err)
		ts_ports[vf + 1].min_rate = min;
	return err;
}

static int ts_vf_link_state(struct net_device *dev, int vf, int state)
{
	struct net_device *fn;

	if (!ts_lower(vf))
		return -EINVAL;
	ts_ports[vf + 1].link_state = state;
	fn = ts_ports[vf + 1].fn;
	if (state == IFLA_VF_LINK_STATE_DISABLE)
		netif_carrier_off(fn);
	else
		netif_carrier_on(fn);
	return 0;
}

static int ts_vf_config(struct net_device *dev, int vf, struct ifla_vf_info *info)
{
	struct net_device *lower = ts_lower(vf);
	int err;

	if (!lower)
		return -EINVAL;
	err = lower->netdev_ops->ndo_get_vf_config(lower, vf, info);
	info->min_tx_rate = ts_ports[vf + 1].min_rate;
	info->linkstate = ts_ports[vf + 1].link_state;
	return err;
}

/* ---- netdevs ---- */

static int ts_port_name(struct net_device *dev, char *name, size_t len)
{
	uint index = ts_port_of(dev)->index;
	int n = index ? snprintf(name, len, "pf%uvf%u", ts_pdev ? PCI_FUNC(ts_pdev->devfn) : 0, index - 1) :
			snprintf(name, len, "p%u", ts_pdev ? PCI_FUNC(ts_pdev->devfn) : 0);

	return n >= len ? -EINVAL : 0;
}

static int ts_parent_id(struct net_device *dev, struct netdev_phys_item_id *id)
{
	static const u8 card[8] = { 0x02, 't', 'c', 'a', 'm', 's', 'i', 'm' };

	id->id_len = sizeof(card);
	memcpy(id->id, card, sizeof(card));
	return 0;
}

static int ts_open(struct net_device *dev)
{
	netif_start_queue(dev);
	return 0;
}

static int ts_stop(struct net_device *dev)
{
	netif_stop_queue(dev);
	return 0;
}

static const struct net_device_ops ts_fn_ops = {
	.ndo_open = ts_open, .ndo_stop = ts_stop, .ndo_start_xmit = ts_fn_xmit,
	.ndo_set_mac_address = eth_mac_addr, .ndo_validate_addr = eth_validate_addr,
};

static const struct net_device_ops ts_rep_ops = {
	.ndo_open = ts_open, .ndo_stop = ts_stop, .ndo_start_xmit = ts_rep_xmit,
	.ndo_set_mac_address = eth_mac_addr, .ndo_validate_addr = eth_validate_addr,
	.ndo_setup_tc = ts_setup_tc,
	.ndo_get_phys_port_name = ts_port_name, .ndo_get_port_parent_id = ts_parent_id,
	.ndo_set_vf_mac = ts_vf_mac, .ndo_set_vf_vlan = ts_vf_vlan, .ndo_set_vf_rate = ts_vf_rate,
	.ndo_set_vf_spoofchk = ts_vf_spoofchk, .ndo_set_vf_trust = ts_vf_trust,
	.ndo_set_vf_link_state = ts_vf_link_state, .ndo_get_vf_config = ts_vf_config,
};

static void ts_setup(struct net_device *dev)
{
	ether_setup(dev);
	eth_hw_addr_random(dev);
	dev->needs_free_netdev = true;
	dev->pcpu_stat_type = NETDEV_PCPU_STAT_TSTATS;
	dev->priv_flags &= ~IFF_TX_SKB_SHARING;
	dev->priv_flags |= IFF_LIVE_ADDR_CHANGE | IFF_NO_QUEUE;
	dev->lltx = true;
	dev->max_mtu = 9216;
}

static struct net_device *ts_netdev(struct ts_port *p, bool rep)
{
	struct net_device *dev;
	char name[IFNAMSIZ];

	snprintf(name, sizeof(name), rep ? "simr%u" : "simf%u", p->index);
	dev = alloc_netdev(sizeof(struct ts_priv), name, NET_NAME_USER, ts_setup);
	if (!dev)
		return NULL;
	((struct ts_priv *)netdev_priv(dev))->port = p;
	dev->netdev_ops = rep ? &ts_rep_ops : &ts_fn_ops;
	dev->ethtool_ops = rep ? &ts_rep_ethtool : &ts_fn_ethtool;
	if (rep) {
		dev->hw_features |= NETIF_F_HW_TC;
		dev->features |= NETIF_F_HW_TC;
		if (ts_pdev)
			SET_NETDEV_DEV(dev, &ts_pdev->dev);
	}
	if (register_netdev(dev)) {
		free_netdev(dev);
		return NULL;
	}
	return dev;
}

/* makes a port's representor, or takes it away with all that is in the table for it */
static int ts_set_rep(struct ts_port *p, bool there)
{
	struct net_device *rep = p->rep;
	uint i;

	if (there == !!rep)
		return 0;
	if (there) {
		WRITE_ONCE(p->rep, ts_netdev(p, true));
		return p->rep ? 0 : -ENOMEM;
	}
	WRITE_ONCE(p->rep, NULL);
	synchronize_net();
	unregister_netdev(rep); /* tc's entries go with its qdisc */
	for (i = 0; i < rx_rules; i++)
		if (p->rules[i].flow_type)
			ts_remove(p, ts_rx_cookie(i));
	memset(p->rules, 0, rx_rules * sizeof(*p->rules));
	p->min_rate = p->link_state = 0;
	netif_carrier_on(p->fn);
	return 0;
}

/* whether the port's VF is there; without a PCI function all are */
static bool ts_has_vf(struct ts_port *p)
{
	return !ts_pdev || !p->index || p->index <= pci_num_vf(ts_pdev);
}

static int ts_apply_mode(u16 mode)
{
	int err = 0;
	uint i;

	for (i = 0; i < ports && !err; i++)
		err = ts_set_rep(&ts_ports[i], mode == DEVLINK_ESWITCH_MODE_SWITCHDEV && ts_has_vf(&ts_ports[i]));
	if (!err)
		ts_mode = mode;
	return err;
}

/* VFs come and go as devices of the bus, with the PF's driver at work */
static int ts_vf_event(struct notifier_block *nb, unsigned long event, void *data)
{
	struct pci_dev *vf = to_pci_dev(data);
	int index;

	if (!vf->is_virtfn || vf->physfn != ts_pdev || (event != BUS_NOTIFY_ADD_DEVICE && event != BUS_NOTIFY_DEL_DEVICE))
		return NOTIFY_DONE;
	index = pci_iov_vf_id(vf) + 1;
	if (index < 1 || index >= ports)
		return NOTIFY_DONE;
	guard(mutex)(&ts_mode_lock);
	if (ts_mode == DEVLINK_ESWITCH_MODE_SWITCHDEV)
		ts_set_rep(&ts_ports[index], event == BUS_NOTIFY_ADD_DEVICE);
	return NOTIFY_OK;
}

/* ---- devlink ---- */

static int ts_mode_get(struct devlink *d, u16 *mode)
{
	*mode = ts_mode;
	return 0;
}

static int ts_mode_set(struct devlink *d, u16 mode, struct netlink_ext_ack *extack)
{
	if (mode != DEVLINK_ESWITCH_MODE_LEGACY && mode != DEVLINK_ESWITCH_MODE_SWITCHDEV) {
		NL_SET_ERR_MSG_MOD(extack, "unsupported mode");
		return -EOPNOTSUPP;
	}
	guard(mutex)(&ts_mode_lock);
	if (mode == ts_mode)
		return 0;
	if (mode_needs_no_vfs && pci_num_vf(ts_pdev)) {
		NL_SET_ERR_MSG_MOD(extack, "the mode changes only without VFs");
		return -EOPNOTSUPP;
	}
	return ts_apply_mode(mode);
}

static int ts_info_get(struct devlink *d, struct devlink_info_req *req, struct netlink_ext_ack *extack)
{
	return devlink_info_version_running_put(req, "fw.version", "1.0");
}

static const struct devlink_ops ts_devlink_ops = {
	.eswitch_mode_get = ts_mode_get, .eswitch_mode_set = ts_mode_set, .info_get = ts_info_get,
};

/* ---- the module ---- */

static void ts_exit(void)
{
	uint i;

	if (ts_devlink) {
		devlink_unregister(ts_devlink);
		devlink_free(ts_devlink);
	}
	if (ts_vf_notifier.notifier_call)
		bus_unregister_notifier(&pci_bus_type, &ts_vf_notifier);
	for (i = 0; ts_ports && i < ports; i++) {
		ts_set_rep(&ts_ports[i], false);
		if (ts_ports[i].fn)
			unregister_netdev(ts_ports[i].fn);
		kfree(ts_ports[i].rules);
	}
	kfree(ts_ports);
	pci_dev_put(ts_pdev);
	rcu_barrier();
}

static int __init ts_find_pci(void)
{
	uint domain, bus, slot, function;

	if (!pci)
		return 0;
	if (sscanf(pci, "%x:%x:%x.%x", &domain, &bus, &slot, &function) != 4)
		return -EINVAL;
	ts_pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, function));
	return ts_pdev ? 0 : -ENODEV;
}

static int __init ts_init_ports(void)
{
	uint i;

	ts_ports = kcalloc(ports, sizeof(*ts_ports), GFP_KERNEL);
	if (!ts_ports)
		return -ENOMEM;
	for (i = 0; i < ports; i++) {
		struct ts_port *p = &ts_ports[i];

		p->index = i;
		INIT_LIST_HEAD(&p->masks);
		p->rules = kcalloc(rx_rules, sizeof(*p->rules), GFP_KERNEL);
		p->fn = p->rules ? ts_netdev(p, false) : NULL;
		if (!p->fn)
			return -ENOMEM;
	}
	return 0;
}

static int __init ts_init(void)
{
	struct flow_dissector_key keys[ARRAY_SIZE(ts_fields)];
	int err;
	uint i;

	if (!ports || ports > MAX_PORTS || !rx_rules || rx_rules > 4096)
		return -EINVAL;
	for (i = 0; i < ARRAY_SIZE(ts_fields); i++)
		keys[i] = (struct flow_dissector_key){ .key_id = ts_fields[i].id, .offset = ts_fields[i].offset };
	skb_flow_dissector_init(&ts_dissector, keys, ARRAY_SIZE(keys));
	err = ts_find_pci();
	if (!err)
		err = ts_init_ports();
	if (!err)
		err = ts_apply_mode(ts_mode);
	if (!err && ts_pdev) {
		ts_vf_notifier.notifier_call = ts_vf_event;
		err = bus_register_notifier(&pci_bus_type, &ts_vf_notifier);
	}
	if (!err && ts_pdev) {
		ts_devlink = devlink_alloc(&ts_devlink_ops, sizeof(u32), &ts_pdev->dev);
		if (ts_devlink)
			devlink_register(ts_devlink);
		else
			err = -ENOMEM;
	}
	if (err)
		ts_exit();
	return err;
}

module_init(ts_init);
module_exit(ts_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("NIC with an eSwitch and a bounded match table, for tests");
