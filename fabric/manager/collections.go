package manager

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// filter says which objects are asked for; empty fields ask for all.
type filter struct{ name, blade, tenant string }

func (f filter) passes(name, blade, tenant string) bool {
	return (f.name == "" || f.name == name) && (f.blade == "" || f.blade == blade) && (f.tenant == "" || f.tenant == cmp.Or(tenant, fabric.DefaultTenant))
}

// headed is an object of any kind.
type headed interface{ Header() *api.Head }

// headOf returns the head of an object, to which v points.
func headOf(v any) *api.Head { return v.(headed).Header() }

func listOf[T any](v *view, items []T) api.List[T] {
	if items == nil {
		items = []T{}
	}
	return api.List[T]{APIVersion: api.Version, Kind: "List", Metadata: api.ListMetadata{Revision: v.revision, Cursor: v.cursor}, Items: items}
}

// objects returns the wanted objects of a kind as they are stored.
func objects[T any](v *view, kind string, f filter) []T {
	var out []T
	all := []*doc{v.doc(kind, f.name)}
	if f.name == "" {
		all = v.of(kind)
	}
	for _, d := range all {
		if d != nil && f.passes(d.Name, f.blade, d.head.Metadata.Tenant) {
			o := *d.value.(*T)
			out = append(out, o)
		}
	}
	return out
}

func (v *view) networks(f filter) []api.Network { return objects[api.Network](v, api.KindNetwork, f) }
func (v *view) ruleSets(f filter) []api.RuleSet { return objects[api.RuleSet](v, api.KindRuleSet, f) }
func (v *view) snapshots(f filter) []api.Snapshot {
	return objects[api.Snapshot](v, api.KindSnapshot, f)
}

func (v *view) chassis(f filter) []api.Chassis {
	out := objects[api.Chassis](v, api.KindChassis, f)
	for i := range out {
		in := []fabric.Blade{}
		for _, b := range v.spec.Blades {
			if b.Slot.Chassis == out[i].Metadata.Name {
				in = append(in, b)
			}
		}
		slices.SortFunc(in, func(a, b fabric.Blade) int { return cmp.Compare(a.Slot.Number, b.Slot.Number) })
		out[i].Status = &api.ChassisStatus{Blades: []string{}}
		for _, b := range in {
			out[i].Status.Blades = append(out[i].Status.Blades, string(b.ID))
		}
	}
	return out
}

func (m *Manager) blades(v *view, f filter) []api.Blade {
	out := objects[api.Blade](v, api.KindBlade, f)
	used := map[fabric.BladeID]int{}
	for _, vf := range v.spec.Assignments {
		used[vf.Blade]++
	}
	seen := v.snapshot(m.now())
	for i := range out {
		id := fabric.BladeID(out[i].Metadata.Name)
		out[i].Status = m.bladeView(v, id, seen)
		out[i].Status.Used = used[id]
	}
	return out
}

// bladeEvents is how many of the things that happened to a blade are shown with it.
const bladeEvents = 8

func (m *Manager) bladeView(v *view, id fabric.BladeID, seen fabric.Snapshot) *api.BladeView {
	b := &api.BladeView{State: "unseen"}
	told := v.orders[id]
	if told != nil {
		b.Wanted = told.record.Spec.Number
	}
	r := v.blades[id]
	if r == nil {
		return b
	}
	if r.status != nil {
		s := r.status.Status
		b.Running, b.Digest, b.Devices, b.Error = s.Generation, s.Digest, s.Devices, s.Error
		b.Links, b.Events = s.Links, s.Events[max(0, len(s.Events)-bladeEvents):]
		b.Proved = r.alive != nil && s.Proved && told != nil && s.Digest == told.record.Spec.Digest
	}
	if r.rules != nil {
		b.Rules = &api.RuleTile{Hardware: r.rules.Status.Hardware, Mixed: r.rules.Status.Mixed, Software: r.rules.Status.Software}
	}
	for _, n := range seen.Blades[id].Inventory.NICs {
		for _, p := range n.PFs {
			b.VFs += len(p.VFs)
		}
	}
	content := m.cache.of(v)[id].Digest
	b.RulesReported = v.rulesReported(id, content)
	why := m.why(id)
	current := told != nil && told.digest == content // or the leader has yet to tell it
	connected := told != nil && r.status != nil && r.status.Status.Record >= told.kv.Modified &&
		!slices.ContainsFunc(told.record.Spec.VNICs, func(o api.Order) bool { return !o.Connect || !linkOn(r.status, o.VFID) })
	switch {
	case r.err != nil:
		b.State, b.Reason = "held", api.NewError(r.err)
	case r.alive == nil:
		b.State = "silent"
	case why != nil && why.Code != "E_MOVING":
		b.State, b.Reason = "held", api.NewError(why)
	case b.Proved && current && connected && why == nil:
		b.State = "settled"
	default:
		b.State = "moving"
	}
	return b
}

