/* SPDX-License-Identifier: GPL-2.0 */
/* What the parts of tcamsim share; module.c says what it is. */
#ifndef TCAMSIM_H
#define TCAMSIM_H

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

struct ts_field {
	enum flow_dissector_key_id id;
	u16 offset, size;
};

#define TS_FIELDS 12 /* of ts_fields */
extern const struct ts_field ts_fields[TS_FIELDS];

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

/* parameters and state: module.c, table.c */
extern struct mutex ts_lock; /* guards the table, rules and seq */
extern struct ts_port *ts_ports;
extern struct flow_dissector ts_dissector;
extern struct mutex ts_mode_lock; /* guards the mode and which representors there are */
extern u16 ts_mode;
extern struct pci_dev *ts_pdev;
extern uint ports;
extern uint rx_rules;
extern uint table_size;
extern uint mask_limit;
extern uint max_chain;
extern bool honour_prio;
extern unsigned long long key_caps;
extern unsigned long long action_caps;
extern uint insert_us;
extern uint fail_every;
extern uint lie_every;
extern ushort blind_dst_port;
extern uint stats_ms;
extern uint counter_bits;
extern uint used;

/* table.c */
void ts_masked(struct ts_key *to, const struct ts_key *key, const struct ts_key *mask);
struct ts_entry *ts_lookup(struct ts_port *p, u32 chain, __be16 proto, const struct ts_key *key);
struct ts_entry *ts_find(struct ts_port *p, unsigned long cookie);
void ts_free(struct ts_entry *e);
int ts_insert(struct ts_entry *e, u32 chain, u32 prio, __be16 proto, const struct ts_key *mask, struct netlink_ext_ack *extack);
int ts_remove(struct ts_port *p, unsigned long cookie);

/* rules.c */
int ts_add_rule(struct ts_port *p, struct flow_rule *rule, unsigned long cookie, u32 chain, u32 prio, __be16 proto, struct netlink_ext_ack *extack);
int ts_setup_tc(struct net_device *dev, enum tc_setup_type type, void *data);

/* frames.c */
netdev_tx_t ts_fn_xmit(struct sk_buff *skb, struct net_device *dev);
netdev_tx_t ts_rep_xmit(struct sk_buff *skb, struct net_device *dev);

/* rx.c */
unsigned long ts_rx_cookie(u32 location);
extern const struct ethtool_ops ts_fn_ethtool;
extern const struct ethtool_ops ts_rep_ethtool;

/* vf.c */
int ts_vf_mac(struct net_device *dev, int vf, u8 *mac);
int ts_vf_vlan(struct net_device *dev, int vf, u16 vlan, u8 qos, __be16 proto);
int ts_vf_spoofchk(struct net_device *dev, int vf, bool on);
int ts_vf_trust(struct net_device *dev, int vf, bool on);
int ts_vf_rate(struct net_device *dev, int vf, int min, int max);
int ts_vf_link_state(struct net_device *dev, int vf, int state);
int ts_vf_config(struct net_device *dev, int vf, struct ifla_vf_info *info);

/* port.c */
struct net_device *ts_netdev(struct ts_port *p, bool rep);
int ts_set_rep(struct ts_port *p, bool there);
int ts_apply_mode(u16 mode);
int ts_vf_event(struct notifier_block *nb, unsigned long event, void *data);
extern const struct net_device_ops ts_rep_ops;

static inline struct ts_port *ts_port_of(struct net_device *dev)
{
	return ((struct ts_priv *)netdev_priv(dev))->port;
}

#endif
