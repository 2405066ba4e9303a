package manager

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
)

// This file makes the capacity report's input of what is wanted and seen, and says what
// a change would leave. Package capacity has the formulas; the demand comes from the
// history that record.go writes.

// Capacity is how capacity is counted and where demand is recorded.
type Capacity struct {
	History   string           `yaml:"history"`                 // file; empty records nothing
	KeepDays  int              `yaml:"keepDays"`                // of daily values; 3 years if zero
	Policy    capacity.Policy  `yaml:"policy"`                  // what is kept back
	PerCore   int64            `yaml:"packetsPerSecondPerCore"` // that software deals with on one core of a blade; 0 if that was never measured
	Cores     int64            `yaml:"cores"`                   // a blade may spend on it
	Reference capacity.Profile `yaml:"profile"`                 // what "still fits" is counted in; one VF if empty
}

// DefaultCapacity records nothing and has package capacity's policy.
func DefaultCapacity() Capacity { return Capacity{Policy: capacity.DefaultPolicy()} }

// check returns what makes no sense.
func (c Capacity) check() error {
	probe := capacity.Input{At: time.Unix(1, 0), Window: 1, Policy: c.Policy, Reference: c.Reference,
		Chassis: []capacity.Chassis{{Name: alone, Blades: []capacity.Blade{{Name: "any", Software: capacity.SoftwareBudget{PacketsPerCore: c.PerCore, Cores: c.Cores}}}}}}
	return probe.Check()
}

// alone is the chassis that blades without one are counted in.
const alone = "no chassis"

// capacityOf returns the report's input, without demand, for a spec and what it compiles
// to on the blades as they are seen.
func (m *Manager) capacityOf(v *view, spec fabric.Spec, contents map[fabric.BladeID]fabric.Compiled) capacity.Input {
	c := m.config.Capacity
	in := capacity.Input{Name: "fleet", At: m.now().UTC().Truncate(time.Second), Window: 30, Policy: c.Policy, Reference: c.Reference}
	in.Reference.Name = cmp.Or(in.Reference.Name, "one VF")
	at := map[string]*capacity.Chassis{}
	for name, ch := range spec.Chassis {
		at[name] = &capacity.Chassis{Name: name, Slots: ch.Slots}
	}
	seen := v.snapshot(m.now())
	for _, id := range slices.Sorted(maps.Keys(spec.Blades)) {
		b := spec.Blades[id]
		name := cmp.Or(b.Slot.Chassis, alone)
		if at[name] == nil {
			at[name] = &capacity.Chassis{Name: name}
		}
		blade := capacity.BladeOf(string(id), seen.Blades[id].Inventory)
		blade.Slot = b.Slot.Number
		r := v.blades[id]
		blade.Silent = r == nil || r.alive == nil || r.err != nil
		blade.Software = capacity.SoftwareBudget{PacketsPerCore: c.PerCore, Cores: c.Cores}
		load{spec, contents[id].Content, r}.onto(&blade, seen.Blades[id].Inventory)
		at[name].Blades = append(at[name].Blades, blade)
	}
	for _, name := range slices.Sorted(maps.Keys(at)) {
		slices.SortFunc(at[name].Blades, func(a, b capacity.Blade) int {
			return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Name, b.Name))
		})
		in.Chassis = append(in.Chassis, *at[name])
	}
	return in
}

// load is what one blade carries.
type load struct {
	spec    fabric.Spec
	content fabric.Content
	report  *report // nil if it has none
}

// onto fills in what is allocated on the blade, and what its tables hold.
func (l load) onto(b *capacity.Blade, inv fabric.Inventory) {
	at := map[fabric.PFID]*capacity.PF{}
	byName := map[string]*capacity.PF{}
	i := 0
	for _, n := range inv.NICs {
		for _, p := range n.PFs { // as BladeOf goes through them
			pf := &b.PFs[i]
			i++
			at[fabric.PFID{PCI: p.PCI, Serial: n.Serial}], byName[p.Name] = pf, pf
			pf.VFs.Provisioned = int64(len(p.VFs))
			pf.VFs.Total = max(pf.VFs.Total, pf.VFs.Provisioned)
			pf.Faulty = unusable(p)
		}
	}
	for _, v := range l.content.VNICs {
		pf := at[v.VF.PF]
		if pf == nil {
			continue // its card is gone
		}
		pf.VFs.Bound++
		pf.Port.Guaranteed += capacity.Rate(v.Setting.QoS.Guaranteed)
		pf.Port.Maximum += cmp.Or(capacity.Rate(v.Setting.QoS.Maximum), pf.Port.Speed)
	}
	if l.report == nil || l.report.status == nil {
		return
	}
	for _, d := range l.report.status.Status.Devices {
		l.table(d, byName)
	}
}

// unusable reports whether a PF takes no vNIC as it is: whatever placing would refuse
// for any profile.
func unusable(p fabric.PF) bool {
	return p.ESwitch != fabric.ESwitchSwitchdev || p.Netdev != nil && p.Netdev.Link == "down"
}

// table gives the PFs of a device its table. Several PFs that share one get equal parts:
// sums are right, and what fits on one of them is not overstated. Every device is asked
// to hold every rule of the blade.
func (l load) table(d api.Device, pfs map[string]*capacity.PF) {
	share := func(whole, part int) int64 { return int64((whole + part) / len(d.PFs)) } // parts 0… add up to the whole
	for i, name := range d.PFs {
		pf := pfs[name]
		if pf == nil {
			continue
		}
		used := share(d.Entries, i)
		pf.Table = capacity.Table{Limit: share(d.Limit, i), Source: capacity.Declared, Asked: share(len(l.content.Table.Rules), i), Used: &used}
		switch {
		case d.Limit == 0:
			pf.Table.Source = capacity.Unknown
		case d.Learned:
			pf.Table.Source = capacity.Learned
		}
	}
}

// capacityInput is the input for what is wanted now, with the recorded demand.
func (m *Manager) capacityInput(ctx context.Context, v *view, window int) (capacity.Input, error) {
	if v.trouble != nil {
		return capacity.Input{}, v.trouble
	}
	in := m.capacityOf(v, v.spec, m.cache.of(v))
	in.Window = cmp.Or(window, in.Window)
	if m.config.History == nil {
		return in, nil
	}
	return in, m.config.History.Fill(ctx, &in)
}

// capacityEffect says what a change would leave of the blades it concerns and of the
// fleet. Recorded demand is left out: it would hide what the change allocates behind
// what was once used. Cost: two reports, 0.2 s for 256 blades.
func (m *Manager) capacityEffect(v *view, spec fabric.Spec, before, after map[fabric.BladeID]fabric.Compiled, p *api.Preview) error {
	now, err := capacity.Report(m.capacityOf(v, v.spec, before))
	if err != nil {
		return err
	}
	then, err := capacity.Report(m.capacityOf(v, spec, after))
	if err != nil {
		return err
	}
	for i := range p.Capacity {
		p.Capacity[i].Effect = wireEffect(then.Effect(now, capacity.BladeLevel, p.Capacity[i].Blade))
	}
	fleet := wireEffect(then.Effect(now, capacity.FleetLevel, ""))
	p.Fleet = &fleet
	return nil
}

func wireEffect(e capacity.Effect) api.Effect {
	out := api.Effect{Binds: string(e.Binds), Text: e.Text}
	for _, l := range e.Left {
		out.Left = append(out.Left, api.Left{Dimension: string(l.Dimension), Unit: l.Dimension.Unit(), Usable: l.Usable, Before: l.Before, After: l.After})
	}
	return out
}
