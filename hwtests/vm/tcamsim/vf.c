// SPDX-License-Identifier: GPL-2.0
/*
 * VFs by the uplink's representor: handed on to the driver of the function; what that
 * does not have is held here.
 */
#include "tcamsim.h"

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

int ts_vf_mac(struct net_device *dev, int vf, u8 *mac)
{
	FORWARD(ndo_set_vf_mac, vf, mac);
}

int ts_vf_vlan(struct net_device *dev, int vf, u16 vlan, u8 qos, __be16 proto)
{
	FORWARD(ndo_set_vf_vlan, vf, vlan, qos, proto);
}

int ts_vf_spoofchk(struct net_device *dev, int vf, bool on)
{
	FORWARD(ndo_set_vf_spoofchk, vf, on);
}

int ts_vf_trust(struct net_device *dev, int vf, bool on)
{
	FORWARD(ndo_set_vf_trust, vf, on);
}

int ts_vf_rate(struct net_device *dev, int vf, int min, int max)
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

int ts_vf_link_state(struct net_device *dev, int vf, int state)
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

int ts_vf_config(struct net_device *dev, int vf, struct ifla_vf_info *info)
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
