package flow

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Port is a logical port of one blade, numbered from 1 in the order of its
// [Ports]. Zero is no port. Only the agent knows which netdev a port is.
type Port uint16

// MaxPorts is how many ports one blade can have.
const MaxPorts = 1<<16 - 1

// Ports names the ports of one blade: `NIC/pfN`, `NIC/pfN/vfN`, or a vNIC's name.
// Port n has the n-th name. The zero value has no ports. A Ports is immutable once
// shared; it is grown only while a table is being read, see [Ports.Declare].
type Ports struct {
	names []string
	full  map[string]Port   // by full name
	short map[string][]Port // by last part, and "uplink"
	open  bool
}

// NewPorts names ports 1, 2, … of a blade.
func NewPorts(names ...string) *Ports {
	p := &Ports{}
	for _, n := range names {
		p.add(n)
	}
	return p
}

// OpenPorts returns an empty name table in which every name asked for becomes a
// port, numbered in the order of asking. It serves where rules are read without a
// blade at hand, as `rules check` does.
func OpenPorts() *Ports { return &Ports{open: true} }

// Declare returns the port called name, adding it if it is new; 0 if all
// [MaxPorts] are taken.
func (p *Ports) Declare(name string) Port {
	if n, ok := p.full[name]; ok {
		return n
	}
	return p.add(name)
}

func (p *Ports) add(name string) Port {
	if len(p.names) == MaxPorts {
		return 0
	}
	if p.full == nil {
		p.full, p.short = map[string]Port{}, map[string][]Port{}
	}
	p.names = append(p.names, name)
	n := Port(len(p.names))
	if _, twice := p.full[name]; !twice {
		p.full[name] = n
	}
	last := name[strings.LastIndexByte(name, '/')+1:]
	p.short[last] = append(p.short[last], n)
	if strings.HasPrefix(last, "pf") && last != name {
		p.short["uplink"] = append(p.short["uplink"], n)
	}
	return n
}

// Len returns the number of ports; they are 1 … Len.
func (p *Ports) Len() int {
	if p == nil {
		return 0
	}
	return len(p.names)
}

// Name returns the full name of a port, or #NUMBER for one that has no name or one
// that texts could not carry (see [Ports.Find]).
func (p *Ports) Name(n Port) string {
	if p == nil || n == 0 || int(n) > len(p.names) || !portName(p.names[n-1]) {
		return fmt.Sprintf("#%d", n)
	}
	return p.names[n-1]
}

// portName reports whether s can be a port's name in every text form: letters,
// digits and . _ / - @, and not like a number in hexadecimal.
func portName(s string) bool {
	if strings.HasPrefix(s, "0x") {
		return false
	}
	for _, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case c == '.', c == '_', c == '/', c == '-', c == '@':
		default:
			return false
		}
	}
	return s != ""
}

// Find returns the port that a name means: the full name; a short one (its last
// part, `vf0`, or `uplink` for a physical function) where only one port has it; or
// #NUMBER, which needs no name. A nil Ports has no names.
func (p *Ports) Find(name string) (Port, error) {
	if digits, ok := strings.CutPrefix(name, "#"); ok {
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil {
			return 0, &Fault{Code: "E_PORT_UNKNOWN", What: fmt.Sprintf("port %q", name), Why: "not a port number", Remedy: "use #1 to #65535"}
		}
		return Port(n), nil
	}
	if p == nil {
		p = &Ports{}
	}
	if n, ok := p.full[name]; ok {
		return n, nil
	}
	found := p.short[name]
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) == 0 && p.open:
		return p.declare(name)
	case len(found) == 0:
		remedy := "name the ports of the blade first"
		if len(p.names) > 0 {
			remedy = "use one of " + p.list(1, 16)
		}
		return 0, &Fault{Code: "E_PORT_UNKNOWN", What: fmt.Sprintf("port %q", name), Why: "this blade has no such port", Remedy: remedy}
	}
	var all []string
	for _, n := range found {
		all = append(all, p.Name(n))
	}
	return 0, &Fault{Code: "E_PORT_AMBIGUOUS", What: fmt.Sprintf("port %q", name), Why: "several ports end in this name",
		Remedy: "use one of " + strings.Join(all, ", ")}
}

func (p *Ports) declare(name string) (Port, error) {
	if !portName(name) {
		return 0, &Fault{Code: "E_PORT_NAME", What: fmt.Sprintf("port %q", name), Why: "not a name for a port", Remedy: "use letters, digits and . _ / - @"}
	}
	if n := p.Declare(name); n != 0 {
		return n, nil
	}
	return 0, &Fault{Code: "E_PORT_NAME", What: fmt.Sprintf("port %q", name), Why: fmt.Sprintf("there are %d ports already", MaxPorts), Remedy: "use fewer ports"}
}

// list names the ports from first on, at most limit of them.
func (p *Ports) list(first Port, limit int) string {
	from := p.names[first-1:]
	if len(from) <= limit {
		return strings.Join(from, ", ")
	}
	return fmt.Sprintf("%s … (%d in all)", strings.Join(from[:limit], ", "), len(p.names))
}

// Names returns the full names in the order of the ports.
func (p *Ports) Names() []string {
	if p == nil {
		return nil
	}
	return slices.Clone(p.names)
}
