package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Valid returns nil iff s can be wanted, whatever the blades are like, else the first
// *[flow.Fault] in the order of the fields of Spec and of names. What depends on
// the blades' hardware is for [Spec.Fits], what rules mean together for [Compile].
// Cost: 16,384 vNICs of as many profiles in 0.1 s.
func (s Spec) Valid() error {
	return cmp.Or(s.validBlades(), s.validNetworks(), s.validRuleSets(), s.validProfiles(), s.validAssignments())
}

func fault(code, what, why, remedy string) error {
	return &flow.Fault{Code: code, What: what, Why: why, Remedy: remedy}
}

// within returns the fault with what it is in before what it is about.
func within(what string, err error) error {
	var f *flow.Fault
	if !errors.As(err, &f) {
		return err
	}
	g := *f
	g.What = what + ": " + f.What
	return &g
}

// validName returns nil iff name can be the name of a thing of this kind, kept under key.
func validName(kind, name, key string) error {
	if name != key {
		return fault("E_NAME", fmt.Sprintf("%s %q", kind, name), fmt.Sprintf("it is kept under the name %q", key), "keep it under its own")
	}
	return ValidName(kind, name)
}

// ValidName returns nil iff name can be the name of a thing of this kind, else a
// *[flow.Fault].
func ValidName(kind, name string) error {
	what := fmt.Sprintf("%s %q", kind, name)
	if flow.ValidRuleName(name) != nil || len(name) > 63 || name == "." || name == ".." { // which paths take for something else
		return fault("E_NAME", what, "not a name", "use 1 to 63 letters, digits and . _ -, not dots alone")
	}
	return nil
}

// all returns the first fault of check over m in the order of keys.
func all[K cmp.Ordered, V any](m map[K]V, check func(K, V) error) error {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		if err := check(k, m[k]); err != nil {
			return err
		}
	}
	return nil
}

func (s Spec) validBlades() error {
	err := all(s.Chassis, func(key string, c Chassis) error {
		if c.Slots < 1 {
			return cmp.Or(validName("chassis", c.Name, key), fault("E_SLOT", "chassis "+key, "it has no slots", "say how many it has"))
		}
		return validName("chassis", c.Name, key)
	})
	if err != nil {
		return err
	}
	taken := map[Slot]BladeID{}
	return all(s.Blades, func(key BladeID, b Blade) error {
		if err := validName("blade", string(b.ID), string(key)); err != nil || b.Slot == (Slot{}) {
			return err
		}
		what := "blade " + string(b.ID)
		c, known := s.Chassis[b.Slot.Chassis]
		if !known {
			return fault("E_CHASSIS_UNKNOWN", what, fmt.Sprintf("there is no chassis %q", b.Slot.Chassis), suggest(b.Slot.Chassis, s.Chassis))
		}
		if b.Slot.Number < 1 || b.Slot.Number > c.Slots {
			return fault("E_SLOT", what, fmt.Sprintf("chassis %s has no slot %d", c.Name, b.Slot.Number), fmt.Sprintf("use 1 to %d", c.Slots))
		}
		if other, twice := taken[b.Slot]; twice {
			return fault("E_SLOT_TWICE", what, fmt.Sprintf("blade %s is in slot %d of chassis %s", other, b.Slot.Number, c.Name), "give each blade its own slot")
		}
		taken[b.Slot] = b.ID
		return nil
	})
}

func (s Spec) validNetworks() error {
	taken := map[uint16]string{}
	return all(s.Networks, func(key string, n Network) error {
		if err := validName("network", n.Name, key); err != nil {
			return err
		}
		if n.VLAN > 4094 {
			return fault("E_VLAN", "network "+key, fmt.Sprintf("VLAN %d is out of range", n.VLAN), "use 1 to 4094, or 0 for untagged")
		}
		if other, twice := taken[n.VLAN]; twice {
			return fault("E_VLAN_TWICE", "network "+key, fmt.Sprintf("network %s has VLAN %d", other, n.VLAN), "give each network its own VLAN; one can be untagged")
		}
		taken[n.VLAN] = key
		return nil
	})
}

