package manager

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Who has most to do, from the last two reports of every blade: rate.go says what they
// are worth. Nothing is kept for it but the report before the last. Sorting and cutting
// are done here, so that a fabric with 100,000 rules answers with a screen of them. Cost:
// one pass over what all blades have reported.

// busiest adds the operation that says who has most to do.
func (m *Manager) busiest(h huma.API) {
	type input struct {
		Kind  string `path:"kind" doc:"blade, pf, vf, vnic, rule, verdict or device"`
		Blade string `query:"blade" doc:"only what is on this blade"`
		Sort  string `query:"sort" doc:"name of a figure; the kind's first if absent"`
		Limit string `query:"limit" doc:"at most so many; 0 for all"`
	}
	register(m, h, "list-busy", http.MethodGet, "busy/{kind}", "List what is busiest, the busiest first; what nobody knows is behind that", nil,
		func(ctx context.Context, in *input) (*output[api.List[api.Busy]], error) {
			kinds := api.BusyKinds()
			i := slices.IndexFunc(kinds, func(k api.BusyKind) bool { return k.Name == in.Kind })
			if i < 0 {
				return nil, &flow.Fault{Code: "E_NOT_FOUND", What: fmt.Sprintf("kind %q", in.Kind), Why: "nothing is counted of it", Remedy: flow.Suggest(in.Kind, api.BusyNames()...), Err: store.ErrNotFound}
			}
			columns := kinds[i].ColumnNames()
			by := cmp.Or(in.Sort, columns[0])
			if !slices.Contains(columns, by) {
				return nil, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("sort %q", by), Why: "a " + in.Kind + " has no such figure", Remedy: flow.Suggest(by, columns...)}
			}
			limit, err := number("limit", in.Limit)
			if err != nil {
				return nil, err
			}
			v, err := m.view(ctx, 0)
			if err != nil {
				return nil, err
			}
			all := v.busy(in.Kind, in.Blade, m.now())
			byFigure(all, by)
			page := listOf(v, all)
			if n := int(limit); n > 0 && len(all) > n {
				page.Items, page.Metadata.Remaining = all[:n], len(all)-n
			}
			return &output[api.List[api.Busy]]{Body: page}, nil
		})
}

// byFigure sorts the largest to the front, and what is not known to the back.
func byFigure(all []api.Busy, column string) {
	slices.SortFunc(all, func(a, b api.Busy) int {
		x, known := a.Status.Figures[column]
		y, other := b.Status.Figures[column]
		switch {
		case known != other && known:
			return -1
		case known != other:
			return 1
		}
		return cmp.Or(cmp.Compare(y, x), strings.Compare(a.Metadata.Name, b.Metadata.Name))
	})
}

// busy returns all things of a kind with their figures, in no order.
func (v *view) busy(kind, blade string, now time.Time) (all []api.Busy) {
	owners := map[string]string{} // of functions, by blade and port
	if kind == "vf" || kind == "vnic" {
		for _, f := range v.vfs(filter{blade: blade}) {
			if f.Status.VNIC != "" {
				owners[f.Metadata.Name] = f.Status.VNIC
			}
		}
	}
	ids := slices.Collect(maps.Keys(v.blades))
	if kind == "blade" { // those that never reported, too, and not those that were deleted
		ids = slices.Collect(maps.Keys(v.spec.Blades))
	}
	for _, id := range ids {
		if blade != "" && blade != string(id) {
			continue
		}
		l := labour{blade: string(id), report: cmp.Or(v.blades[id], &report{}), owners: owners, now: now}
		switch kind {
		case "blade":
			all = append(all, l.whole())
		case "pf", "vf", "vnic":
			all = append(all, l.functions(kind)...)
		case "rule":
			all = append(all, l.rules()...)
		case "verdict":
			all = append(all, l.verdicts()...)
		case "device":
			all = append(all, l.devices()...)
		}
	}
	return all
}

// labour is one blade's.
type labour struct {
	blade string
	*report
	owners map[string]string
	now    time.Time
}

// thing is an object without figures.
func (l *labour) thing(name string, from ...string) api.Busy {
	b := api.Busy{Head: api.NewHead(api.KindBusy, name), Status: api.BusyStatus{Blade: l.blade, Readings: map[string]api.Reading{}, Figures: map[string]float64{}}}
	for _, f := range from {
		b.Status.Readings[f] = l.reading(f)
	}
	return b
}

