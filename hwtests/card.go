package hwtests

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// card is a real card of this machine under test: one PF in switchdev mode, with VFs that
// nobody uses.
type card struct {
	pf    fabric.PF
	id    fabric.PFID
	model device.Model
	free  []fabric.VF // with representors
	used  []string    // the others that somebody uses, and how
	vfs   *provision.Netlink
	owner io.Closer        // as long as it is open no agent puts entries in
	take  bool             // its VFs may be removed
	seen  fabric.Inventory // as it was read last: reading takes longer than setting a VF up
}

// blade is who this machine is to the planner of VFs.
const blade fabric.BladeID = "here"

// RunCard runs the scenarios of [CardScenarios] on the PF at a PCI address. What is missing
// for that is a *[flow.Fault] that says what to do; nothing was changed then.
func RunCard(ctx context.Context, pci string, c RunConfig) (*Run, error) {
	chosen, err := choose(c.Scenarios, CardScenarios())
	if err != nil {
		return nil, err
	}
	if c.card, err = openCard(pci, c); err != nil {
		return nil, err
	}
	defer c.card.close()
	tier := device.Proven
	if c.card.emulated() {
		tier = device.Emulated
	}
	r := newRun("nic:"+c.card.pf.PCI.String(), c.card.model.Name, tier, c.Terms)
	r.Status.NIC = c.card.tested()
	return r, r.run(ctx, chosen, c.Terms)
}

// machineCard is the card of the test bed's machine.
const machineCard = "0000:01:00.0"

// RunMachine runs inside the machine of hwtests/vm all scenarios: first those of a real
// card, on the machine's own, then those on the emulated chassis.
func RunMachine(ctx context.Context, c RunConfig) (*Run, error) {
	chosen, err := choose(c.Scenarios, CardScenarios(), Scenarios())
	if err != nil {
		return nil, err
	}
	isCard := func(s Scenario) bool {
		return slices.ContainsFunc(CardScenarios(), func(o Scenario) bool { return o.Name == s.Name })
	}
	if c.Plug, err = plugOf(c.Card); err != nil {
		return nil, err
	}
	c.TakeVFs = true
	if c.card, err = openCard(machineCard, c); err != nil {
		return nil, err
	}
	defer c.card.close()
	r := newRun("vm", c.Card, device.Emulated, c.Terms)
	r.Status.NIC = c.card.tested()
	err = r.run(ctx, slices.DeleteFunc(slices.Clone(chosen), func(s Scenario) bool { return !isCard(s) }), c.Terms)
	if err == nil {
		err = r.run(ctx, slices.DeleteFunc(chosen, isCard), c.Terms)
	}
	return r, err
}

func (k *card) close() {
	k.vfs.Links.Close()
	k.owner.Close()
}

func (k *card) tested() *TestedNIC {
	return &TestedNIC{Driver: k.pf.Driver, Firmware: k.pf.Firmware, Serial: k.id.Serial, Model: k.model.Name}
}

