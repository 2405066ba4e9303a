package capacity

// How many vNICs of a profile still fit, and what is free and yet of no use to it.
//
//	fit(pf)       = min over d of floor(free_d(pf) / need_d)
//	vNICs         = sum over pf of fit(pf)
//	stranded_d    = sum over pf of free_d(pf) - need_d × fit(pf), where another d binds
//	fragmentation = 1 - vNICs / fit(pooled)
//
// A vNIC lives on one PF, so room is counted PF by PF and never summed first: a fleet
// with half a vNIC's bandwidth on each of a hundred ports has room for none. All vNICs
// of the profile are alike, so the sum is the exact answer of the bin packing; no
// order of placement does better.
//
// free is what remains on the PF by the two formulas of figure.go, never below zero.
// The software budget belongs to the blade and is shared by its PFs, so it caps their
// sum; what it keeps out is stranded on the PFs. A dimension whose total is unknown on
// a PF limits nothing there and makes the answer "at most". A faulty PF, and a blade
// whose agent is silent, take none.
//
// A PF can have more VFs than it has (sriov_totalvfs and sriov_numvfs), and nobody makes
// them by placing a vNIC: Existing is how many find a VF that is there.
//
// The room of single PFs knows nothing of the reserve for a lost blade, which is held
// by the fleet as a whole; AfterReserve is the answer that does.

// fit is the packing of one node.
type fit struct {
	vnics    int64
	existing int64 // of vnics, on VFs that are there
	atMost   bool
	free     [len(dimensions)]int64 // summed over the PFs, the software budget over the blades
	open     [len(dimensions)]bool  // unknown somewhere: free says nothing
	stranded [len(dimensions)]*int64
	binds    [len(dimensions)]int // PFs on which the dimension keeps the next vNIC out
}

// pack fills in the fit of n and everything below it.
func (n *node) pack(policy Policy, p Profile) {
	n.fit = fit{}
	for _, child := range n.children {
		child.pack(policy, p)
	}
	switch n.level {
	case PortLevel:
		return
	case PFLevel:
		n.packPF(policy, p)
		return
	}
	for _, child := range n.children {
		n.fit.add(&child.fit)
	}
	if n.level == BladeLevel {
		n.capBySoftware(policy, p)
	}
}

func (n *node) packPF(policy Policy, p Profile) {
	f := &n.fit
	f.vnics = -1
	dims := [...]Dimension{Slots, Bandwidth, Entries}
	for _, d := range dims {
		need, i := p.need(d), index(d)
		if need == 0 {
			continue
		}
		left, known := n.free(d, policy)
		f.free[i], f.open[i] = left, !known
		f.atMost = f.atMost || !known
		if known && (f.vnics < 0 || left/need < f.vnics) {
			f.vnics = left / need
		}
	}
	if n.faulty || n.silent {
		f.vnics, f.atMost = 0, false
		f.open = [len(dimensions)]bool{}
		return
	}
	f.existing = min(f.vnics, max(0, n.provisioned-n.cell(Slots).known.allocated))
	for _, d := range dims {
		need, i := p.need(d), index(d)
		if need == 0 || f.open[i] {
			continue
		}
		left := f.free[i] - need*f.vnics
		if f.free[i]/need == f.vnics {
			f.binds[i] = 1
			left = 0
		}
		f.stranded[i] = &left
	}
}

// capBySoftware lets the blade's software budget limit what its PFs take together.
func (n *node) capBySoftware(policy Policy, p Profile) {
	need, s := p.need(Software), index(Software)
	if need == 0 || len(n.children) == 0 {
		return
	}
	f := &n.fit
	left, known := n.free(Software, policy)
	f.free[s], f.open[s] = left, !known
	f.atMost = f.atMost || !known
	if !known {
		return
	}
	room := left / need
	if room >= f.vnics {
		rest := left - need*f.vnics
		if room == f.vnics {
			rest = 0
		}
		f.stranded[s] = &rest
		return
	}
	f.vnics, f.existing = room, min(f.existing, room)
	f.stranded[s] = new(int64)
	pfs := 0
	for _, pf := range n.children {
		if pf.fit.vnics > 0 {
			pfs++
		}
	}
	f.binds = [len(dimensions)]int{}
	f.binds[s] = pfs
	for _, d := range [...]Dimension{Slots, Bandwidth, Entries} {
		if i := index(d); f.stranded[i] != nil {
			rest := f.free[i] - p.need(d)*f.vnics
			f.stranded[i] = &rest
		}
	}
}

func (f *fit) add(o *fit) {
	f.vnics += o.vnics
	f.existing += o.existing
	f.atMost = f.atMost || o.atMost
	for i := range dimensions {
		f.free[i] += o.free[i]
		f.open[i] = f.open[i] || o.open[i]
		f.binds[i] += o.binds[i]
		if o.stranded[i] != nil {
			sum := *o.stranded[i] + deref(f.stranded[i])
			f.stranded[i] = &sum
		}
	}
}

// free returns what of d a new vNIC can have on n itself; known is false if nobody
// can say. Nothing is free on what is faulty or silent.
func (n *node) free(d Dimension, policy Policy) (left int64, known bool) {
	if n.faulty || n.silent {
		return 0, true
	}
	left, _, known = n.cell(d).balance(policy, d).remaining()
	return max(0, left), known
}

// pooled returns how many vNICs would fit if all that is free were in one place.
func (f *fit) pooled(p Profile) int64 {
	most := int64(-1)
	for i, d := range dimensions {
		if need := p.need(d); need > 0 && !f.open[i] && (most < 0 || f.free[i]/need < most) {
			most = f.free[i] / need
		}
	}
	return max(most, f.vnics)
}

// mostBinding returns the dimension that keeps the next vNIC out on most PFs.
func (f *fit) mostBinding() Dimension {
	best := 0
	for i := range dimensions {
		if f.binds[i] > f.binds[best] {
			best = i
		}
	}
	if f.binds[best] == 0 {
		return ""
	}
	return dimensions[best]
}

// fitOf writes the packing of n down.
func (n *node) fitOf(policy Policy, p Profile) *Fit {
	f := &Fit{VNICs: n.fit.vnics, Existing: n.fit.existing, AtMost: n.fit.atMost, Binds: n.fit.mostBinding(), Pooled: n.fit.pooled(p)}
	if f.Pooled > 0 {
		f.Fragmentation = round(1-float64(f.VNICs)/float64(f.Pooled), 4)
	}
	f.AfterReserve = f.VNICs
	for _, d := range dimensions {
		need, c := p.need(d), n.cell(d)
		if need == 0 || c.unknown.parts > 0 {
			continue
		}
		if left, _, ok := c.balance(policy, d).remaining(); ok {
			f.AfterReserve = min(f.AfterReserve, max(0, left)/need)
		}
	}
	return f
}
