package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// A real card: its rules go through tc flower to the representors of its eSwitch. Software
// listens on the same netdevs, and a port whose netdev it has not is none of the device's:
// nobody would see what its entries miss.

// openNIC opens the card that the configuration names. Its links are open.
func (d *Daemon) openNIC(inv fabric.Inventory) (Device, error) {
	pf, nic, err := findPF(inv, "spec.device.nic", d.file.NIC)
	if err != nil {
		return Device{}, err
	}
	fault := func(code, why, remedy string, err error) error {
		return &flow.Fault{Code: code, What: fmt.Sprintf("spec.device.nic: %s (%s)", pf.Name, pf.PCI), Why: why, Remedy: remedy, Err: err}
	}
	if pf.ESwitch != fabric.ESwitchSwitchdev || pf.Netdev == nil {
		return Device{}, fault("E_ESWITCH", fmt.Sprintf("its eSwitch is in %s mode: what its entries miss would not come to software", cmp.Or(string(pf.ESwitch), "no known")),
			fmt.Sprintf("set it: devlink dev eswitch set pci/%s mode switchdev", pf.PCI), nil)
	}
	who, err := tcflower.Identify(pf.Netdev.Name)
	if err != nil {
		return Device{}, fault("E_DEVICE_DRIVER", err.Error(), "see that the driver is loaded", err)
	}
	name := d.file.Model
	if name == "" {
		var ok bool
		if name, ok = device.OfDriver(who.Driver); !ok {
			return Device{}, fault("E_DEVICE_DRIVER", "no model ships for cards of driver "+who.Driver, "name one as spec.device.model, or leave spec.device out: then all runs in software", nil)
		}
	}
	model, err := device.Load(name)
	if err != nil {
		return Device{}, err
	}
	owner, err := Claim(&pf)
	if err != nil {
		return Device{}, fault("E_DEVICE_CLAIMED", "it cannot be claimed: "+err.Error(), "end the other agent of it, or run this one as root", err)
	}
	d.closers = append(d.closers, owner.Close)
	mine := portsOf(inv, pf.Netdev.SwitchID, d.links.ports)
	if len(mine) == 0 {
		return Device{}, fault("E_PORTS", "none of the ports is one of its eSwitch", "name its representors in spec.ports", nil)
	}
	driver, err := tcflower.Open(tcflower.Options{Model: model, Find: func() []tcflower.Port { return d.links.found(mine) }})
	if err != nil {
		return Device{}, fault("E_DEVICE_DRIVER", err.Error(), "the kernel needs cls_flower and sch_ingress, and the agent CAP_NET_ADMIN", err)
	}
	d.closers = append(d.closers, driver.Close)
	ctx, cancel := context.WithTimeout(context.Background(), probeTime)
	defer cancel()
	answers, err := driver.Probe(ctx)
	if err != nil { // the card is as it is modelled, then, and refuses what it does not take
		d.log.Warn("the card was not asked for all that its model claims", "device", nic.Name, "error", err)
	}
	out := Device{Name: nic.Name, Driver: driver, Answers: answers, Card: device.Card{NIC: strings.TrimSpace(nic.Slot + " " + nic.Serial), Driver: who.Driver + " " + who.Kernel, Firmware: cmp.Or(who.Firmware, pf.Firmware)}}
	for _, f := range nic.PFs {
		if f.Netdev == nil || f.Netdev.SwitchID != pf.Netdev.SwitchID {
			continue
		}
		out.PFs = append(out.PFs, f.Name)
		if port, err := d.ports.Find(f.Name); err == nil && len(f.RDMA) > 0 {
			out.Unwatched = append(out.Unwatched, port)
		}
	}
	return out, nil
}

// probeTime is how long a card may take to answer for its model.
const probeTime = 20 * time.Second

// findPF finds a physical function by its name or its PCI address, which said names.
func findPF(inv fabric.Inventory, said, name string) (fabric.PF, fabric.NIC, error) {
	var all []string
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			if name == pf.Name || name == pf.PCI.String() {
				return pf, n, nil
			}
			all = append(all, fmt.Sprintf("%s (%s)", pf.Name, pf.PCI))
		}
	}
	return fabric.PF{}, fabric.NIC{}, &flow.Fault{Code: "E_NIC_UNKNOWN", What: said + ": " + name, Why: "the inventory has no such function",
		Remedy: "name one of " + cmp.Or(strings.Join(all, ", "), "none: this blade has no NIC that bladeflow knows")}
}

// portsOf returns the ports that are of the eSwitch with this ID, or will be when their
// functions are there again.
func portsOf(inv fabric.Inventory, id string, maps []PortMap) (out []flow.Port) {
	netdevs, functions := map[string]bool{}, []string{}
	note := func(d *fabric.Netdev) bool {
		here := d != nil && d.SwitchID == id
		if here {
			netdevs[d.Name] = true
		}
		return here
	}
	for _, n := range inv.NICs {
		for _, pf := range n.PFs {
			if note(pf.Netdev) {
				functions = append(functions, pf.Name)
			}
			for _, vf := range pf.VFs {
				note(vf.Representor)
			}
		}
	}
	for i, m := range maps {
		if netdevs[m.Netdev] || slices.ContainsFunc(functions, func(f string) bool { return m.Name == f || strings.HasPrefix(m.Name, f+"/") }) {
			out = append(out, flow.Port(i+1))
		}
	}
	return out
}

// found returns those of ports whose netdevs are there and open.
func (k *links) found(ports []flow.Port) (out []tcflower.Port) {
	for _, p := range ports {
		s := k.seats[p-1][0]
		s.mu.RLock()
		if s.ifindex != 0 {
			out = append(out, tcflower.Port{Port: p, Device: uint32(s.ifindex)})
		}
		s.mu.RUnlock()
	}
	return out
}

// claimsDir is where agents say whose tables they decide. Nobody but root can write there: a
// name that any process may take, as those of abstract sockets are, would let any keep agents
// out.
const claimsDir = "/run/bladeflow"

// Claim makes this process the one that decides what the table of a function's eSwitch
// holds, which it may share with others, until what it returns is closed or the process ends.
// The error says that another one does, or that it cannot be known.
func Claim(pf *fabric.PF) (io.Closer, error) { return claim(claimsDir, tableOfCard(pf)) }

// tableOfCard names the table that a function's entries go to.
func tableOfCard(pf *fabric.PF) string {
	if pf.Netdev != nil && pf.Netdev.SwitchID != "" {
		return pf.Netdev.SwitchID
	}
	return pf.PCI.String()
}

// claim locks a file in a directory that is made if it is not there. The kernel unlocks it with
// the process.
func claim(dir, table string) (io.Closer, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || st.Mode&0o022 != 0 || st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return nil, fmt.Errorf("%s is not a directory that root alone can write to", dir)
	}
	f, err := os.OpenFile(filepath.Join(dir, "eswitch-"+table+".lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%s is locked", f.Name())
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
