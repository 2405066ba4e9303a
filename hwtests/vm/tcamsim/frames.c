// SPDX-License-Identifier: GPL-2.0
/*
 * What frames go through: dissected once, looked up, and treated as the entry says.
 */
#include "tcamsim.h"

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
	uint len = skb->len + ETH_HLEN + (skb_vlan_tag_present(skb) ? VLAN_HLEN : 0), round;
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

netdev_tx_t ts_fn_xmit(struct sk_buff *skb, struct net_device *dev)
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

netdev_tx_t ts_rep_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_sw_netstats_tx_add(dev, 1, skb->len);
	skb_scrub_packet(skb, true);
	ts_deliver(skb, ts_port_of(dev)->fn);
	return NETDEV_TX_OK;
}
