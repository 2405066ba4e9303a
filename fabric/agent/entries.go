package agent

import (
	"context"
	"fmt"
	"net"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// CardEntries reads the table of a real card of this machine, by a function's name or PCI
// address, and changes nothing. Entries of others are of class foreign; those with
// bladeflow's mark are ours while an agent runs on the card, and orphaned otherwise. No
// agent is asked.
func CardEntries(ctx context.Context, function string) ([]EntryStatus, error) {
	inv, err := discover.Glance()
	if err != nil {
		return nil, err
	}
	pf, _, err := findPF(inv, "function", function)
	if err != nil {
		return nil, err
	}
	if pf.Netdev == nil || pf.Netdev.SwitchID == "" {
		return nil, &flow.Fault{Code: "E_ESWITCH", What: pf.Name, Why: "its eSwitch has no ports that software sees, and so no filters", Remedy: fmt.Sprintf("if the card is to hold entries: devlink dev eswitch set pci/%s mode switchdev", pf.PCI)}
	}
	names := inv.PortNames()
	ports := flow.NewPorts(names...)
	var at []tcflower.Port
	for i, name := range names {
		if dev, ok := inv.Representor(name); ok && dev.SwitchID == pf.Netdev.SwitchID {
			link, err := net.InterfaceByName(dev.Name)
			if err != nil {
				return nil, fmt.Errorf("port %s: %w", name, err)
			}
			at = append(at, tcflower.Port{Port: flow.Port(i + 1), Device: uint32(link.Index)})
		}
	}
	d, err := tcflower.Open(tcflower.Options{Model: device.Model{Name: pf.Driver}, Ports: at, Look: true})
	if err != nil {
		return nil, err
	}
	defer d.Close()
	have, err := d.Installed(ctx)
	if err != nil {
		return nil, mute(pf.Name, err)
	}
	ours := "ours"
	if !claimed(&pf) {
		ours = "orphaned"
	}
	out := []EntryStatus{}
	for i := range have {
		class := "foreign"
		if offload.Ours(have[i].ID) {
			class = ours
		}
		out = append(out, entryStatus(class, &have[i], ports))
	}
	return out, nil
}

// claimed reports whether an agent decides what the table of a function's eSwitch holds.
func claimed(pf *fabric.PF) bool {
	l, err := Claim(pf)
	if err != nil {
		return true
	}
	l.Close()
	return false
}

// entryStatus lists an entry.
func entryStatus(class string, e *flow.Entry, ports *flow.Ports) EntryStatus {
	return EntryStatus{ID: ruleID(flow.RuleID(e.ID)), Class: class, Kind: e.Kind.String(), Priority: e.Priority,
		Match: flow.FormatMatch(&e.Match, ports), Actions: flow.FormatActions(e.Actions, ports)}
}
