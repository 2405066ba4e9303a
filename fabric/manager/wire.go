package manager

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// This file is where wire types become the model's, and contents become records.
// collections.go shapes what is shown; nothing else converts.

// docID names a wanted object. Names are unique in the fabric whatever the tenant.
type docID struct{ Kind, Name string }

func (id docID) String() string { return strings.ToLower(id.Kind) + " " + id.Name }

// doc is one stored object of what users want.
type doc struct {
	docID
	head   api.Head
	raw    []byte       // the text, with fields that this program may not know
	packed store.Packed // as stored; its chunks only until that is done
	value  any          // *api.Chassis, *api.Blade, …
	rules  *fabric.RuleSet
}

// storedDoc reads a document as it is stored.
func storedDoc(kind string, value []byte, chunk func(store.Sum) ([]byte, error)) (*doc, error) {
	text, err := store.Unpack(value, chunk)
	if err != nil {
		return nil, err
	}
	d, err := decodeDoc(kind, text, lenient)
	if err != nil {
		return nil, err
	}
	d.packed.Value = value
	return d, nil
}

// decodeDoc reads a document of a kind with decode, which is strict or not.
func decodeDoc(kind string, raw []byte, decode func([]byte, any) error) (*doc, error) {
	d := &doc{docID: docID{Kind: kind}, raw: raw}
	var err error
	switch kind {
	case api.KindChassis:
		err = d.read(raw, decode, &api.Chassis{})
	case api.KindBlade:
		err = d.read(raw, decode, &api.Blade{})
	case api.KindNetwork:
		err = d.read(raw, decode, &api.Network{})
	case api.KindProfile:
		err = d.read(raw, decode, &api.Profile{})
	case api.KindAssignment:
		err = d.read(raw, decode, &api.Assignment{})
	case api.KindSnapshot:
		err = d.read(raw, decode, &api.Snapshot{})
	case api.KindRuleSet:
		err = d.readRules(raw)
	default:
		err = &flow.Fault{Code: "E_KIND", What: "kind " + strconv.Quote(kind), Why: "nothing of this kind can be wanted",
			Remedy: flow.Suggest(kind, api.KindChassis, api.KindBlade, api.KindNetwork, api.KindRuleSet, api.KindProfile)}
	}
	if err != nil {
		return nil, err
	}
	d.Name = d.head.Metadata.Name
	switch {
	case d.head.APIVersion != api.Version:
		err = &flow.Fault{Code: "E_VERSION", What: "field apiVersion", Why: fmt.Sprintf("%q is not known here", d.head.APIVersion), Remedy: "use " + api.Version}
	case d.head.Kind != kind:
		err = &flow.Fault{Code: "E_VERSION", What: "field kind", Why: fmt.Sprintf("%q is not %s", d.head.Kind, kind), Remedy: "use " + kind}
	case d.Name == "":
		err = &flow.Fault{Code: "E_FIELD_MISSING", What: "field metadata.name", Why: "it is missing", Remedy: "add it"}
	}
	return d, err
}

// validHead returns nil iff users may give an object this head. Names of snapshots are
// checked here, for they are no part of a spec; tenants and labels must be such that a
// path, a selector and a terminal take them for what they are.
func validHead(h api.Head) error {
	if err := fabric.ValidName("tenant", h.Metadata.Tenant); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(h.Metadata.Labels)) {
		value := h.Metadata.Labels[name]
		prefix, rest, two := strings.Cut(name, "/")
		named := flow.ValidRuleName(prefix) == nil && (!two || flow.ValidRuleName(rest) == nil)
		if !named || len(value) > 253 || strings.ContainsFunc(value, func(r rune) bool { return r == ',' || !unicode.IsPrint(r) }) {
			return &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("label %q of %s %s", name, strings.ToLower(h.Kind), h.Metadata.Name), Why: "not a label that can be asked for",
				Remedy: "use letters, digits and . _ - in its name, which may have one /, and at most 253 printable characters but no comma in its value"}
		}
	}
	if h.Kind == api.KindSnapshot {
		return fabric.ValidName("snapshot", h.Metadata.Name)
	}
	return nil
}

