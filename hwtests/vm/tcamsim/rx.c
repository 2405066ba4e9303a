// SPDX-License-Identifier: GPL-2.0
/*
 * ethtool: rx rules, the link and the driver's name.
 */
#include "tcamsim.h"

unsigned long ts_rx_cookie(u32 location)
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

const struct ethtool_ops ts_fn_ethtool = {
	.get_drvinfo = ts_drvinfo, .get_link = ethtool_op_get_link, .get_link_ksettings = ts_link_settings,
};

const struct ethtool_ops ts_rep_ethtool = {
	.get_drvinfo = ts_drvinfo, .get_link = ethtool_op_get_link, .get_link_ksettings = ts_link_settings,
	.get_rxnfc = ts_get_rxnfc, .set_rxnfc = ts_set_rxnfc,
};
