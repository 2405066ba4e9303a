package discover

import (
	"os"
	"path"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
)

// Counter is what has passed one function: of a PF what its link carried, of a VF what
// its workload received and sent.
type Counter struct {
	Port           string // nicN/pfN or nicN/pfN/vfN
	VF             bool
	Received, Sent flow.Counter
}

// Counters reads the traffic of an inventory's functions from the tree it was read from.
// A VF with a representor is counted there, the other way round: what the representor
// receives, the VF has sent; cards count on it what they answered themselves, too. A
// function whose netdev is in a guest and that has no representor is left out, as is one
// whose counters cannot be read. Cost: four small reads a function.
func Counters(root string, inv fabric.Inventory) []Counter {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return nil
	}
	defer dir.Close()
	s := sysfs{fsys: filesOf(root, dir)}
	var out []Counter
	add := func(port string, dev *fabric.Netdev, vf, mirrored bool) {
		if dev == nil {
			return
		}
		at := path.Join(netDir, dev.Name, "statistics")
		if !s.exists(path.Join(at, "rx_bytes")) {
			return
		}
		read := func(name string) uint64 { return uint64(s.number(path.Join(at, name), 0, 1<<63-1, 0)) }
		c := Counter{Port: port, VF: vf, Received: flow.Counter{Packets: read("rx_packets"), Bytes: read("rx_bytes")}, Sent: flow.Counter{Packets: read("tx_packets"), Bytes: read("tx_bytes")}}
		if mirrored {
			c.Received, c.Sent = c.Sent, c.Received
		}
		out = append(out, c)
	}
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			add(p.Name, p.Netdev, false, false)
			for _, v := range p.VFs {
				if v.Representor != nil {
					add(v.Name, v.Representor, true, true)
				} else {
					add(v.Name, v.Netdev, true, false)
				}
			}
		}
	}
	return out
}
