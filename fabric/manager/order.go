package manager

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// Problem. A vNIC moves from blade S to blade T. T must have its VF set up and its
// rules proved before S lets go, S must be quiet before T's link goes on, and S must
// keep the vNIC's rules until it is quiet. Blades act when they like, report late, may
// be cut off in the middle, and managers come and go.
//
// Idea. [fabric.NewPlan] says the order of steps; this file says which part of it may
// be told to blades now. A blade carries out one record from quieting over proving to
// connecting by itself (package api, generation.go), so only two things need a manager:
//
//   - the content of a blade that a vNIC leaves is published only when the blade it goes
//     to is ready: VF set up, content proved;
//   - a vNIC gets Connect only when no other blade may answer for its address.
//
// Who may answer is not what was last seen: a blade may be acting on a record that it
// has not reported yet. A blade may answer for what it reported with the link on, for
// what its record connects, and, until it has reported that record, for what the record
// took away (Leaving, carried from record to record). That is all in the store, so the
// next leader decides alike; and a blade that is cut off keeps its addresses.
//
// Invariant. No two blades may answer for one address: Connect is added only where
// nobody else may, an address has one wanted place, and what may answer grows only by
// Connect.

// address is where a station is reached.
type address struct {
	vlan uint16
	mac  uint64
}

func addressOf(s fabric.Setting) address { return address{s.VLAN, s.MAC} }

// answer is a VF and an address that it may answer for. Until its blade reports, one VF
// may answer for several: the one it had and the one it gets.
type answer struct {
	vf fabric.VFID
	address
}

func (a answer) compare(o answer) int {
	return cmp.Or(a.vf.Compare(o.vf), cmp.Compare(a.vlan, o.vlan), cmp.Compare(a.mac, o.mac))
}

// answers is what one blade may answer for.
type answers map[answer]bool

// order is what one blade shall be told.
type order struct {
	content fabric.Content
	connect map[fabric.VNICName]bool
	leaving []api.Answer
}

// situation is what decides about orders.
type situation struct {
	spec     fabric.Spec
	seen     fabric.Snapshot
	contents map[fabric.BladeID]fabric.Compiled
	told     map[fabric.BladeID]*published
	reported map[fabric.BladeID]int64 // the record each blade reported
}

func newSituation(v *view, contents map[fabric.BladeID]fabric.Compiled, now time.Time) *situation {
	s := &situation{spec: v.spec, seen: v.snapshot(now), contents: contents, told: v.orders, reported: map[fabric.BladeID]int64{}}
	for id, r := range v.blades {
		if r.status != nil {
			s.reported[id] = r.status.Status.Record
		}
	}
	return s
}

// orders returns what blades shall be told that they are not told yet, and why blades
// that want something else than they have are not told.
func (s *situation) orders() (map[fabric.BladeID]order, map[fabric.BladeID]*flow.Fault) {
	want := map[address]fabric.VFID{}
	for name, vf := range s.spec.Assignments {
		if v, ok := s.spec.VNIC(name); ok {
			want[address{s.spec.Networks[v.Network].VLAN, v.MAC}] = vf
		}
	}
	may := map[fabric.BladeID]answers{}
	where := map[address][]fabric.BladeID{}
	for id := range s.spec.Blades {
		may[id] = s.answers(id)
		for a := range may[id] {
			where[a.address] = append(where[a.address], id)
		}
	}
	held := s.held(want, may)
	out := map[fabric.BladeID]order{}
	for _, id := range slices.Sorted(maps.Keys(s.spec.Blades)) {
		if held[id] != nil {
			continue
		}
		c := s.contents[id].Content
		told := s.told[id]
		if told == nil || told.digest != c.Digest {
			if why := s.waits(id, want, may); why != nil {
				held[id] = why
				continue
			}
		}
		o := order{content: c, connect: map[fabric.VNICName]bool{}}
		for _, b := range c.VNICs {
			others := slices.DeleteFunc(slices.Clone(where[addressOf(b.Setting)]), func(o fabric.BladeID) bool { return o == id })
			o.connect[b.VNIC] = len(others) == 0
		}
		o.leaving = s.leaving(id, o)
		if told == nil || told.digest != c.Digest || !sameConnects(told.record.Spec.VNICs, o.connect) {
			out[id] = o
		}
	}
	return out, held
}

// answers returns what a blade may answer for.
func (s *situation) answers(id fabric.BladeID) answers {
	out := answers{}
	for vf, state := range s.seen.Blades[id].VFs {
		if state.Traffic {
			out[answer{vf, addressOf(state.Setting)}] = true
		}
	}
	told := s.told[id]
	if told == nil {
		return out
	}
	add := func(v api.VFID, mac string, vlan uint16) {
		vf, err := modelVFID(string(id), v)
		m, err2 := flow.ParseMAC(mac)
		if cmp.Or(err, err2) == nil { // we wrote it
			out[answer{vf, address{vlan, m}}] = true
		}
	}
	if s.reported[id] < told.kv.Modified {
		for _, a := range told.record.Spec.Leaving {
			add(a.VFID, a.MAC, a.VLAN)
		}
	}
	for _, o := range told.record.Spec.VNICs {
		if o.Connect {
			add(o.VFID, o.MAC, o.VLAN)
		}
	}
	return out
}