func openCard(pci string, c RunConfig) (*card, error) {
	address, err := fabric.ParsePCI(pci)
	if err != nil {
		return nil, &flow.Fault{Code: "E_USAGE", What: "--on nic:" + pci, Why: err.Error(), Remedy: "name the PCI address of a PF, as in nic:0000:3b:00.0: see bladeflow inventory", Err: err}
	}
	inv, err := discover.Glance()
	if err != nil {
		return nil, err
	}
	k, err := findCard(inv, address)
	if err != nil {
		return nil, err
	}
	if k.model, err = device.Load(cmp.Or(c.Device, k.modelName())); err != nil {
		return nil, err
	}
	if k.owner, err = agent.Claim(&k.pf); err != nil {
		return nil, &flow.Fault{Code: "E_CARD", What: "card " + address.String(), Why: "an agent decides what it holds: " + err.Error(), Remedy: "end that one, or test another card", Err: err}
	}
	links, err := netlink.NewHandle()
	if err != nil {
		return nil, errors.Join(err, k.owner.Close())
	}
	k.take, k.seen = c.TakeVFs, inv
	k.vfs = &provision.Netlink{Blade: blade, Links: links, Inventory: func() (fabric.Inventory, error) { return k.seen, nil }}
	if err := k.unused(); err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// findCard returns a PF that scenarios can run on, or what it lacks.
func findCard(inv fabric.Inventory, address fabric.PCI) (*card, error) {
	refuse := func(why, remedy string) error {
		return &flow.Fault{Code: "E_CARD", What: "card " + address.String(), Why: why, Remedy: remedy}
	}
	var known []string
	for _, nic := range inv.NICs {
		for _, pf := range nic.PFs {
			known = append(known, "nic:"+pf.PCI.String())
			if slices.ContainsFunc(pf.VFs, func(vf fabric.VF) bool { return vf.PCI == address }) {
				return nil, refuse("it is a VF", "name its PF, nic:"+pf.PCI.String())
			}
			if pf.PCI != address {
				continue
			}
			k := &card{pf: pf, id: fabric.PFID{PCI: pf.PCI, Serial: nic.Serial}}
			for _, vf := range pf.VFs {
				if vf.Representor != nil {
					k.free = append(k.free, vf)
				}
			}
			switch {
			case pf.Driver == "":
				return nil, refuse("no driver is bound to it", "bind the kernel's driver: a card that belongs to user space or a guest cannot be tested from here")
			case pf.Netdev == nil:
				return nil, refuse("it has no network device in this namespace", "run it in the namespace that the card is in")
			case pf.TotalVFs == 0:
				return nil, refuse("it has no SR-IOV", "turn SR-IOV on in the firmware of machine and card")
			case pf.ESwitch != fabric.ESwitchSwitchdev:
				return nil, refuse(fmt.Sprintf("its eSwitch is in %s mode: what rules miss does not come to software", cmp.Or(string(pf.ESwitch), "no known")), "devlink dev eswitch set pci/"+address.String()+" mode switchdev")
			case len(k.free) < 2:
				return nil, refuse(fmt.Sprintf("%d of its VFs have representors, two are needed", len(k.free)), "echo 2 > /sys/bus/pci/devices/"+address.String()+"/sriov_numvfs")
			}
			return k, nil
		}
	}
	if len(known) == 0 {
		return nil, refuse("this machine has no network card on PCI", "run the scenarios on the emulated chassis: --on lab or --on vm")
	}
	return nil, refuse("there is no network function of this address", "name one of "+strings.Join(known, ", "))
}

// unused takes VFs that somebody uses out of the free ones.
func (k *card) unused() error {
	taken, err := k.vfs.Read()
	if err != nil {
		return err
	}
	busy := map[int]bool{}
	for i := range k.pf.VFs {
		vf := &k.pf.VFs[i]
		how := ""
		if s, set := taken[k.vf(vf.Index)]; set {
			how = "is set up: " + s.Setting.String()
		} else if how, err = k.user(vf); err != nil {
			return err
		}
		if how != "" {
			busy[vf.Index], k.used = true, append(k.used, fmt.Sprintf("VF %d %s", vf.Index, how))
		}
	}
	k.free = slices.DeleteFunc(k.free, func(vf fabric.VF) bool { return busy[vf.Index] })
	if len(k.free) < 2 {
		return &flow.Fault{Code: "E_CARD", What: "card " + k.pf.PCI.String(), Why: "fewer than two of its VFs are free: " + strings.Join(k.used, ", "),
			Remedy: "test a card that nobody uses"}
	}
	return nil
}

// user says how somebody uses a VF whose settings nobody has touched, as guests and
// containers do that choose an address for themselves; empty if nobody can be seen to.
func (k *card) user(vf *fabric.VF) (string, error) {
	if vf.Driver != "" && vf.Netdev == nil {
		return "has driver " + vf.Driver + " and no network device here: a guest or another namespace has it", nil
	}
	for _, dev := range []*fabric.Netdev{vf.Netdev, vf.Representor} {
		if dev == nil {
			continue
		}
		link, err := k.vfs.Links.LinkByName(dev.Name)
		if err != nil {
			return "", fmt.Errorf("%s: %w", dev.Name, err)
		}
		if link.Attrs().MasterIndex != 0 {
			return "has " + dev.Name + " in a bridge or a bond", nil
		}
		addresses, err := k.vfs.Links.AddrList(link, netlink.FAMILY_ALL)
		if err != nil {
			return "", fmt.Errorf("addresses of %s: %w", dev.Name, err)
		}
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() {
				return "has " + dev.Name + " with address " + a.IPNet.String(), nil
			}
		}
	}
	return "", nil
}

func (k *card) vf(index int) fabric.VFID {
	return fabric.VFID{Blade: blade, PF: k.id, Index: index}
}

// emulated reports whether the card's eSwitch is the kernel module of the test bed.
func (k *card) emulated() bool { return k.pf.Netdev.SwitchID == simSwitch }

const simSwitch = "027463616d73696d"

