package lab

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/netns"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
	"github.com/bladeflow/bladeflow/offload/softnic"
)

// Uplink is the port of a blade's physical function; its VFs follow it.
const Uplink flow.Port = 1

// Blade is one blade of a lab: a host with one card of one physical function.
type Blade struct {
	Name      string // b1, b2, …
	Number    int    // from 1
	Ports     *flow.Ports
	Attached  []*Attachment // of port 1, 2, …; see [Blade.At]
	Workloads []*Workload   // of VF 0, 1, …
	Card      *netns.NS     // where the card's netdevs are
	Host      *netns.NS     // the blade's own namespace: representors
	Hardware  Hardware      // nil iff Config.Bare
	NIC       *softnic.NIC  // what Hardware is; nil if Config.Bare or Config.Plug said so
	PinDir    string        // of the card, for softnic.Open
	SysRoot   string        // a tree like /, with the sys/ of a blade that has such a card
}

// Attachment is one port of a blade: the netdevs it is made of, and what is seen
// there.
type Attachment struct {
	Port        flow.Port
	Name        string            // as in Blade.Ports
	Workload    *Workload         // nil for the uplink
	Outside     Netdev            // eth0, or the uplink's end in the fabric
	Front       Netdev            // v0, p0: the card's side of that cable
	Back        Netdev            // r0, ru: the card's side of the representor
	Representor Netdev            // rep0, uprep
	Leaves      *observe.Observer // what left the port to the outside
	Kernel      *observe.Observer // what the blade's kernel got from the representor
}

// layout names the ports and netdevs of a blade whose namespaces exist.
func (b *Blade) layout(wire Netdev) {
	b.Attached = []*Attachment{{Port: Uplink, Name: "nic0/pf0", Outside: wire, Front: Netdev{NS: b.Card, Name: "p0"},
		Back: Netdev{NS: b.Card, Name: "ru"}, Representor: Netdev{NS: b.Host, Name: "uprep"}}}
	for vf, w := range b.Workloads {
		b.Attached = append(b.Attached, &Attachment{
			Port: Uplink + 1 + flow.Port(vf), Name: fmt.Sprintf("nic0/pf0/vf%d", vf), Workload: w, Outside: w.Eth0,
			Front:       Netdev{NS: b.Card, Name: fmt.Sprintf("v%d", vf)},
			Back:        Netdev{NS: b.Card, Name: fmt.Sprintf("r%d", vf)},
			Representor: Netdev{NS: b.Host, Name: fmt.Sprintf("rep%d", vf)},
		})
	}
	names := make([]string, len(b.Attached))
	for i, p := range b.Attached {
		names[i] = p.Name
	}
	b.Ports = flow.NewPorts(names...)
}

// At returns what is attached to a port, which must be one of the blade's.
func (b *Blade) At(p flow.Port) *Attachment { return b.Attached[p-1] }

// Switch returns the static switch of the blade: each workload's MAC at its port,
// untagged and in the VLANs given, and everything else at the uplink.
func (b *Blade) Switch(vlans ...uint16) (*flow.Switch, error) {
	var stations []flow.Station
	for _, vlan := range append([]uint16{0}, vlans...) {
		for _, p := range b.Attached {
			if p.Workload != nil {
				stations = append(stations, flow.Station{VLAN: vlan, MAC: p.Workload.MAC, Port: p.Port})
			}
		}
	}
	return flow.NewSwitch(Uplink, stations...)
}

// Sender returns a sender of frames that come in by this port: from the workload's
// eth0, or from the wire.
func (p *Attachment) Sender() (*traffic.Sender, error) {
	return traffic.Open(p.Outside.NS, p.Outside.Name)
}

// HostSender returns a sender of frames that the blade's own kernel sends by this
// port's representor: they leave the port whatever the table says.
func (p *Attachment) HostSender() (*traffic.Sender, error) {
	return traffic.Open(p.Representor.NS, p.Representor.Name)
}