// reading says how good a source of figures is.
func (l *labour) reading(from string) api.Reading {
	var before, last, got time.Time
	switch {
	case from == api.FromRules && l.report.rules != nil:
		if last, got = l.report.rules.Status.At, l.got.rules; l.before.rules != nil {
			before = l.before.rules.Status.At
		}
	case from == api.FromPorts && l.ports != nil:
		if last, got = l.ports.Status.At, l.got.ports; l.before.ports != nil {
			before = l.before.ports.Status.At
		}
	case from == api.FromTable && l.status != nil: // it is not counted, so it is good for as long as the blade reports
		if l.alive == nil {
			return api.Reading{State: api.ReadingSilent, At: l.silent}
		}
		return api.Reading{State: api.ReadingMeasured, At: l.now}
	}
	return standing(l.alive != nil, before, last, l.now.Sub(got))
}

// rated sets a figure to what grew by a second, if that is known.
func rated(b *api.Busy, column, from string, there bool, grew uint64) {
	if perSecond, known := rate(b.Status.Readings[from], there, grew); known {
		b.Status.Figures[column] = perSecond
	}
}

// answered is by how many packets tiers' counters grew, and those of one verdict.
type answered struct{ hardware, cache, software, dropped uint64 }

// set sets the figures of all tiers.
func (a answered) set(b *api.Busy, there bool) {
	rated(b, "packets", api.FromRules, there, a.hardware+a.cache+a.software)
	rated(b, "hardware", api.FromRules, there, a.hardware)
	rated(b, "cache", api.FromRules, there, a.cache)
	rated(b, "software", api.FromRules, there, a.software)
}

// counters returns packets by tier and verdict; of no report, none.
func counters(r *api.Rules) map[api.TierPackets]uint64 {
	all := map[api.TierPackets]uint64{}
	if r != nil {
		for _, p := range r.Status.Packets {
			all[api.TierPackets{Tier: p.Tier, Verdict: p.Verdict}] = p.Packets
		}
	}
	return all
}

// answeredBetween returns what a blade answered between two reports.
func answeredBetween(before, last *api.Rules) (a answered) {
	was := counters(before)
	for key, packets := range counters(last) {
		n := grown(was[key], packets)
		switch key.Tier {
		case "hardware":
			a.hardware += n
		case "cache":
			a.cache += n
		case "software":
			a.software += n
		}
		if key.Verdict == "drop" {
			a.dropped += n
		}
	}
	return a
}

// whole is the blade.
func (l *labour) whole() api.Busy {
	b := l.thing(l.blade, api.FromRules, api.FromPorts, api.FromTable)
	if l.report.rules != nil {
		a := answeredBetween(l.before.rules, l.report.rules)
		a.set(&b, true)
		rated(&b, "dropped", api.FromRules, true, a.dropped)
	}
	if l.ports != nil {
		bits, known := 0.0, false
		for _, f := range l.functions("pf") {
			if n, ok := f.Status.Figures["bits"]; ok {
				bits, known = bits+n, true
			}
		}
		if known {
			b.Status.Figures["bits"] = bits
		}
	}
	for _, d := range l.devices() {
		if used, known := d.Status.Figures["table"]; known {
			b.Status.Figures["table"] = max(used, b.Status.Figures["table"])
		}
	}
	return b
}

// functions are PFs, VFs, or the vNICs that have VFs.
func (l *labour) functions(kind string) (all []api.Busy) {
	if l.ports == nil {
		return nil
	}
	was := map[string]api.PortCount{}
	if l.before.ports != nil {
		for _, p := range l.before.ports.Status.Ports {
			was[p.Port] = p
		}
	}
	full := l.ceilings()
	for _, p := range l.ports.Status.Ports {
		name := l.blade + "/" + p.Port
		owner := l.owners[name]
		if (strings.Count(p.Port, "/") == 1) != (kind == "pf") || kind == "vnic" && owner == "" {
			continue
		}
		b := l.thing(name, api.FromPorts)
		switch {
		case kind == "vnic":
			b.Metadata.Name, b.Status.Words = owner, map[string]string{"port": p.Port}
		case owner != "":
			b.Status.Words = map[string]string{"vnic": owner}
		}
		old, there := was[p.Port]
		rated(&b, "received", api.FromPorts, there, 8*grown(old.Received.Bytes, p.Received.Bytes))
		rated(&b, "sent", api.FromPorts, there, 8*grown(old.Sent.Bytes, p.Sent.Bytes))
		rated(&b, "packets", api.FromPorts, there, grown(old.Received.Packets, p.Received.Packets)+grown(old.Sent.Packets, p.Sent.Packets))
		f := b.Status.Figures
		in, out := f["received"], f["sent"]
		if _, known := f["sent"]; known {
			f["bits"] = in + out
			if limit := full[p.Port]; kind == "pf" && limit > 0 {
				f["load"] = 100 * max(in, out) / float64(limit)
			} else if limit > 0 {
				f["load"] = 100 * out / float64(limit) // a vNIC's ceiling is for what it sends
			}
		}
		all = append(all, b)
	}
	return all
}