func linkOn(s *api.BladeStatus, id api.VFID) bool {
	return s != nil && slices.ContainsFunc(s.Status.VFs, func(f api.VFState) bool { return f.VFID == id && f.Link })
}

func (m *Manager) profiles(v *view, f filter) []api.Profile {
	var out []api.Profile
	for _, p := range objects[api.Profile](v, api.KindProfile, filter{name: f.name, tenant: f.tenant}) {
		p.Status = m.profileStatus(v, &p)
		if f.blade == "" || p.Status.Blade == f.blade {
			out = append(out, p)
		}
	}
	return out
}

func (m *Manager) profileStatus(v *view, p *api.Profile) *api.ProfileStatus {
	s := &api.ProfileStatus{State: "waiting"}
	if p.Spec.Off {
		s.State = "off"
	}
	at := v.spec.Place(p.Metadata.Name)
	links := 0
	for _, n := range p.Spec.VNICs {
		vf, ok := at[fabric.VNICName{Profile: p.Metadata.Name, VNIC: n.Name}]
		if !ok {
			continue
		}
		place := v.place(n.Name, vf)
		if place.Link {
			links++
		}
		s.Blade = string(vf.Blade)
		s.VNICs = append(s.VNICs, place)
	}
	if len(at) == 0 {
		if !p.Spec.Off {
			if why := m.refusedAt(v)[p.Metadata.Name]; why != nil {
				s.State, s.Reason = "refused", api.NewError(why)
			} else if _, err := v.stock().Place(v.spec.Profiles[p.Metadata.Name], fabric.Spread); err != nil {
				s.Reason = api.NewError(err)
			}
		}
		return s
	}
	told, r := v.orders[fabric.BladeID(s.Blade)], v.blades[fabric.BladeID(s.Blade)]
	s.State = "moving"
	if r != nil && r.err != nil { // else it would be called unseen
		s.Reason = api.NewError(r.err)
	} else if why := m.why(fabric.BladeID(s.Blade)); why != nil {
		s.Reason = api.NewError(why)
	}
	current := told != nil && told.digest == m.cache.of(v)[fabric.BladeID(s.Blade)].Digest
	if current && r != nil && r.status != nil && r.status.Status.Proved && r.status.Status.Digest == told.record.Spec.Digest && links == len(p.Spec.VNICs) &&
		names(told.record.Spec.VNICs, p.Metadata.Name) == links {
		s.State = "active"
	}
	return s
}

// names counts a profile's vNICs in a record.
func names(orders []api.Order, profile string) int {
	n := 0
	for _, o := range orders {
		if o.Profile == profile {
			n++
		}
	}
	return n
}

// place says where a vNIC is, and whether its link is on with the vNIC's address.
func (v *view) place(name string, vf fabric.VFID) api.VNICPlace {
	out := api.VNICPlace{Name: name, VFID: wireVFID(vf)}
	r := v.blades[vf.Blade]
	if r == nil {
		return out
	}
	if pf, ok := r.seen.Inventory.PF(vf.PF); ok {
		if f, ok := pf.VF(vf.Index); ok {
			out.Port = f.Name
		}
	}
	out.Link = r.seen.VFs[vf].Traffic
	return out
}

// each calls add for every card of every blade that reported, in order.
func (v *view) each(f filter, add func(blade string, r *report, n api.NIC)) {
	for _, id := range slices.Sorted(maps.Keys(v.blades)) {
		r := v.blades[id]
		if r.inventory == nil || f.blade != "" && f.blade != string(id) || f.name != "" && !strings.HasPrefix(f.name, string(id)+"/") {
			continue
		}
		for _, n := range r.inventory.Status.NICs {
			add(string(id), r, n)
		}
	}
}

func (v *view) nics(f filter) []api.NICView {
	var out []api.NICView
	v.each(f, func(blade string, _ *report, n api.NIC) {
		if name := blade + "/" + n.Name; f.passes(name, blade, f.tenant) {
			out = append(out, api.NICView{Head: api.NewHead(api.KindNIC, name), Status: api.NICStatus{Blade: blade, NIC: n}})
		}
	})
	return sortedByName(out)
}

func (v *view) pfs(f filter) []api.PFView {
	var out []api.PFView
	owners := v.owners()
	v.each(f, func(blade string, r *report, n api.NIC) {
		for _, p := range n.PFs {
			name := blade + "/" + p.Name
			if !f.passes(name, blade, f.tenant) {
				continue
			}
			s := api.PFStatus{Blade: blade, PF: p}
			for _, vf := range p.VFs {
				if _, has := owners[vfKey{blade, p.PCI, n.Serial, vf.Index}]; has {
					s.Used++
				}
			}
			s.Free = len(p.VFs) - s.Used
			out = append(out, api.PFView{Head: api.NewHead(api.KindPF, name), Status: s})
		}
	})
	return sortedByName(out)
}

type vfKey struct {
	blade, pci, serial string
	index              int
}

