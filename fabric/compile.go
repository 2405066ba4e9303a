package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Problem. A blade gets one table, made of rule sets that were written without
// knowing where their workloads live. The same wanted state must always give the
// same table, and a change somewhere must not touch blades it does not concern.
//
// Which sets. A set of tier tenant holds on the blades that have a profile naming it;
// the other tiers are the operator's and hold on all blades.
//
// What a port's name means, in this order:
//   - `profile/vnic`: the port that vNIC has on this blade;
//   - `vnic`, a name without slash that a profile using the set has for a vNIC: that
//     profile's. The rule is written out once for each such profile on the blade, as
//     `set/rule@profile`; the ID is of the set and `rule@profile`. So a set can serve
//     as a template, and who else uses it changes neither ID nor counters;
//   - `uplink`: where the blade's switch sends unknown addresses;
//   - a port of the blade, as [flow.Ports.Find] reads it.
//
// A rule for packets from a port that is elsewhere matches nothing here and is left
// out. A rule that sends to a vNIC elsewhere is refused: it would need a wire to it.
//
// Networks become stations: each vNIC of the blade, at its network's VLAN. Where a
// packet for another blade's vNIC goes needs no station: unknown goes to the uplink.
//
// Invariant. The content depends on the blade, its ports, the sets that hold on it
// and the profiles that are on it, and on nothing else. What there is elsewhere only
// decides whether a name that means nothing here is a mistake.
//
// Measured on one core: 200,000 rules on 200 blades in 0.4 s, digests and the search
// for ties included.

// Compiled is a content, or why there is none.
type Compiled struct {
	Content
	Err error
}

// Compile makes the content of one blade, whose inventory says which ports it has. A
// *[flow.Fault] says which sets cannot hold together on it, or which VF is not there.
// The spec must be valid. To compile many blades, use [CompileAll].
func Compile(s Spec, id BladeID, inv Inventory) (Content, error) {
	return newCompiler(s).blade(id, inv)
}

// CompileAll compiles every blade of s that was ever seen.
func CompileAll(s Spec, seen Snapshot) map[BladeID]Compiled {
	c := newCompiler(s)
	out := map[BladeID]Compiled{}
	for id := range s.Blades {
		if b, ok := seen.Blades[id]; ok {
			content, err := c.blade(id, b.Inventory)
			out[id] = Compiled{content, err}
		}
	}
	return out
}