// modelName is the device model that ships for the card.
func (k *card) modelName() string {
	if k.emulated() {
		return "tcamsim"
	}
	name, known := device.OfDriver(k.pf.Driver)
	if !known {
		return k.pf.Driver
	}
	return name
}

// outside returns the netdev that is at the other side of a VF's representor, empty if it
// is not here.
func (k *card) outside(vf fabric.VF) string {
	if k.emulated() { // what igb's own VFs send does not pass the module
		return fmt.Sprintf("simf%d", vf.Index+1)
	}
	if vf.Netdev == nil {
		return ""
	}
	return vf.Netdev.Name
}

// CardScenarios returns what runs on a real card: [RunCard].
func CardScenarios() []Scenario {
	return []Scenario{
		{"inventory", "what sysfs, netlink, devlink and the libraries say of the card agrees", runInventory},
		{"settings", "random settings of two free VFs are what the driver shows afterwards, and nothing is left of them", runSettings},
		{"entries", "entries put in are read back equal, what is refused has a reason, and nothing is left of them", runEntries},
		{"packets", "entries answer their packets and count them, and what none answers comes to software", runPackets},
		{"vfs", "VFs are created, set up, moved, reset and removed a hundred times, and nothing is left (with --take-vfs)", runVFs},
	}
}

func runInventory(_ context.Context, t Terms) (any, []string, error) {
	_, findings, err := discover.Live()
	if err != nil {
		return nil, nil, err
	}
	var wrong []string
	for _, f := range findings {
		if f.Code == "E_DISAGREE" && t.card.about(f.Object) {
			wrong = append(wrong, f.String())
		}
	}
	return map[string]any{"vfs": len(t.card.pf.VFs), "free": len(t.card.free), "eswitch": t.card.pf.ESwitch}, wrong, nil
}

// about reports whether something is a function or a netdev of the card.
func (k *card) about(object string) bool {
	devs := []*fabric.Netdev{k.pf.Netdev}
	functions := []string{k.pf.PCI.String()}
	for _, vf := range k.pf.VFs {
		devs, functions = append(devs, vf.Netdev, vf.Representor), append(functions, vf.PCI.String())
	}
	return slices.Contains(functions, filepath.Base(object)) ||
		slices.ContainsFunc(devs, func(d *fabric.Netdev) bool { return d != nil && d.Name == object })
}

// setting draws one that a vNIC may want, with its link off.
func setting(rng *rand.Rand) fabric.Setting {
	return fabric.Setting{MAC: 0x020000000000 | rng.Uint64N(1<<24), VLAN: uint16(rng.IntN(4095)), Trust: rng.IntN(2) == 0, Spoof: rng.IntN(2) == 0,
		QoS: fabric.QoS{Maximum: fabric.BitsPerSecond(10+rng.IntN(900)) * 1e6}}
}

func runSettings(ctx context.Context, t Terms) (any, []string, error) {
	const rounds = 10
	rng := rand.New(rand.NewPCG(t.Seed, 0x5e77))
	k := t.card
	var wrong []string
	for round := 0; round < rounds && ctx.Err() == nil; round++ {
		a, b := k.free[0], k.free[1]
		if round%2 == 1 {
			a, b = b, a
		}
		if err := k.move(a.Index, b.Index, setting(rng)); err != nil {
			wrong = append(wrong, fmt.Sprintf("round %d: %v", round, err))
		}
	}
	left, err := k.vfs.Read()
	for id, s := range left {
		if id.PF == k.id && s.Ours {
			wrong = append(wrong, fmt.Sprintf("left of it is %s: %s", id, s.Setting))
		}
	}
	return map[string]any{"rounds": rounds}, wrong, err
}

// move sets a VF up, moves that to another and resets both.
func (k *card) move(from, to int, s fabric.Setting) error {
	return errors.Join(k.connect(from, s), k.clear(from), k.connect(to, s), k.clear(to))
}

// connect sets a VF up and turns its link on. What its driver then shows is read back.
func (k *card) connect(index int, s fabric.Setting) error {
	on := s
	on.Traffic = true
	return errors.Join(k.do(fabric.Step{Kind: fabric.Configure, Setting: s}, index), k.do(fabric.Step{Kind: fabric.Connect, Setting: on}, index))
}

func (k *card) clear(index int) error { return k.do(fabric.Step{Kind: fabric.Clear}, index) }

func (k *card) do(step fabric.Step, index int) error {
	step.Blade, step.VF = blade, k.vf(index)
	if err := provision.Do(k.vfs, step); err != nil {
		return fmt.Errorf("%s: %w", step.Kind, err)
	}
	return nil
}