// leaving returns what the blade may answer for and the order takes away.
func (s *situation) leaving(id fabric.BladeID, o order) []api.Answer {
	keeps := answers{}
	for _, b := range o.content.VNICs {
		if o.connect[b.VNIC] {
			keeps[answer{b.VF, addressOf(b.Setting)}] = true
		}
	}
	var out []api.Answer
	for _, a := range slices.SortedFunc(maps.Keys(s.answers(id)), answer.compare) {
		v := s.seen.Blades[id].VFs[a.vf]
		if foreign := v.Setting != (fabric.Setting{}) && !v.Ours; !keeps[a] && !foreign {
			out = append(out, api.Answer{VFID: wireVFID(a.vf), MAC: flow.FormatMAC(a.mac), VLAN: a.vlan})
		}
	}
	return out
}

func sameConnects(told []api.Order, now map[fabric.VNICName]bool) bool {
	for _, o := range told {
		if now[fabric.VNICName{Profile: o.Profile, VNIC: o.VNIC}] != o.Connect {
			return false
		}
	}
	return true
}

// held returns the blades of which nothing can be asked, and those that must keep what
// shall go there.
func (s *situation) held(want map[address]fabric.VFID, may map[fabric.BladeID]answers) map[fabric.BladeID]*flow.Fault {
	held := map[fabric.BladeID]*flow.Fault{}
	for id := range s.spec.Blades {
		b, known := s.seen.Blades[id]
		what := "blade " + string(id)
		switch c := s.contents[id]; {
		case !known:
			held[id] = &flow.Fault{Code: "E_BLADE_UNSEEN", What: what, Why: "no agent has reported it", Remedy: "start its agent"}
		case b.Silent():
			held[id] = &flow.Fault{Code: "E_BLADE_SILENT", What: what, Why: "its agent does not report any more", Remedy: "see that it runs and reaches the store; if it is off for good, delete it"}
		case c.Err != nil:
			held[id] = api.NewError(c.Err).Fault()
		}
		for _, bound := range s.contents[id].VNICs {
			if v := b.VFs[bound.VF]; v.Setting != (fabric.Setting{}) && !v.Ours && held[id] == nil {
				held[id] = &flow.Fault{Code: "E_VF_FOREIGN", What: bound.VF.String(), Why: "somebody else has set it up: " + v.Setting.String(), Remedy: "clear it by hand, or move profile " + bound.VNIC.Profile}
			}
		}
	}
	for more := true; more; {
		more = false
		for id, all := range may {
			if held[id] != nil {
				continue
			}
			for a := range all {
				if next, wanted := want[a.address]; wanted && next != a.vf && held[next.Blade] != nil {
					held[id] = &flow.Fault{Code: "E_HELD", What: "blade " + string(id),
						Why:    fmt.Sprintf("its %s shall go to blade %s, which cannot take it: %s", flow.FormatMAC(a.mac), next.Blade, held[next.Blade].Why),
						Remedy: "move it elsewhere, or help blade " + string(next.Blade)}
					more = true
				}
			}
		}
	}
	return held
}

// waits says for what a blade must wait before it lets go of the vNICs that leave it.
func (s *situation) waits(id fabric.BladeID, want map[address]fabric.VFID, may map[fabric.BladeID]answers) *flow.Fault {
	for _, a := range slices.SortedFunc(maps.Keys(may[id]), answer.compare) {
		next, wanted := want[a.address]
		if !wanted || next.Blade == id || s.left(next.Blade, want, may) || s.ready(next) {
			continue
		}
		return &flow.Fault{Code: "E_MOVING", What: "blade " + string(id),
			Why: fmt.Sprintf("it keeps %s until blade %s has proved its place", flow.FormatMAC(a.mac), next.Blade), Remedy: "wait"}
	}
	return nil
}

// left reports whether a vNIC leaves the blade for another: then that one cannot be
// ready before, and two blades that change places would wait for each other.
func (s *situation) left(id fabric.BladeID, want map[address]fabric.VFID, may map[fabric.BladeID]answers) bool {
	for a := range may[id] {
		if next, wanted := want[a.address]; wanted && next.Blade != id && s.told[id] != nil && s.told[id].digest != s.contents[id].Digest {
			return true
		}
	}
	return false
}

// ready reports whether the VF is set up and its blade has proved the wanted content.
func (s *situation) ready(vf fabric.VFID) bool {
	b := s.seen.Blades[vf.Blade]
	c := s.contents[vf.Blade]
	if b.Proved != c.Digest {
		return false
	}
	i := slices.IndexFunc(c.VNICs, func(o fabric.Bound) bool { return o.VF == vf })
	if i < 0 {
		return false
	}
	have, wanted := b.VFs[vf].Setting, c.VNICs[i].Setting
	have.Traffic, wanted.Traffic = false, false
	return have == wanted
}
