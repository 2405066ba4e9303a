package fabric

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Policy is how to choose among places that fit.
type Policy string

// The policies.
const (
	Spread Policy = "spread" // the blade and PF with the most room: the default
	Pack   Policy = "pack"   // those with the least, so that others stay whole or empty
)

// Candidate is a blade where a profile may live, and whether it fits there.
type Candidate struct {
	Blade  BladeID
	WhyNot *flow.Fault // nil if the whole profile fits
	PFs    []PFCandidate
}

// PFCandidate is a PF of a candidate.
type PFCandidate struct {
	Name    string
	PF      PFID
	FreeVFs int
	// Guaranteeable is what may still be guaranteed to vNICs; 0 if the link's speed is
	// not known.
	Guaranteeable BitsPerSecond
	Room          Room        // of its device; a Limit of 0 is not known
	WhyNot        *flow.Fault // nil if each vNIC of the profile, alone, would fit
}

// Place finds a place for a profile in what s leaves free; if s has it already,
// as if it were not there. With nothing that fits it is a *[flow.Fault] of the
// code that most candidates have, which says it of one of them; all candidates say
// why not. The same arguments give the same answer.
func Place(s Spec, seen Snapshot, p Profile, policy Policy) (Placement, []Candidate, error) {
	st := NewStock(s.WithoutProfile(p.Name), seen)
	at, err := st.Place(p, policy)
	return at, st.Candidates(p), err
}

// Fits returns nil iff every assignment of s is possible on the blades as they are
// seen, else the first *[flow.Fault]: a VF that is not there, a rate over the link,
// guarantees over what the link can keep. The spec must be valid.
func (s Spec) Fits(seen Snapshot) error {
	sum := map[VFID]BitsPerSecond{} // of each PF, by a VFID with index 0
	for _, name := range sorted(s.Assignments) {
		vf := s.Assignments[name]
		v, _ := s.VNIC(name)
		inv := seen.Blades[vf.Blade].Inventory
		what := "vNIC " + name.String()
		pf, ok := inv.PF(vf.PF)
		if ok {
			_, ok = pf.VF(vf.Index)
		}
		if !ok {
			return fault("E_VF_UNKNOWN", what, fmt.Sprintf("there is no %s", vf), "place the profile elsewhere")
		}
		if only := s.Profiles[name.Profile].Where.PF; only != "" && only != pf.Name {
			return fault("E_POOL", what, fmt.Sprintf("it is on %s and its profile may live on %s only", pf.Name, only), "move it, or widen the pool")
		}
		if pf.Netdev == nil || pf.Netdev.Speed == 0 {
			continue
		}
		link := pf.Netdev.Speed
		if rate := max(v.QoS.Maximum, v.QoS.Guaranteed); rate > link {
			return fault("E_RATE_LINK", what, fmt.Sprintf("%s is more than the link of %s, %s", rate, pf.Name, link), "lower the rate")
		}
		on := VFID{Blade: vf.Blade, PF: vf.PF}
		sum[on] += v.QoS.Guaranteed
		if usable := link / 100 * (100 - Buffer); sum[on] > usable {
			return fault("E_GUARANTEE", what, fmt.Sprintf("%s are guaranteed on %s of blade %s, which can keep %s", sum[on], pf.Name, vf.Blade, usable), "guarantee less, or move a profile away")
		}
	}
	return nil
}

// Place finds a place for a profile that has none, and does not take it; with nothing
// that fits it says why, which costs as much as looking at all candidates.
func (st *Stock) Place(p Profile, policy Policy) (Placement, error) {
	if at, fits := st.Fit(p, policy); fits {
		return at, nil
	}
	return nil, st.refusal(p)
}

// Fit is Place without reasons.
func (st *Stock) Fit(p Profile, policy Policy) (_ Placement, fits bool) {
	var blades []*bladeStock
	for _, b := range st.blades {
		if b.why == nil && p.Where.Holds(b.Blade) {
			blades = append(blades, b)
		}
	}
	slices.SortStableFunc(blades, func(a, b *bladeStock) int {
		load := cmp.Or(cmp.Compare((a.total-a.free)*b.total, (b.total-b.free)*a.total), cmp.Compare(a.sum, b.sum))
		if policy == Pack {
			return -load
		}
		return load
	})
	for _, b := range blades {
		if at := st.on(b, p, policy); at != nil {
			return at, true
		}
	}
	return nil, false
}

// refusal says why a profile fits nowhere.
func (st *Stock) refusal(p Profile) error {
	count := map[string]int{}
	var most *flow.Fault
	all := st.Candidates(p)
	for _, c := range all {
		if c.WhyNot == nil {
			continue
		}
		count[c.WhyNot.Code]++
		if most == nil || count[c.WhyNot.Code] > count[most.Code] {
			most = c.WhyNot
		}
	}
	if most == nil {
		return fault("E_POOL", "profile "+p.Name, "there is no blade where it may live", "widen the pool, or add a blade")
	}
	why := most.What + ": " + most.Why
	if len(all) > 1 {
		why = fmt.Sprintf("it fits on none of %d blades; %d are like this: %s", len(all), count[most.Code], why)
	}
	return fault(most.Code, "profile "+p.Name, why, most.Remedy)
}

