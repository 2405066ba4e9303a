package capacity

import "fmt"

// add says what would happen if the vNICs came. It places them one by one on the PF
// that has room for most of them, the first of equals, as an operator who spreads load
// would; any other order places as many, because they are all alike. Then everything is
// worked out again with them in place, reserve and buffer included.
func add(in Input, a Addition) *WhatIf {
	before := newTree(in, nil, a.Profile)
	before.pack(in.Policy, a.Profile)
	w := &WhatIf{Profile: a.Profile, Wanted: a.VNICs, AtMost: before.fit.atMost, Places: []Place{}, Changes: []Change{}, Warnings: []string{}}
	placed := spread(before, a.VNICs)
	lacking := int64(0) // VFs
	before.walk(func(n *node) {
		if k := placed[n.name]; n.level == PFLevel && k > 0 {
			w.Places = append(w.Places, Place{n.name, k})
			w.Placed += k
			lacking += max(0, k-max(0, n.provisioned-n.cell(Slots).known.allocated))
		}
	})
	after := newTree(in, placed, a.Profile)
	after.pack(in.Policy, a.Profile)
	w.More, w.RunsOut = after.fit.vnics, after.fit.mostBinding()
	if w.Placed < w.Wanted {
		w.Warnings = append(w.Warnings, fmt.Sprintf("%s of %s vNICs find no place: %s runs out first", count(w.Wanted-w.Placed), count(w.Wanted), w.RunsOut.Title()))
	}
	if lacking > 0 {
		w.Warnings = append(w.Warnings, fmt.Sprintf("%s of the VFs they would take do not exist yet: make them first (sriov_numvfs)", count(lacking)))
	}
	w.compare(before, after, in.Policy)
	return w
}

// spread returns how many of n vNICs each PF takes. Each step costs one look at every PF.
func spread(fleet *node, n int64) map[string]int64 {
	type room struct {
		pf    string
		left  int64
		blade *int64 // what the software budget of its blade still lets in
	}
	var rooms []*room
	fleet.walk(func(b *node) {
		if b.level != BladeLevel {
			return
		}
		left := b.fit.vnics
		for _, pf := range b.children {
			if pf.fit.vnics > 0 {
				rooms = append(rooms, &room{pf.name, pf.fit.vnics, &left})
			}
		}
	})
	placed := map[string]int64{}
	for range n {
		var widest *room
		for _, r := range rooms {
			if *r.blade > 0 && r.left > 0 && (widest == nil || min(r.left, *r.blade) > min(widest.left, *widest.blade)) {
				widest = r
			}
		}
		if widest == nil {
			break
		}
		widest.left--
		*widest.blade--
		placed[widest.pf]++
	}
	return placed
}

// compare lists what differs, scope by scope. The two trees have the same shape.
func (w *WhatIf) compare(before, after *node, p Policy) {
	var olds []*node
	before.walk(func(n *node) { olds = append(olds, n) })
	i := 0
	after.walk(func(n *node) {
		old := olds[i]
		i++
		for _, d := range dimensions {
			f, ok := n.figure(d, p)
			g, _ := old.figure(d, p)
			if !ok {
				continue
			}
			c := Change{n.level, n.name, d, d.Unit(), standing(g), standing(f), Standing{}}
			c.Delta = c.After.minus(c.Before)
			if c.Delta.zero() {
				continue
			}
			w.Changes = append(w.Changes, c)
			if was, is := c.Before.Remaining, c.After.Remaining; was != nil && is != nil && *was >= 0 && *is < 0 {
				w.Warnings = append(w.Warnings, fmt.Sprintf("%s %s: %s falls %s short of what the policy keeps back", n.level, n.name, d.Title(), amount(d, -*is)))
			}
		}
	})
}

func standing(f Figure) Standing { return Standing{f.Usable, f.Allocated, f.Used, f.Remaining} }

func (s Standing) minus(o Standing) Standing {
	return Standing{minus(s.Usable, o.Usable), minus(s.Allocated, o.Allocated), minus(s.Used, o.Used), minus(s.Remaining, o.Remaining)}
}

func minus(a, b *int64) *int64 {
	if a == nil || b == nil {
		return nil
	}
	d := *a - *b
	return &d
}

func (s Standing) zero() bool {
	return deref(s.Usable) == 0 && deref(s.Allocated) == 0 && deref(s.Used) == 0 && deref(s.Remaining) == 0
}