// Changed returns, in order, the blades of b that get another content by b than by a,
// or another reason for having none: those that need a new generation.
func Changed(a, b Spec, seen Snapshot) []BladeID {
	before, after := CompileAll(a, seen), CompileAll(b, seen)
	why := func(c Compiled) string {
		if c.Err != nil {
			return c.Err.Error()
		}
		return ""
	}
	var out []BladeID
	for id, now := range after {
		if was, had := before[id]; !had || was.Digest != now.Digest || why(was) != why(now) {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// compiler is a spec, indexed for compiling.
type compiler struct {
	Spec
	sets  []*RuleSet                 // by tier and name
	vnics map[string]map[string]bool // for each set, the names of vNICs of all profiles that use it
	bound map[BladeID][]VNICName     // in order
}

func newCompiler(s Spec) *compiler {
	c := &compiler{Spec: s, vnics: map[string]map[string]bool{}, bound: map[BladeID][]VNICName{}}
	for _, r := range s.RuleSets {
		c.sets = append(c.sets, &r)
		c.vnics[r.Name] = map[string]bool{}
	}
	slices.SortFunc(c.sets, func(a, b *RuleSet) int { return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(a.Name, b.Name)) })
	for _, p := range s.Profiles {
		for _, set := range p.RuleSets {
			for _, v := range p.VNICs {
				if names := c.vnics[set]; names != nil {
					names[v.Name] = true
				}
			}
		}
	}
	for name, vf := range s.Assignments {
		c.bound[vf.Blade] = append(c.bound[vf.Blade], name)
	}
	for _, names := range c.bound {
		slices.SortFunc(names, VNICName.Compare)
	}
	return c
}

func (c *compiler) blade(id BladeID, inv Inventory) (Content, error) {
	out := Content{Blade: id}
	b := binder{compiler: c, blade: id, ports: inv.Ports(), here: map[VNICName]flow.Port{}, users: map[string][]string{}}
	uplink, err := b.findUplink(c.Blades[id], inv)
	if err != nil {
		return out, err
	}
	var stations []flow.Station
	for _, name := range c.bound[id] {
		v, _ := c.VNIC(name)
		vf, port, err := c.locate(name, inv, b.ports)
		if err != nil {
			return out, err
		}
		b.place(name, port)
		set := c.setting(v)
		stations = append(stations, flow.Station{VLAN: set.VLAN, MAC: set.MAC, Port: port})
		out.VNICs = append(out.VNICs, Bound{name, vf, port, set})
	}
	slices.SortFunc(stations, func(a, b flow.Station) int { return cmp.Compare(a.Port, b.Port) })
	slices.SortFunc(out.VNICs, func(a, b Bound) int { return cmp.Compare(a.Port, b.Port) })
	out.Table.Ports = b.ports
	if out.Table.Switch, err = flow.NewSwitch(uplink, stations...); err != nil {
		return out, err
	}
	if out.Table.Rules, out.Table.Default, err = b.rules(); err != nil {
		return out, err
	}
	if _, err := flow.NewTable(out.Table); err != nil {
		return out, b.at("", err)
	}
	out.Digest = out.Sum()
	return out, nil
}

// locate finds the VF of a vNIC and its port.
func (c *compiler) locate(name VNICName, inv Inventory, ports *flow.Ports) (VFID, flow.Port, error) {
	id := c.Assignments[name]
	if pf, ok := inv.PF(id.PF); ok {
		if vf, ok := pf.VF(id.Index); ok {
			port, err := ports.Find(vf.Name)
			return id, port, err
		}
	}
	return id, 0, fault("E_VF_UNKNOWN", "vNIC "+name.String(), fmt.Sprintf("blade %s has no VF %d of %s, serial %q", id.Blade, id.Index, id.PF.PCI, id.PF.Serial),
		"move the profile, or bring the card back")
}

// binder gives the names of ports their meaning on one blade.
type binder struct {
	*compiler
	blade  BladeID
	ports  *flow.Ports
	uplink flow.Port
	here   map[VNICName]flow.Port // the vNICs of this blade
	users  map[string][]string    // for each set, the profiles of this blade that use it, in order
}

// place notes a vNIC of the blade. They come in order.
func (b *binder) place(name VNICName, port flow.Port) {
	b.here[name] = port
	for _, set := range b.Profiles[name.Profile].RuleSets {
		if users := b.users[set]; len(users) == 0 || users[len(users)-1] != name.Profile {
			b.users[set] = append(users, name.Profile)
		}
	}
}

func (b *binder) findUplink(blade Blade, inv Inventory) (flow.Port, error) {
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			if blade.Uplink == "" || blade.Uplink == p.Name {
				var err error
				b.uplink, err = b.ports.Find(p.Name)
				return b.uplink, err
			}
		}
	}
	if blade.Uplink == "" {
		return 0, nil
	}
	return 0, fault("E_PORT_UNKNOWN", fmt.Sprintf("blade %s: uplink %s", b.blade, blade.Uplink), "the blade has no such PF", "name one that its inventory has")
}

// rules returns the rules of all sets that hold on the blade, and the default that
// they agree on.
func (b *binder) rules() ([]flow.Rule, flow.Actions, error) {
	var rules []flow.Rule
	var def flow.Actions
	var from *RuleSet
	for _, set := range b.sets {
		if set.Tier == flow.TierTenant && len(b.users[set.Name]) == 0 {
			continue
		}
		for i := range set.Rules {
			more, err := b.bind(set, &set.Rules[i])
			if err != nil {
				return nil, nil, err
			}
			rules = append(rules, more...)
		}
		if set.Default == nil {
			continue
		}
		d, err := b.actions(set, "", set.Default)
		if err != nil {
			return nil, nil, b.at(": default of rule set "+set.Name, err)
		}
		if from != nil && !d.Equal(def) {
			return nil, nil, fault("E_DEFAULT", fmt.Sprintf("blade %s: rule sets %s and %s", b.blade, from.Name, set.Name),
				fmt.Sprintf("their defaults are %s and %s", flow.FormatActions(def, b.ports), flow.FormatActions(d, b.ports)), "leave one out or make them agree")
		}
		def, from = d, set
	}
	slices.SortFunc(rules, func(a, b flow.Rule) int { return a.Before(&b) })
	return rules, def, nil
}

// bind returns what a rule is on this blade: nothing, itself, or once for each of the
// set's users here.
func (b *binder) bind(set *RuleSet, rule *flow.Rule) ([]flow.Rule, error) {
	relative := b.relative(set, rule)
	if len(relative) == 0 {
		r, here, err := b.substitute(set, "", *rule)
		if err != nil || !here {
			return nil, err
		}
		return []flow.Rule{r}, nil
	}
	var out []flow.Rule
	for _, p := range b.users[set.Name] {
		if !b.has(p, relative) {
			continue
		}
		r, here, err := b.substitute(set, p, *rule)
		if err != nil {
			return nil, err
		}
		if here {
			_, name, _ := strings.Cut(rule.Name, "/")
			name += "@" + p
			r.ID, r.Name = flow.NewRuleID(set.UID, name), set.Name+"/"+name
			out = append(out, r)
		}
	}
	return out, nil
}

