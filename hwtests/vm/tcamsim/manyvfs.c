// SPDX-License-Identifier: GPL-2.0
/*
 * manyvfs: a network device that says it is a PF with many VFs, and holds what it is told
 * of them. No card that QEMU emulates has more than seven, and what rtnetlink says of many
 * does not fit into one of its attributes.
 */
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/rtnetlink.h>

#define MOST 1024

static uint vfs = 300;
module_param(vfs, uint, 0644);
MODULE_PARM_DESC(vfs, "VFs that it says it has, at most 1024");

static struct ifla_vf_info mv_vf[MOST]; /* under rtnl */
static struct net_device *mv_netdev;

static int mv_num_vf(struct device *dev)
{
	return min(READ_ONCE(vfs), MOST);
}

static const struct bus_type mv_bus = { .name = "manyvfs", .num_vf = mv_num_vf };
static struct device *mv_parent;

static bool mv_has(int vf)
{
	return vf >= 0 && vf < mv_num_vf(NULL);
}

static int mv_get(struct net_device *dev, int vf, struct ifla_vf_info *info)
{
	if (!mv_has(vf))
		return -EINVAL;
	*info = mv_vf[vf];
	info->vf = vf;
	return 0;
}

#define SET(name, ...) \
	static int mv_set_##name(struct net_device *dev, int vf, __VA_ARGS__)

SET(mac, u8 *mac)
{
	if (!mv_has(vf))
		return -EINVAL;
	ether_addr_copy(mv_vf[vf].mac, mac);
	return 0;
}

SET(vlan, u16 vlan, u8 qos, __be16 proto)
{
	if (!mv_has(vf))
		return -EINVAL;
	mv_vf[vf].vlan = vlan;
	mv_vf[vf].qos = qos;
	mv_vf[vf].vlan_proto = proto;
	return 0;
}

SET(rate, int min, int max)
{
	if (!mv_has(vf))
		return -EINVAL;
	mv_vf[vf].min_tx_rate = min;
	mv_vf[vf].max_tx_rate = max;
	return 0;
}

SET(spoofchk, bool on)
{
	if (!mv_has(vf))
		return -EINVAL;
	mv_vf[vf].spoofchk = on;
	return 0;
}

SET(trust, bool on)
{
	if (!mv_has(vf))
		return -EINVAL;
	mv_vf[vf].trusted = on;
	return 0;
}

SET(link_state, int state)
{
	if (!mv_has(vf))
		return -EINVAL;
	mv_vf[vf].linkstate = state;
	return 0;
}

static netdev_tx_t mv_xmit(struct sk_buff *skb, struct net_device *dev)
{
	kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops mv_ops = {
	.ndo_start_xmit = mv_xmit, .ndo_get_vf_config = mv_get,
	.ndo_set_vf_mac = mv_set_mac, .ndo_set_vf_vlan = mv_set_vlan, .ndo_set_vf_rate = mv_set_rate,
	.ndo_set_vf_spoofchk = mv_set_spoofchk, .ndo_set_vf_trust = mv_set_trust,
	.ndo_set_vf_link_state = mv_set_link_state,
};

static void mv_setup(struct net_device *dev)
{
	ether_setup(dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &mv_ops;
	dev->needs_free_netdev = true;
}

static void mv_release(struct device *dev)
{
	kfree(dev);
}

static void mv_exit(void)
{
	if (mv_netdev)
		unregister_netdev(mv_netdev);
	if (mv_parent)
		device_unregister(mv_parent);
	bus_unregister(&mv_bus);
}

static int mv_add_parent(void)
{
	struct device *dev = kzalloc(sizeof(*dev), GFP_KERNEL);
	int err;

	if (!dev)
		return -ENOMEM;
	dev->init_name = "manyvfs0";
	dev->bus = &mv_bus;
	dev->release = mv_release;
	err = device_register(dev);
	if (err)
		put_device(dev);
	else
		mv_parent = dev;
	return err;
}

static int mv_add_netdev(void)
{
	struct net_device *dev = alloc_netdev(0, "many%d", NET_NAME_ENUM, mv_setup);
	int err;

	if (!dev)
		return -ENOMEM;
	SET_NETDEV_DEV(dev, mv_parent);
	err = register_netdev(dev);
	if (err)
		free_netdev(dev);
	else
		mv_netdev = dev;
	return err;
}

static int __init mv_init(void)
{
	uint i;
	int err;

	for (i = 0; i < MOST; i++) {
		mv_vf[i].spoofchk = 1;
		mv_vf[i].vlan_proto = htons(ETH_P_8021Q);
	}
	err = bus_register(&mv_bus);
	if (err)
		return err;
	err = mv_add_parent();
	if (!err)
		err = mv_add_netdev();
	if (err)
		mv_exit();
	return err;
}

module_init(mv_init);
module_exit(mv_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("a PF with many VFs, for tests");
