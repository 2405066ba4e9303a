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
#include "tcamsim.h"

uint ports = 4;
module_param(ports, uint, 0444);
MODULE_PARM_DESC(ports, "ports, the uplink among them");
static char *pci;
module_param(pci, charp, 0444);
MODULE_PARM_DESC(pci, "the PCI function that has the VFs");
uint rx_rules = 64;
module_param(rx_rules, uint, 0444);
MODULE_PARM_DESC(rx_rules, "locations for ethtool rx rules on each port");
uint table_size = 64;
module_param(table_size, uint, 0644);
MODULE_PARM_DESC(table_size, "entries that fit");
uint mask_limit;
module_param(mask_limit, uint, 0644);
MODULE_PARM_DESC(mask_limit, "different masks that fit; 0: any number");
uint max_chain = 3;
module_param(max_chain, uint, 0644);
MODULE_PARM_DESC(max_chain, "the highest chain");
bool honour_prio = true;
module_param(honour_prio, bool, 0644);
MODULE_PARM_DESC(honour_prio, "lookups follow tc's priorities; if not, the age of masks");
unsigned long long key_caps = KEY(CONTROL) | KEY(BASIC) | KEY(ETH_ADDRS) | KEY(VLAN) |
	KEY(CVLAN) | KEY(IPV4_ADDRS) | KEY(IPV6_ADDRS) | KEY(PORTS) | KEY(TCP) | KEY(IP) |
	KEY(ICMP) | KEY(ARP);
module_param(key_caps, ullong, 0644);
MODULE_PARM_DESC(key_caps, "keys of this generation, a bit for each flow_dissector_key_id");
unsigned long long action_caps = ACT(ACCEPT) | ACT(DROP) | ACT(TRAP) | ACT(GOTO) |
	ACT(REDIRECT) | ACT(MIRRED) | ACT(REDIRECT_INGRESS) | ACT(MIRRED_INGRESS) |
	ACT(VLAN_PUSH) | ACT(VLAN_POP) | ACT(VLAN_MANGLE) | ACT(MANGLE) | ACT(CSUM) | ACT(POLICE);
module_param(action_caps, ullong, 0644);
MODULE_PARM_DESC(action_caps, "actions of this generation, a bit for each flow_action_id");
uint insert_us;
module_param(insert_us, uint, 0644);
MODULE_PARM_DESC(insert_us, "how long an insertion takes");
uint fail_every;
module_param(fail_every, uint, 0644);
MODULE_PARM_DESC(fail_every, "every n-th insertion fails with EIO; 0: none");
uint lie_every;
module_param(lie_every, uint, 0644);
MODULE_PARM_DESC(lie_every, "every n-th entry forwards what it should drop, or drops; 0: none");
ushort blind_dst_port;
module_param(blind_dst_port, ushort, 0644);
MODULE_PARM_DESC(blind_dst_port, "bits of destination ports that entries do not look at, whatever they say");
uint stats_ms;
module_param(stats_ms, uint, 0644);
MODULE_PARM_DESC(stats_ms, "how old counters may be");
uint counter_bits = 64;
module_param(counter_bits, uint, 0644);
MODULE_PARM_DESC(counter_bits, "width of counters, which wrap");
static bool mode_needs_no_vfs;
module_param(mode_needs_no_vfs, bool, 0644);
MODULE_PARM_DESC(mode_needs_no_vfs, "the eSwitch's mode changes only without VFs");
uint used;
module_param(used, uint, 0444);
MODULE_PARM_DESC(used, "entries that are in");

struct ts_port *ts_ports;
struct flow_dissector ts_dissector;
DEFINE_MUTEX(ts_mode_lock);
u16 ts_mode = DEVLINK_ESWITCH_MODE_SWITCHDEV;
struct pci_dev *ts_pdev;
static struct devlink *ts_devlink;
static struct notifier_block ts_vf_notifier;

const struct ts_field ts_fields[TS_FIELDS] = {
#define FIELD(ID, m) { FLOW_DISSECTOR_KEY_##ID, offsetof(struct ts_key, m), sizeof_field(struct ts_key, m) }
	FIELD(CONTROL, control), FIELD(BASIC, basic), FIELD(ETH_ADDRS, eth), FIELD(VLAN, vlan),
	FIELD(CVLAN, cvlan), FIELD(IPV4_ADDRS, ipv4), FIELD(IPV6_ADDRS, ipv6), FIELD(PORTS, port),
	FIELD(TCP, tcp), FIELD(IP, ip), FIELD(ICMP, icmp), FIELD(ARP, arp),
};

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