// relative returns the names in a rule that are a vNIC's in some profile that uses
// the set, wherever that is.
func (c *compiler) relative(set *RuleSet, rule *flow.Rule) []string {
	return slices.DeleteFunc(set.portNames(rule), func(name string) bool { return !c.vnics[set.Name][name] })
}

// has reports whether the profile has a vNIC of each name.
func (c *compiler) has(profile string, names []string) bool {
	for _, n := range names {
		if _, ok := c.VNIC(VNICName{profile, n}); !ok {
			return false
		}
	}
	return true
}

// portNames returns the names of the ports in a rule.
func (s *RuleSet) portNames(rule *flow.Rule) []string {
	var out []string
	add := func(p flow.Port) {
		if int(p) >= 1 && int(p) <= len(s.Ports) {
			out = append(out, s.Ports[p-1])
		}
	}
	add(flow.Port(rule.Match.Value.Get(flow.InPort)))
	for _, a := range rule.Actions {
		for _, p := range a.Ports {
			add(p)
		}
	}
	return out
}

// substitute returns the rule with this blade's ports; here is false if no packet of
// this blade comes from its in_port.
func (b *binder) substitute(set *RuleSet, profile string, r flow.Rule) (_ flow.Rule, here bool, err error) {
	in := ": rule " + r.Name
	switch mask := r.Match.Mask.Get(flow.InPort); mask {
	case 0:
	case flow.InPort.Max():
		p, err := b.port(set, profile, flow.Port(r.Match.Value.Get(flow.InPort)))
		if err != nil || p == 0 {
			return r, false, b.at(in, err)
		}
		r.Match.Pin(flow.InPort, uint64(p), mask)
	default:
		return r, false, b.at(in, fault("E_MATCH", "in_port", "a mask of ports means nothing in a fabric", "name one port"))
	}
	r.Actions, err = b.actions(set, profile, r.Actions)
	return r, true, b.at(in, err)
}

func (b *binder) actions(set *RuleSet, profile string, actions flow.Actions) (flow.Actions, error) {
	out := slices.Clone(actions)
	for i := range out {
		out[i].Ports = slices.Clone(out[i].Ports)
		for j, local := range out[i].Ports {
			p, err := b.port(set, profile, local)
			if err != nil {
				return nil, err
			}
			if p == 0 {
				return nil, fault("E_PORT_ELSEWHERE", "port "+set.Ports[local-1], fmt.Sprintf("it is not on blade %s", b.blade),
					"limit the rule by in_port to a vNIC of the same blade")
			}
			out[i].Ports[j] = p
		}
	}
	return out, nil
}

// port returns the port that the set's own port number means here, for a profile that
// uses the set; 0 if it is on another blade, or nowhere at the moment.
func (b *binder) port(set *RuleSet, profile string, local flow.Port) (flow.Port, error) {
	if local == 0 || int(local) > len(set.Ports) {
		return 0, fault("E_PORT_UNKNOWN", fmt.Sprintf("port #%d", local), "numbers of ports mean nothing in a fabric", "say the port's name")
	}
	name := set.Ports[local-1]
	vnic := VNICName{profile, name}
	if p, v, full := strings.Cut(name, "/"); full {
		vnic = VNICName{p, v}
	}
	if _, exists := b.VNIC(vnic); exists {
		return b.here[vnic], nil
	}
	if name == "uplink" && b.uplink != 0 {
		return b.uplink, nil
	}
	p, err := b.ports.Find(name)
	var f *flow.Fault
	if errors.As(err, &f) && f.Code == "E_PORT_UNKNOWN" && cardPort(name) {
		return 0, nil
	}
	return p, err
}

// cardPort reports whether name has the form of a card's port: nicN/pfN or nicN/pfN/vfN.
func cardPort(name string) bool {
	parts := strings.Split(name, "/")
	return (len(parts) == 2 || len(parts) == 3 && numbered(parts[2], "vf")) && numbered(parts[0], "nic") && numbered(parts[1], "pf")
}

// at says where something is wrong: on this blade, and in what.
func (b *binder) at(what string, err error) error { return within("blade "+string(b.blade)+what, err) }