func (s Spec) validRuleSets() error {
	ids := map[flow.RuleID]string{}
	return all(s.RuleSets, func(key string, r RuleSet) error {
		if err := validName("rule set", r.Name, key); err != nil {
			return err
		}
		if r.Tier > flow.TierDefault {
			_, err := flow.ParseTier(r.Tier.String())
			return err
		}
		for i := range r.Rules {
			rule := &r.Rules[i]
			if set, _, _ := strings.Cut(rule.Name, "/"); set != r.Name || rule.Tier != r.Tier {
				return fault("E_NAME", "rule "+rule.Name, fmt.Sprintf("in rule set %s of tier %s", r.Name, r.Tier), "name it SET/RULE and give it the tier of its set")
			}
			if other, twice := ids[rule.ID]; twice {
				return fault("E_RULE_TWICE", "rule "+rule.Name, "it has the same ID as rule "+other, "rename one of them")
			}
			ids[rule.ID] = rule.Name
			if rule.Priority < 0 {
				return fault("E_PRIORITY", "rule "+rule.Name, fmt.Sprintf("priority %d is out of range", rule.Priority), "use 0 to 2147483647")
			}
			if err := cmp.Or(rule.Match.Valid(), rule.Actions.Valid()); err != nil {
				return within("rule "+rule.Name, err)
			}
		}
		return nil
	})
}

func (s Spec) validProfiles() error {
	taken := map[address]VNICName{}
	return all(s.Profiles, func(key string, p Profile) error {
		if err := validName("profile", p.Name, key); err != nil {
			return err
		}
		what := "profile " + key
		if numbered(key, "nic") {
			return fault("E_NAME", what, "rules would take it for a card", "use another name than nic and a number")
		}
		if len(p.VNICs) == 0 || len(p.VNICs) > MaxVNICs {
			return fault("E_VNICS", what, fmt.Sprintf("it has %d vNICs", len(p.VNICs)), fmt.Sprintf("use 1 to %d", MaxVNICs))
		}
		names := map[string]bool{}
		for _, v := range p.VNICs {
			if names[v.Name] {
				return fault("E_VNIC_TWICE", what, fmt.Sprintf("it has two vNICs %q", v.Name), "rename one of them")
			}
			names[v.Name] = true
			if err := s.validVNIC(p, v, taken); err != nil {
				return err
			}
		}
		for _, name := range p.RuleSets {
			r, known := s.RuleSets[name]
			if !known {
				return fault("E_RULESET_UNKNOWN", what, fmt.Sprintf("there is no rule set %q", name), suggest(name, s.RuleSets))
			}
			if err := mayUse(what, p.Tenant, "rule set "+name, r.Tenant); err != nil {
				return err
			}
		}
		return s.validPool(what, p.Where)
	})
}

// MaxVNICs is how many vNICs a profile may have.
const MaxVNICs = 8

func (s Spec) validVNIC(p Profile, v VNIC, taken map[address]VNICName) error {
	name := VNICName{p.Name, v.Name}
	what := "vNIC " + name.String()
	if err := validName("vNIC", v.Name, v.Name); err != nil {
		return err
	}
	if v.Name == "uplink" || numbered(v.Name, "pf") || numbered(v.Name, "vf") {
		return fault("E_NAME", what, "rules would take it for a port of the card", "use another name than uplink, pfN and vfN")
	}
	if v.MAC == 0 || v.MAC>>40&1 != 0 || v.MAC > flow.SrcMAC.Max() {
		return fault("E_MAC", what, flow.FormatMAC(v.MAC)+" is not the address of one station", "use one like 02:00:00:00:00:01")
	}
	n, known := s.Networks[v.Network]
	if !known {
		return fault("E_NETWORK_UNKNOWN", what, fmt.Sprintf("there is no network %q", v.Network), suggest(v.Network, s.Networks))
	}
	if err := mayUse(what, p.Tenant, "network "+n.Name, n.Tenant); err != nil {
		return err
	}
	at := s.setting(v).address()
	if other, twice := taken[at]; twice {
		return fault("E_MAC_TWICE", what, fmt.Sprintf("vNIC %s has the MAC %s in network %s", other, flow.FormatMAC(v.MAC), n.Name), "give each vNIC of a network its own MAC")
	}
	taken[at] = name
	if v.QoS.Maximum > 0 && v.QoS.Guaranteed > v.QoS.Maximum {
		return fault("E_RATE", what, fmt.Sprintf("%s are guaranteed and %s are the maximum", v.QoS.Guaranteed, v.QoS.Maximum), "guarantee at most the maximum")
	}
	return nil
}

