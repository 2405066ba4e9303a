package agent

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// report publishes the status of the round that ended with err, and logs trouble when
// it begins, changes or ends.
func (a *Agent) report(err error) {
	now := a.Now()
	a.show(now)
	s := &Status{Record: a.record, Since: a.since, Reconciled: now, Drift: a.drift, Samples: a.sampled.SampleStatus, Canary: a.canary, Peeks: a.peek, Mismatches: a.mismatches, Rejected: a.rejected,
		Devices: []DeviceStatus{}, Links: []LinkStatus{}, VFs: a.vfStatus(), Rules: []RuleStatus{}, Packets: a.packets(), Lost: a.lost(), Events: []Event{}, EventTotals: map[string]uint64{}}
	if a.Links != nil {
		s.Links = a.Links()
		a.noteLinks(a.status.Load().Links, s.Links)
	}
	if c := a.Datapath.Stats().Cache; c != nil && a.Cache != nil {
		s.Cache = &CacheStatus{Pins: a.Cache.Pins, Limit: a.Cache.Limit, Flows: c.Flows, Adopted: c.Adopted, Installed: c.Installed, Evicted: c.Evicted}
	}
	if a.running != nil {
		s.Generation, s.Digest = uint64(a.running.Generation()), a.digest
		s.Rules = a.rules()
		s.Proved = a.proved()
	}
	for _, c := range a.devices {
		s.Devices = append(s.Devices, c.status(a.running, a.limited(c)))
	}
	switch {
	case err != nil:
		a.failures++
		if text := err.Error(); text != a.trouble.Text {
			a.trouble = ErrorStatus{Code: code(err), Text: text, Since: now}
			a.events.add(now, a.trouble.Code, "blade", text)
			a.Log.Error("the blade is not as wanted", "code", a.trouble.Code, "error", text)
		}
		trouble := a.trouble
		s.Error = &trouble
	default:
		a.rounds++
		if a.trouble.Text != "" {
			a.Log.Info("the blade is as wanted again", "trouble", a.trouble.Code, "lasted", now.Sub(a.trouble.Since))
		}
		a.trouble = ErrorStatus{}
	}
	s.Rounds, s.Failures = a.rounds, a.failures
	if a.events.last != nil {
		s.Events, s.EventTotals = a.events.last, maps.Clone(a.events.total)
	}
	a.status.Store(s)
	if a.Report != nil {
		a.Report(s)
	}
}

// noteLinks notes which links lost their netdevs, and which have them again.
func (a *Agent) noteLinks(was, is []LinkStatus) {
	for i, l := range is {
		switch open := i >= len(was) || was[i].Open; {
		case open && !l.Open:
			a.events.add(l.Since, eventAway, "port "+l.Port, fmt.Sprintf("netdev %s: %s", l.Netdev, l.Reason))
		case !open && l.Open:
			a.events.add(l.Since, eventBack, "port "+l.Port, "netdev "+l.Netdev)
		}
	}
}

// strangeListed is how many strange entries of a device a status lists.
const strangeListed = 64

// status says how full a device that can do m is and what is odd in it.
func (c *card) status(t *flow.Table, m device.Model) DeviceStatus {
	s := DeviceStatus{Name: c.Name, Model: m.Name, Entries: len(c.installed), Limit: m.Entries, MaskLimit: m.Masks, PFs: c.PFs, Strange: []EntryStatus{}}
	s.Learned, s.MasksLearned = m.Evidence["entries"].Tier == device.Learned, m.Evidence["masks"].Tier == device.Learned
	s.Distrusted = m.Barred != nil && m.Barred.Code == "E_DEVICE_LIES"
	s.Kinds, s.Met, s.Unmet = c.kindsMet()
	if len(c.Answers) > 0 {
		s.Claims = claims(&m, c.Answers, &s)
	}
	var ports *flow.Ports
	if t != nil {
		ports = t.Ports()
	}
	list := func(class string, e *flow.Entry) {
		if len(s.Strange) < strangeListed {
			s.Strange = append(s.Strange, entryStatus(class, e, ports))
		}
	}
	s.Foreign, s.Guards, s.Masks = c.usage.foreign, c.usage.guards, c.usage.masks
	for _, kind := range c.found.strange() {
		for i := range kind.entries {
			list(kind.name, &kind.entries[i])
		}
	}
	return s
}