// read decodes raw into v.
func (d *doc) read(raw []byte, decode func([]byte, any) error, v headed) error {
	if err := decode(raw, v); err != nil {
		return err
	}
	h := v.Header()
	h.Metadata.Tenant = cmp.Or(h.Metadata.Tenant, fabric.DefaultTenant)
	d.head, d.value = *h, v
	return nil
}

// readRules reads a rule set as package ruleset does, which is strict: the meaning of
// rules is no place for guesses.
func (d *doc) readRules(raw []byte) error {
	ports := flow.OpenPorts()
	sets, err := ruleset.Decode(ruleset.JSON, "ruleset", raw, ports)
	if err != nil {
		return err
	}
	if len(sets) != 1 {
		return &flow.Fault{Code: "E_DOCUMENT", What: "ruleset", Why: fmt.Sprintf("%d sets are in it", len(sets)), Remedy: "send one"}
	}
	s := sets[0]
	var text bytes.Buffer
	if err := ruleset.Encode(&text, ruleset.JSON, sets, ports); err != nil {
		return err
	}
	v := &api.RuleSet{}
	if err := json.Unmarshal(text.Bytes(), v); err != nil {
		return err
	}
	var was struct{ Metadata api.Metadata }
	if err := json.Unmarshal(raw, &was); err != nil {
		return &flow.Fault{Code: "E_JSON", What: "ruleset", Why: err.Error(), Remedy: "send JSON"}
	}
	v.Metadata.Revision, v.Metadata.Tenant = was.Metadata.Revision, s.Tenant
	d.head, d.value = v.Head, v
	d.rules = &fabric.RuleSet{Name: s.Name, UID: s.UID, Tenant: s.Tenant, Tier: s.Tier, Default: s.Default, Rules: s.Rules, Ports: ports.Names()}
	return nil
}

// lenient decodes what is stored.
func lenient(raw []byte, v any) error { return json.Unmarshal(raw, v) }

// add puts the document into a spec whose maps it may write.
func (d *doc) add(s *fabric.Spec) error {
	switch v := d.value.(type) {
	case *api.Chassis:
		s.Chassis[d.Name] = fabric.Chassis{Name: d.Name, Slots: v.Spec.Slots}
	case *api.Blade:
		s.Blades[fabric.BladeID(d.Name)] = fabric.Blade{ID: fabric.BladeID(d.Name), Slot: fabric.Slot{Chassis: v.Spec.Chassis, Number: v.Spec.Slot}, Uplink: v.Spec.Uplink}
	case *api.Network:
		s.Networks[d.Name] = fabric.Network{Name: d.Name, Tenant: v.Metadata.Tenant, VLAN: v.Spec.VLAN}
	case *api.RuleSet:
		s.RuleSets[d.Name] = *d.rules
	case *api.Profile:
		p, err := modelProfile(v)
		s.Profiles[d.Name] = p
		return err
	case *api.Assignment:
		at, err := modelPlacement(v)
		for name, vf := range at {
			s.Assignments[name] = vf
		}
		return err
	}
	return nil
}

func newSpec() fabric.Spec {
	return fabric.Spec{Chassis: map[string]fabric.Chassis{}, Blades: map[fabric.BladeID]fabric.Blade{}, Networks: map[string]fabric.Network{},
		RuleSets: map[string]fabric.RuleSet{}, Profiles: map[string]fabric.Profile{}, Assignments: fabric.Placement{}}
}