// ceilings are bits a second that functions can do at most: PFs by their link, VFs as
// they are set up.
func (l *labour) ceilings() map[string]uint64 {
	full := map[string]uint64{}
	if l.inventory == nil {
		return full
	}
	ceiling := map[api.VFID]uint64{}
	if l.status != nil {
		for _, f := range l.status.Status.VFs {
			ceiling[f.VFID] = f.Maximum
		}
	}
	for _, n := range l.inventory.Status.NICs {
		for _, p := range n.PFs {
			if p.Netdev != nil {
				full[p.Name] = p.Netdev.BitsPerSecond
			}
			for _, f := range p.VFs {
				full[f.Name] = ceiling[api.VFID{PCI: p.PCI, Serial: n.Serial, Index: f.Index}]
			}
		}
	}
	return full
}

// rules are those that the blade lists.
func (l *labour) rules() (all []api.Busy) {
	if l.report.rules == nil {
		return nil
	}
	was, whole := map[string]*api.RuleState{}, false
	if l.before.rules != nil {
		old := &l.before.rules.Status
		whole = old.Omitted == 0
		for i := range old.Rules {
			was[old.Rules[i].ID] = &old.Rules[i]
		}
	}
	for i := range l.report.rules.Status.Rules {
		r := &l.report.rules.Status.Rules[i]
		b := l.thing(l.blade+"/"+r.Name, api.FromRules)
		b.Status.Words = map[string]string{"place": r.Place}
		old, there := was[r.ID]
		if !there { // it was not there and had counted nothing, unless it only was not listed
			old, there = &api.RuleState{}, whole
		}
		a := answered{hardware: grown(old.Hardware.Packets, r.Hardware.Packets), cache: grown(old.Cache.Packets, r.Cache.Packets), software: grown(old.Software.Packets, r.Software.Packets)}
		a.set(&b, there)
		rated(&b, "bits", api.FromRules, there, 8*(grown(old.Hardware.Bytes, r.Hardware.Bytes)+grown(old.Cache.Bytes, r.Cache.Bytes)+grown(old.Software.Bytes, r.Software.Bytes)))
		b.Status.Figures["total"] = float64(r.Hardware.Packets + r.Cache.Packets + r.Software.Packets)
		all = append(all, b)
	}
	return all
}

// verdicts are packets by tier and verdict.
func (l *labour) verdicts() (all []api.Busy) {
	if l.report.rules == nil {
		return nil
	}
	was := counters(l.before.rules)
	for _, p := range l.report.rules.Status.Packets {
		b := l.thing(l.blade+"/"+p.Tier+"/"+p.Verdict, api.FromRules)
		rated(&b, "packets", api.FromRules, true, grown(was[api.TierPackets{Tier: p.Tier, Verdict: p.Verdict}], p.Packets))
		b.Status.Figures["total"] = float64(p.Packets)
		all = append(all, b)
	}
	return all
}

// devices are match tables.
func (l *labour) devices() (all []api.Busy) {
	if l.status == nil {
		return nil
	}
	for _, d := range l.status.Status.Devices {
		b := l.thing(l.blade+"/"+d.Name, api.FromTable)
		f := b.Status.Figures
		f["entries"], f["guards"], f["foreign"] = float64(d.Entries), float64(d.Guards), float64(d.Foreign)
		if d.Limit > 0 {
			f["limit"], f["table"] = float64(d.Limit), 100*float64(d.Entries)/float64(d.Limit)
		}
		all = append(all, b)
	}
	return all
}
