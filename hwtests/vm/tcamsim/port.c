// SPDX-License-Identifier: GPL-2.0
/*
 * Netdevs of ports: workloads' sides and representors, which come and go with VFs and mode.
 */
#include "tcamsim.h"

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

/* A representor shows what its port has counted, from the other side; what of that the
 * host's CPU did are CPU hits.
 */
static void ts_rep_stats(struct net_device *dev, struct rtnl_link_stats64 *s)
{
	struct rtnl_link_stats64 fn = {};

	dev_fetch_sw_netstats(&fn, ts_port_of(dev)->fn->tstats);
	s->rx_packets = fn.tx_packets;
	s->rx_bytes = fn.tx_bytes;
	s->tx_packets = fn.rx_packets;
	s->tx_bytes = fn.rx_bytes;
}

static bool ts_has_offload_stats(const struct net_device *dev, int attr)
{
	return attr == IFLA_OFFLOAD_XSTATS_CPU_HIT;
}

static int ts_offload_stats(int attr, const struct net_device *dev, void *sp)
{
	if (attr != IFLA_OFFLOAD_XSTATS_CPU_HIT)
		return -EINVAL;
	dev_fetch_sw_netstats(sp, dev->tstats);
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

const struct net_device_ops ts_rep_ops = {
	.ndo_open = ts_open, .ndo_stop = ts_stop, .ndo_start_xmit = ts_rep_xmit,
	.ndo_set_mac_address = eth_mac_addr, .ndo_validate_addr = eth_validate_addr,
	.ndo_setup_tc = ts_setup_tc, .ndo_get_stats64 = ts_rep_stats,
	.ndo_has_offload_stats = ts_has_offload_stats, .ndo_get_offload_stats = ts_offload_stats,
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

struct net_device *ts_netdev(struct ts_port *p, bool rep)
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
int ts_set_rep(struct ts_port *p, bool there)
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

int ts_apply_mode(u16 mode)
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
int ts_vf_event(struct notifier_block *nb, unsigned long event, void *data)
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