// on returns a place for the profile on one blade, or nil.
func (st *Stock) on(b *bladeStock, p Profile, policy Policy) Placement {
	if b.free < len(p.VNICs) {
		return nil
	}
	s := search{profile: p, need: st.need(b, p), pack: policy == Pack}
	for _, pf := range b.pfs {
		copy := *pf
		s.pfs = append(s.pfs, &copy)
	}
	s.order = slices.Clone(p.VNICs)
	slices.SortStableFunc(s.order, func(a, b VNIC) int {
		return cmp.Or(kindOf(b.RDMA)-kindOf(a.RDMA), cmp.Compare(b.QoS.Guaranteed, a.QoS.Guaranteed),
			cmp.Compare(b.QoS.Maximum, a.QoS.Maximum), cmp.Compare(a.Name, b.Name))
	})
	if !s.place(0) {
		return nil
	}
	at := Placement{}
	for i, v := range s.order {
		at[VNICName{p.Name, v.Name}] = VFID{b.ID, s.chosen[i].pf.id, s.chosen[i].vf}
	}
	return at
}

// search is a search for PFs for the vNICs of a profile, on copies of a blade's PFs.
type search struct {
	profile Profile
	need    int
	pack    bool
	pfs     []*pfStock
	order   []VNIC
	chosen  []choice // for the first vNICs of order
}

type choice struct {
	pf *pfStock
	vf int
}

// place finds PFs for the vNICs from i on; if it fails, everything is as before.
func (s *search) place(i int) bool {
	if i == len(s.order) {
		return true
	}
	v := s.order[i]
	order := slices.Clone(s.pfs)
	slices.SortStableFunc(order, func(a, b *pfStock) int {
		room := cmp.Or(cmp.Compare(b.freeVFs(), a.freeVFs()), cmp.Compare(b.usable()-min(b.usable(), b.sum), a.usable()-min(a.usable(), a.sum)))
		if s.pack {
			return -room
		}
		return room
	})
	for _, pf := range order {
		if pf.refuse(v, s.profile.Where, s.need) != "" {
			continue
		}
		kind := kindOf(v.RDMA)
		if len(pf.vfs[kind]) == 0 {
			kind = 1 // a plain vNIC takes a VF with RDMA if nothing else is free
		}
		before := *pf
		s.chosen = append(s.chosen, choice{pf, pf.vfs[kind][0]})
		pf.vfs[kind] = pf.vfs[kind][1:]
		pf.sum += v.QoS.Guaranteed
		if s.place(i + 1) {
			return true
		}
		*pf = before
		s.chosen = s.chosen[:i]
	}
	return false
}

// Candidates returns all blades where a profile that has no place may live, in order,
// and why it does not fit on those on which it does not.
func (st *Stock) Candidates(p Profile) []Candidate {
	var out []Candidate
	for _, b := range st.blades {
		if !p.Where.Holds(b.Blade) {
			continue
		}
		c := Candidate{Blade: b.ID, WhyNot: b.why}
		need := st.need(b, p)
		for _, pf := range b.pfs {
			c.PFs = append(c.PFs, pf.candidate(b.ID, p, need))
		}
		if c.WhyNot == nil && st.on(b, p, Spread) == nil {
			c.WhyNot = b.whyNot(p, c.PFs)
		}
		out = append(out, c)
	}
	return out
}

func (p *pfStock) candidate(b BladeID, profile Profile, need int) PFCandidate {
	c := PFCandidate{Name: p.name, PF: p.id, FreeVFs: p.freeVFs(), Guaranteeable: p.usable() - min(p.usable(), p.sum), Room: p.room}
	for _, v := range profile.VNICs {
		if code := p.refuse(v, profile.Where, need); code != "" {
			why, remedy := p.explain(code, v, profile.Where, need)
			c.WhyNot = &flow.Fault{Code: code, What: fmt.Sprintf("blade %s: %s for vNIC %s", b, p.name, v.Name), Why: why, Remedy: remedy}
			break
		}
	}
	return c
}

// whyNot says why a profile does not fit on a blade: a reason of one PF if no PF takes
// one of its vNICs, else that they do not fit together.
func (b *bladeStock) whyNot(p Profile, pfs []PFCandidate) *flow.Fault {
	if len(b.pfs) == 0 {
		return &flow.Fault{Code: "E_VF_NONE", What: "blade " + string(b.ID), Why: "it has no PF", Remedy: "see what its inventory says"}
	}
	var first *flow.Fault
	for _, pf := range pfs {
		if pf.WhyNot == nil {
			return &flow.Fault{Code: "E_TOGETHER", What: "blade " + string(b.ID), Why: fmt.Sprintf("each of the %d vNICs fits, all together do not", len(p.VNICs)),
				Remedy: "move a profile away, or guarantee less"}
		}
		if pf.WhyNot.Code != "E_POOL" {
			first = cmp.Or(first, pf.WhyNot)
		}
	}
	return cmp.Or(first, pfs[0].WhyNot)
}