func modelProfile(v *api.Profile) (fabric.Profile, error) {
	p := fabric.Profile{Name: v.Metadata.Name, Tenant: v.Metadata.Tenant, RuleSets: v.Spec.RuleSets}
	if w := v.Spec.Where; w != nil {
		p.Where = fabric.Pool{Chassis: w.Chassis, PF: w.PF}
		for _, b := range w.Blades {
			p.Where.Blades = append(p.Where.Blades, fabric.BladeID(b))
		}
	}
	if c := fabric.Policy(v.Spec.Policy); c != "" && c != fabric.Spread && c != fabric.Pack {
		return p, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("profile %s: policy %q", p.Name, c), Why: "unknown", Remedy: flow.Suggest(string(c), string(fabric.Spread), string(fabric.Pack))}
	}
	for _, n := range v.Spec.VNICs {
		mac, err := flow.ParseMAC(n.MAC)
		if err != nil {
			return p, err
		}
		vnic := fabric.VNIC{Name: n.Name, MAC: mac, Network: n.Network, Trust: n.Trust, Spoof: n.Spoof, RDMA: n.RDMA}
		if n.QoS != nil {
			if vnic.QoS.Guaranteed, err = parseRate(n.QoS.Guaranteed); err != nil {
				return p, err
			}
			if vnic.QoS.Maximum, err = parseRate(n.QoS.Maximum); err != nil {
				return p, err
			}
		}
		p.VNICs = append(p.VNICs, vnic)
	}
	return p, nil
}

