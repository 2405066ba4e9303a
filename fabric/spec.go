package fabric

import (
	"maps"
	"slices"
)

// Spec is what is wanted of the fabric: one value, never changed once it is shared.
// Every change, a move and a revert too, makes another one. The keys of its maps are
// the names of what they hold. Names are unique in the fabric whatever the tenant,
// since ports and rules are named without it.
type Spec struct {
	Chassis     map[string]Chassis
	Blades      map[BladeID]Blade
	Networks    map[string]Network
	RuleSets    map[string]RuleSet
	Profiles    map[string]Profile
	Assignments Placement // of all profiles that are on a blade
}

// Placement says which VF each vNIC has.
type Placement map[VNICName]VFID

// WithChassis returns s with c added or replaced. Cost of this and its kin: a copy of
// one map.
func (s Spec) WithChassis(c Chassis) Spec {
	s.Chassis = with(s.Chassis, c.Name, c)
	return s
}

// WithBlade returns s with b added or replaced.
func (s Spec) WithBlade(b Blade) Spec {
	s.Blades = with(s.Blades, b.ID, b)
	return s
}

// WithNetwork returns s with n added or replaced.
func (s Spec) WithNetwork(n Network) Spec {
	s.Networks = with(s.Networks, n.Name, n)
	return s
}

// WithRuleSet returns s with r added or replaced.
func (s Spec) WithRuleSet(r RuleSet) Spec {
	s.RuleSets = with(s.RuleSets, r.Name, r)
	return s
}

// WithProfile returns s with p added or replaced, and with its vNICs at their place.
// An empty placement leaves the profile on no blade: saved, but off.
func (s Spec) WithProfile(p Profile, at Placement) Spec {
	s = s.WithoutProfile(p.Name)
	s.Profiles[p.Name] = p
	maps.Copy(s.Assignments, at)
	return s
}

// WithoutProfile returns s without the profile and its assignments.
func (s Spec) WithoutProfile(name string) Spec {
	s.Profiles = without(s.Profiles, func(n string) bool { return n == name })
	s.Assignments = without(s.Assignments, func(n VNICName) bool { return n.Profile == name })
	return s
}

// Moved returns s with the profile at another place; with an empty one it is off.
func (s Spec) Moved(profile string, to Placement) Spec {
	s.Assignments = without(s.Assignments, func(n VNICName) bool { return n.Profile == profile })
	maps.Copy(s.Assignments, to)
	return s
}

// WithoutNetwork returns s without the network.
func (s Spec) WithoutNetwork(name string) Spec {
	s.Networks = without(s.Networks, func(n string) bool { return n == name })
	return s
}

// WithoutRuleSet returns s without the rule set.
func (s Spec) WithoutRuleSet(name string) Spec {
	s.RuleSets = without(s.RuleSets, func(n string) bool { return n == name })
	return s
}

// WithoutBlade returns s without the blade.
func (s Spec) WithoutBlade(id BladeID) Spec {
	s.Blades = without(s.Blades, func(n BladeID) bool { return n == id })
	return s
}

func with[M ~map[K]V, K comparable, V any](m M, key K, value V) M {
	out := make(M, len(m)+1)
	maps.Copy(out, m)
	out[key] = value
	return out
}

func without[M ~map[K]V, K comparable, V any](m M, gone func(K) bool) M {
	out := make(M, len(m)+1)
	for k, v := range m {
		if !gone(k) {
			out[k] = v
		}
	}
	return out
}

// Place returns the profile's part of the assignments, empty if it is off.
func (s Spec) Place(profile string) Placement {
	out := Placement{}
	for _, v := range s.Profiles[profile].VNICs {
		name := VNICName{profile, v.Name}
		if vf, ok := s.Assignments[name]; ok {
			out[name] = vf
		}
	}
	return out
}

// VNIC returns the vNIC called name.
func (s Spec) VNIC(name VNICName) (VNIC, bool) {
	vnics := s.Profiles[name.Profile].VNICs
	i := slices.IndexFunc(vnics, func(v VNIC) bool { return v.Name == name.VNIC })
	if i < 0 {
		return VNIC{}, false
	}
	return vnics[i], true
}

// setting returns what the VF of a vNIC is told once it works.
func (s Spec) setting(v VNIC) Setting {
	return Setting{MAC: v.MAC, VLAN: s.Networks[v.Network].VLAN, QoS: v.QoS, Trust: v.Trust, Spoof: v.Spoof, Traffic: true}
}

// sorted returns the keys of a map in order.
func sorted[K interface {
	comparable
	Compare(K) int
}, V any](m map[K]V) []K {
	return slices.SortedFunc(maps.Keys(m), K.Compare)
}
