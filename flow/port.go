package flow

import (
	"fmt"
	"slices"
	"strings"
)

// Port is a logical port of one blade, numbered from 1 in the order of its
// [Ports]. Zero is no port. Only the agent knows which netdev a port is.
type Port uint16

// Ports names the ports of one blade: `NIC/pfN`, `NIC/pfN/vfN`, or a vNIC's name.
// Port n has the n-th name. The zero value has no ports. A Ports is immutable once
// shared; it is grown only while a table is being read, see [Ports.Declare].
type Ports struct {
	names []string
	open  bool
}

// NewPorts names ports 1, 2, … of a blade.
func NewPorts(names ...string) *Ports { return &Ports{names: slices.Clone(names)} }

// OpenPorts returns an empty name table in which every name asked for becomes a
// port, numbered in the order of asking. It serves where rules are read without a
// blade at hand, as `rules check` does.
func OpenPorts() *Ports { return &Ports{open: true} }

// Declare returns the port called name, adding it if it is new.
func (p *Ports) Declare(name string) Port {
	if i := slices.Index(p.names, name); i >= 0 {
		return Port(i + 1)
	}
	p.names = append(p.names, name)
	return Port(len(p.names))
}

// Len returns the number of ports; they are 1 … Len.
func (p *Ports) Len() int {
	if p == nil {
		return 0
	}
	return len(p.names)
}

// Name returns the full name of a port, or a number in brackets for one that has none.
func (p *Ports) Name(n Port) string {
	if p == nil || n == 0 || int(n) > len(p.names) {
		return fmt.Sprintf("[%d]", n)
	}
	return p.names[n-1]
}

// Find returns the port that a name means: the full name, or a short one (its last
// part, `vf0`, or `uplink` for a physical function) where only one port has it.
// Cost: linear in the number of ports.
func (p *Ports) Find(name string) (Port, error) {
	if i := slices.Index(p.names, name); i >= 0 {
		return Port(i + 1), nil
	}
	var found []Port
	for i, full := range p.names {
		last := full[strings.LastIndexByte(full, '/')+1:]
		uplink := name == "uplink" && strings.HasPrefix(last, "pf") && last != full
		if last == name || uplink {
			found = append(found, Port(i+1))
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case p.open && len(found) == 0 && name != "":
		return p.Declare(name), nil
	case len(found) == 0:
		return 0, &Fault{Code: "E_PORT_UNKNOWN", What: fmt.Sprintf("port %q", name), Why: "this blade has no such port",
			Remedy: "use one of " + strings.Join(p.names, ", ")}
	}
	var all []string
	for _, n := range found {
		all = append(all, p.Name(n))
	}
	return 0, &Fault{Code: "E_PORT_AMBIGUOUS", What: fmt.Sprintf("port %q", name), Why: "several ports end in this name",
		Remedy: "use one of " + strings.Join(all, ", ")}
}