// reportVFs tells in the middle of a round that VFs have left their place: somebody may
// wait for it with another blade's link. The rest is as it was.
func (a *Agent) reportVFs() {
	if a.Report == nil {
		return
	}
	s := *a.status.Load()
	s.Record, s.VFs = a.record, a.vfStatus()
	a.Report(&s)
}

// vfStatus lists the VFs that are not clean.
func (a *Agent) vfStatus() []VFStatus {
	out := []VFStatus{}
	for _, id := range slices.SortedFunc(maps.Keys(a.vfs), fabric.VFID.Compare) {
		v := a.vfs[id]
		out = append(out, VFStatus{PCI: id.PF.PCI.String(), Serial: id.PF.Serial, Index: id.Index, MAC: flow.FormatMAC(v.MAC), VLAN: v.VLAN,
			Guaranteed: uint64(v.QoS.Guaranteed), Maximum: uint64(v.QoS.Maximum), Trust: v.Trust, Spoof: v.Spoof, Link: v.Traffic, Ours: v.Ours})
	}
	return out
}

// code returns the stable code of an error, E_INTERNAL if it has none.
func code(err error) string {
	if f, ok := errors.AsType[*flow.Fault](err); ok {
		return f.Code
	}
	return "E_INTERNAL"
}

// proved reports whether the checker agrees with what every device was last read to
// hold.
func (a *Agent) proved() bool {
	return !slices.ContainsFunc(a.devices, func(c *card) bool { return c.proof.table != a.running || c.proof.err != nil })
}

// rules says of every rule where it lives. Where that is comes from what the devices
// hold; why it is not hardware, from the last plan.
func (a *Agent) rules() []RuleStatus {
	t := a.running
	entries := make([]int, t.Len()+1)
	for _, c := range a.devices {
		for i := range c.installed {
			e := &c.installed[i]
			if place, known := t.Index(e.Rule); known && offload.Ours(e.ID) && !e.Punt() {
				entries[place]++
			}
		}
	}
	out := make([]RuleStatus, t.Len()+1)
	for i := range out {
		r, s := t.Rule(i), &out[i]
		*s = RuleStatus{Name: r.Name, ID: ruleID(r.ID), Place: "software", Entries: entries[i], Hardware: Count(a.shown.hardware[r.ID]), Cache: Count(a.shown.cache[r.ID]), Software: Count(a.shown.software[r.ID]), Policed: Count(a.shown.policed[r.ID])}
		if s.Entries > 0 {
			s.Place = "hardware"
		}
		s.Whole, s.Code, s.Reason, s.Fix = a.why(r.ID, s.Entries)
	}
	return out
}

// ruleID writes an ID with 16 hexadecimal digits.
func ruleID(id flow.RuleID) string {
	const digits = "0123456789abcdef"
	var b [16]byte
	for i := range b {
		b[i] = digits[id>>(60-4*i)&15]
	}
	return string(b[:])
}

// why returns whether devices answer all of a rule, and if not, why.
func (a *Agent) why(id flow.RuleID, entries int) (whole bool, code, reason, fix string) {
	if len(a.devices) == 0 {
		return false, "E_NO_DEVICE", "the blade has no device", "configure one"
	}
	for _, c := range a.devices {
		switch p, ok := c.placements[id]; {
		case ok && !p.Whole():
			return false, p.Code, p.Reason, p.Fix
		case !ok || entries == 0:
			return false, "E_PENDING", "its entries are not in device " + c.Name + " yet", "wait, and see the error of this status"
		}
	}
	return true, "", "", ""
}

// packets lists what was answered where.
func (a *Agent) packets() (out []TierPackets) {
	for _, word := range slices.Sorted(maps.Keys(a.shown.verdicts)) {
		out = append(out, TierPackets{"hardware", word, a.shown.verdicts[word]})
	}
	for _, word := range slices.Sorted(maps.Keys(a.shown.cached)) {
		out = append(out, TierPackets{"cache", word, a.shown.cached[word]})
	}
	for _, word := range slices.Sorted(maps.Keys(a.shown.packets)) {
		out = append(out, TierPackets{"software", word, a.shown.packets[word]})
	}
	return out
}

// lost lists what software received or made and could not deal with.
func (a *Agent) lost() (out []Lost) {
	for _, why := range slices.Sorted(maps.Keys(a.shown.lost)) {
		out = append(out, Lost{why, a.shown.lost[why]})
	}
	return out
}