var rateUnits = map[string]uint64{"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}

// parseRate reads 25G, 2500M or plain bits a second; nothing is 0.
func parseRate(s string) (fabric.BitsPerSecond, error) {
	if s == "" {
		return 0, nil
	}
	digits := strings.TrimRight(s, "KMGT")
	n, err := strconv.ParseUint(digits, 10, 64)
	unit, known := rateUnits[s[len(digits):]]
	if err != nil || !known || n > 1e15/unit {
		return 0, &flow.Fault{Code: "E_RATE", What: fmt.Sprintf("rate %q", s), Why: "not a rate", Remedy: "write a whole number with K, M, G or T bits a second, like 2500M"}
	}
	return fabric.BitsPerSecond(n * unit), nil
}

func modelVFID(blade string, v api.VFID) (fabric.VFID, error) {
	pci, err := fabric.ParsePCI(v.PCI)
	return fabric.VFID{Blade: fabric.BladeID(blade), PF: fabric.PFID{PCI: pci, Serial: v.Serial}, Index: v.Index}, err
}

func wireVFID(v fabric.VFID) api.VFID {
	return api.VFID{PCI: v.PF.PCI.String(), Serial: v.PF.Serial, Index: v.Index}
}

func modelPlacement(a *api.Assignment) (fabric.Placement, error) {
	at := fabric.Placement{}
	for _, p := range a.Spec.VNICs {
		vf, err := modelVFID(a.Spec.Blade, p.VFID)
		if err != nil {
			return nil, err
		}
		at[fabric.VNICName{Profile: a.Metadata.Name, VNIC: p.Name}] = vf
	}
	return at, nil
}

// wireAssignment returns the document of a profile's place.
func wireAssignment(p fabric.Profile, at fabric.Placement) *api.Assignment {
	a := &api.Assignment{Head: api.NewHead(api.KindAssignment, p.Name)}
	a.Metadata.Tenant = cmp.Or(p.Tenant, fabric.DefaultTenant)
	for _, v := range p.VNICs {
		vf := at[fabric.VNICName{Profile: p.Name, VNIC: v.Name}]
		a.Spec.Blade = string(vf.Blade)
		a.Spec.VNICs = append(a.Spec.VNICs, api.Placed{Name: v.Name, VFID: wireVFID(vf)})
	}
	return a
}

// modelInventory is the inverse of what package discover writes. The error says what cannot be.
func modelInventory(v *api.Inventory) (fabric.Inventory, error) {
	var inv fabric.Inventory
	if err := strangeInventory(v); err != nil {
		return inv, err
	}
	for _, n := range v.Status.NICs {
		nic := fabric.NIC{Name: n.Name, Slot: n.Slot, Serial: n.Serial, Part: n.Part, NUMA: -1}
		if n.NUMA != nil {
			nic.NUMA = *n.NUMA
		}
		for _, number := range []struct {
			text string
			to   *uint16
		}{{n.Vendor, &nic.Vendor}, {n.Device, &nic.Device}} {
			x, err := strconv.ParseUint(number.text, 0, 16)
			if err != nil {
				return inv, fmt.Errorf("%s: %w", n.Name, err)
			}
			*number.to = uint16(x)
		}
		for i, p := range n.PFs {
			pci, err := fabric.ParsePCI(p.PCI)
			if err != nil {
				return inv, err
			}
			pf := fabric.PF{Name: p.Name, Index: i, PCI: pci, Driver: p.Driver, Firmware: p.Firmware, Netdev: modelNetdev(p.Netdev),
				TotalVFs: p.TotalVFs, NumVFs: p.NumVFs, ESwitch: fabric.ESwitch(p.ESwitch), RDMA: modelRDMA(p.RDMA)}
			for _, f := range p.VFs {
				if pci, err = fabric.ParsePCI(f.PCI); err != nil {
					return inv, err
				}
				pf.VFs = append(pf.VFs, fabric.VF{Name: f.Name, Index: f.Index, PCI: pci, Driver: f.Driver, Netdev: modelNetdev(f.Netdev),
					RDMA: modelRDMA(f.RDMA), Representor: modelNetdev(f.Representor)})
			}
			nic.PFs = append(nic.PFs, pf)
		}
		inv.NICs = append(inv.NICs, nic)
	}
	return inv, nil
}

func modelNetdev(d *api.Netdev) *fabric.Netdev {
	if d == nil {
		return nil
	}
	mac, _ := flow.ParseMAC(d.MAC) // absent, or of a device that is not Ethernet
	return &fabric.Netdev{Name: d.Name, MAC: mac, MTU: d.MTU, Speed: fabric.BitsPerSecond(d.BitsPerSecond), Link: d.Link, SwitchID: d.SwitchID, PortName: d.PortName}
}

func modelRDMA(devices []api.RDMA) []fabric.RDMA {
	var out []fabric.RDMA
	for _, d := range devices {
		r := fabric.RDMA{Name: d.Name, Software: d.Software, GUID: d.GUID, Firmware: d.Firmware}
		for _, p := range d.Ports {
			r.Ports = append(r.Ports, fabric.RDMAPort(p))
		}
		out = append(out, r)
	}
	return out
}

// modelSeen makes what a blade reported the model's. status may be nil: the blade has
// not said yet.
func modelSeen(blade string, inv fabric.Inventory, status *api.BladeStatus) (fabric.Seen, error) {
	seen := fabric.Seen{Inventory: inv, VFs: map[fabric.VFID]fabric.VFState{}, Room: map[fabric.PFID]fabric.Room{}}
	if status == nil {
		return seen, nil
	}
	digest, err := fabric.ParseDigest(status.Status.Digest)
	if err != nil {
		return seen, err
	}
	if status.Status.Proved {
		seen.Proved = digest
	}
	for _, v := range status.Status.VFs {
		id, err := modelVFID(blade, v.VFID)
		if err != nil {
			return seen, err
		}
		set, err := modelSetting(v.Setting)
		if err != nil {
			return seen, err
		}
		set.Traffic = v.Link
		seen.VFs[id] = fabric.VFState{Setting: set, Ours: v.Ours}
	}
	for _, d := range status.Status.Devices {
		if err := strangeDevice(&d); err != nil {
			return seen, err
		}
		for _, n := range inv.NICs {
			for _, p := range n.PFs {
				if slices.Contains(d.PFs, p.Name) {
					seen.Room[fabric.PFID{PCI: p.PCI, Serial: n.Serial}] = fabric.Room{Used: d.Entries, Limit: d.Limit}
				}
			}
		}
	}
	return seen, nil
}

func modelSetting(s api.Setting) (fabric.Setting, error) {
	out := fabric.Setting{VLAN: s.VLAN, QoS: fabric.QoS{Guaranteed: fabric.BitsPerSecond(s.Guaranteed), Maximum: fabric.BitsPerSecond(s.Maximum)}, Trust: s.Trust, Spoof: s.Spoof}
	if s.MAC == "" {
		return out, nil
	}
	var err error
	out.MAC, err = flow.ParseMAC(s.MAC)
	return out, err
}

func wireSetting(s fabric.Setting) api.Setting {
	return api.Setting{MAC: flow.FormatMAC(s.MAC), VLAN: s.VLAN, Guaranteed: uint64(s.QoS.Guaranteed), Maximum: uint64(s.QoS.Maximum), Trust: s.Trust, Spoof: s.Spoof}
}

// shardRules is about how many rules are in a shard. A blade of 10,000 rules has 64
// shards.
const shardRules = 256

// wireSpec returns the record of a content, without number, date, rules, and what depends
// on other blades.
func wireSpec(c fabric.Content) api.GenerationSpec {
	ports := c.Table.Ports
	g := api.GenerationSpec{Digest: c.Digest.String(), Rules: len(c.Table.Rules), Stations: []api.Station{}, VNICs: []api.Order{}, Shards: []string{}}
	if len(c.Table.Default) > 0 {
		g.Default = flow.FormatActions(c.Table.Default, ports)
	}
	if sw := c.Table.Switch; sw != nil {
		if sw.Uplink() != 0 {
			g.Uplink = ports.Name(sw.Uplink())
		}
		for _, s := range sw.Stations() {
			g.Stations = append(g.Stations, api.Station{VLAN: s.VLAN, MAC: flow.FormatMAC(s.MAC), Port: ports.Name(s.Port)})
		}
	}
	for _, v := range c.VNICs {
		g.VNICs = append(g.VNICs, api.Order{Profile: v.VNIC.Profile, VNIC: v.VNIC.VNIC, Port: ports.Name(v.Port), VFID: wireVFID(v.VF), Setting: wireSetting(v.Setting)})
	}
	return g
}

// wireRules returns the rules of a content, by ID.
func wireRules(c fabric.Content) []api.TableRule {
	rules := make([]api.TableRule, len(c.Table.Rules))
	for i := range rules {
		r := &c.Table.Rules[i]
		rules[i] = api.TableRule{ID: fmt.Sprintf("%016x", uint64(r.ID)), Name: r.Name, Tier: r.Tier.String(), Priority: r.Priority,
			Match: flow.FormatMatch(&r.Match, c.Table.Ports), Actions: flow.FormatActions(r.Actions, c.Table.Ports)}
	}
	slices.SortFunc(rules, func(a, b api.TableRule) int { return cmp.Compare(a.ID, b.ID) })
	return rules
}

// wireShards returns the shards of rules, which are in the order of IDs, and their names.
// Which shard a rule is in depends on its ID and on how many rules there are, to the next
// power of two, so that equal contents give equal bytes.
func wireShards(rules []api.TableRule) (names []string, shards map[[32]byte][]byte, err error) {
	count := uint64(1)
	for count*shardRules < uint64(len(rules)) {
		count *= 2
	}
	parts := make([]api.Shard, count)
	for i := range rules {
		id, err := strconv.ParseUint(rules[i].ID, 16, 64)
		if err != nil {
			return nil, nil, err
		}
		part := &parts[id%count]
		part.Rules = append(part.Rules, rules[i])
	}
	names, shards = []string{}, map[[32]byte][]byte{}
	for _, p := range parts {
		if len(p.Rules) == 0 {
			continue
		}
		text, err := json.Marshal(p)
		if err != nil {
			return nil, nil, err
		}
		sum := sha256.Sum256(text)
		shards[sum] = text
		names = append(names, hex.EncodeToString(sum[:]))
	}
	return names, shards, nil
}