func (s Spec) validPool(what string, p Pool) error {
	for _, c := range p.Chassis {
		if _, known := s.Chassis[c]; !known {
			return fault("E_CHASSIS_UNKNOWN", what, fmt.Sprintf("there is no chassis %q", c), suggest(c, s.Chassis))
		}
	}
	for _, b := range p.Blades {
		if _, known := s.Blades[b]; !known {
			return fault("E_BLADE_UNKNOWN", what, fmt.Sprintf("there is no blade %q", b), suggest(b, s.Blades))
		}
	}
	return nil
}

func (s Spec) validAssignments() error {
	taken := map[VFID]VNICName{}
	home := map[string]BladeID{}
	count := map[string]int{}
	for _, name := range sorted(s.Assignments) {
		vf, what := s.Assignments[name], "vNIC "+name.String()
		if _, known := s.VNIC(name); !known {
			return fault("E_VNIC_UNKNOWN", what, "no profile has it", "take its assignment away")
		}
		b, known := s.Blades[vf.Blade]
		if !known {
			return fault("E_BLADE_UNKNOWN", what, fmt.Sprintf("there is no blade %q", vf.Blade), suggest(vf.Blade, s.Blades))
		}
		if other, twice := taken[vf]; twice {
			return fault("E_VF_TWICE", what, fmt.Sprintf("vNIC %s has %s", other, vf), "take another VF")
		}
		taken[vf] = name
		if first := cmp.Or(home[name.Profile], vf.Blade); first != vf.Blade {
			return fault("E_PROFILE_SPLIT", what, fmt.Sprintf("its profile is on %s and it is on %s", first, vf.Blade), "move the profile as a whole")
		}
		home[name.Profile] = vf.Blade
		count[name.Profile]++
		if !s.Profiles[name.Profile].Where.Holds(b) {
			return fault("E_POOL", what, fmt.Sprintf("blade %s is not where its profile may live", vf.Blade), "move it, or widen the pool")
		}
	}
	return all(count, func(p string, n int) error {
		if all := len(s.Profiles[p].VNICs); n < all {
			return fault("E_PROFILE_SPLIT", "profile "+p, fmt.Sprintf("%d of its %d vNICs have a VF", n, all), "place all of them or none")
		}
		return nil
	})
}

// mayUse returns nil iff a tenant's object may use another.
func mayUse(what, tenant, used, owner string) error {
	tenant, owner = cmp.Or(tenant, DefaultTenant), cmp.Or(owner, DefaultTenant)
	if owner == DefaultTenant || owner == tenant {
		return nil
	}
	return fault("E_TENANT", what, fmt.Sprintf("it is tenant %s's and %s is tenant %s's", tenant, used, owner), "use one of its own tenant or of "+DefaultTenant)
}

// numbered reports whether s is prefix and a number: nic0, pf1, vf12.
func numbered(s, prefix string) bool {
	digits, ok := strings.CutPrefix(s, prefix)
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

// suggest returns a remedy for a name that m does not have.
func suggest[K ~string, V any](name K, m map[K]V) string {
	if len(m) == 0 {
		return "create it first"
	}
	var known []string
	for k := range m {
		known = append(known, string(k))
	}
	slices.Sort(known)
	if s := flow.Suggest(string(name), known...); strings.HasPrefix(s, "did you mean") || len(known) <= 8 {
		return s
	}
	return fmt.Sprintf("use one of the %d there are", len(known))
}