// owners says which vNIC has which VF.
func (v *view) owners() map[vfKey]fabric.VNICName {
	out := make(map[vfKey]fabric.VNICName, len(v.spec.Assignments))
	for name, vf := range v.spec.Assignments {
		out[vfKey{string(vf.Blade), vf.PF.PCI.String(), vf.PF.Serial, vf.Index}] = name
	}
	return out
}

func (v *view) vfs(f filter) []api.VFView {
	var out []api.VFView
	owners := v.owners()
	v.each(f, func(blade string, r *report, n api.NIC) {
		states := map[api.VFID]*api.VFState{}
		if r.status != nil {
			for i := range r.status.Status.VFs {
				states[r.status.Status.VFs[i].VFID] = &r.status.Status.VFs[i]
			}
		}
		for _, p := range n.PFs {
			for _, vf := range p.VFs {
				name := blade + "/" + vf.Name
				if !f.passes(name, blade, f.tenant) {
					continue
				}
				s := api.VFStatus{Blade: blade, VF: vf, State: states[api.VFID{PCI: p.PCI, Serial: n.Serial, Index: vf.Index}]}
				s.Foreign = s.State != nil && !s.State.Ours
				if owner, has := owners[vfKey{blade, p.PCI, n.Serial, vf.Index}]; has {
					s.VNIC = owner.String()
				}
				out = append(out, api.VFView{Head: api.NewHead(api.KindVF, name), Status: s})
			}
		}
	})
	return sortedByName(out)
}

func (v *view) vnics(f filter) []api.VNICView {
	var out []api.VNICView
	for _, d := range v.of(api.KindProfile) {
		for _, n := range d.value.(*api.Profile).Spec.VNICs {
			name := fabric.VNICName{Profile: d.Name, VNIC: n.Name}
			vf, at := v.spec.Assignments[name]
			if !f.passes(name.String(), string(vf.Blade), d.head.Metadata.Tenant) {
				continue
			}
			o := api.VNICView{Head: api.NewHead(api.KindVNIC, name.String()), Spec: n, Status: api.VNICStatus{Profile: d.Name, Blade: string(vf.Blade)}}
			o.Metadata.Tenant, o.Metadata.Revision, o.Metadata.Labels = d.head.Metadata.Tenant, d.head.Metadata.Revision, d.head.Metadata.Labels
			o.Status.VNICPlace.Name = n.Name
			if at {
				o.Status.VNICPlace = v.place(n.Name, vf)
			}
			out = append(out, o)
		}
	}
	return sortedByName(out)
}

func (v *view) generations(f filter) []api.GenerationView {
	var out []api.GenerationView
	for _, id := range slices.Sorted(maps.Keys(v.orders)) {
		if !f.passes(string(id), string(id), f.tenant) {
			continue
		}
		o := api.GenerationView{Head: api.NewHead(api.KindGeneration, string(id)), Spec: v.orders[id].record.Spec}
		if r := v.blades[id]; r != nil && r.status != nil {
			o.Status = &r.status.Status
		}
		out = append(out, o)
	}
	return out
}

// history returns the changes that are kept, oldest first.
func (v *view) history(f filter) []api.Event {
	var out []api.Event
	for _, e := range v.events {
		if f.passes(e.Metadata.Name, f.blade, f.tenant) {
			out = append(out, *e)
		}
	}
	return out
}

func sortedByName[T any](items []T) []T {
	slices.SortFunc(items, func(a, b T) int { return strings.Compare(headOf(&a).Metadata.Name, headOf(&b).Metadata.Name) })
	return items
}

func candidates(v *view, all []fabric.Candidate) api.List[api.Candidate] {
	wire := func(f *flow.Fault) *api.Error {
		if f == nil {
			return nil
		}
		return api.NewError(f)
	}
	var out []api.Candidate
	for _, c := range all {
		o := api.Candidate{Blade: string(c.Blade), Fits: c.WhyNot == nil, WhyNot: wire(c.WhyNot), PFs: []api.PFCandidate{}}
		for _, p := range c.PFs {
			o.PFs = append(o.PFs, api.PFCandidate{Name: p.Name, FreeVFs: p.FreeVFs, Guaranteeable: p.Guaranteeable.String(), WhyNot: wire(p.WhyNot)})
		}
		out = append(out, o)
	}
	return listOf(v, out)
}

// differences compares what was wanted with what is.
func differences(v *view, then map[docID]*doc) []api.Difference {
	var out []api.Difference
	for _, e := range revertTo(v, then, "") {
		is, was := v.docs[e.docID], e.next
		d := api.Difference{Touched: api.Touched{Kind: e.Kind, Name: e.Name, How: "changed"}, Was: json.RawMessage("null"), Is: json.RawMessage("null")}
		if was != nil {
			d.Was, d.Tenant = was.raw, was.head.Metadata.Tenant
		} else {
			d.How = "created"
		}
		if is != nil {
			d.Is, d.Tenant = is.raw, is.head.Metadata.Tenant
		} else {
			d.How = "deleted"
		}
		out = append(out, d)
	}
	return out
}
