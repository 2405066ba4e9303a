package capacity

import "math"

// What a dimension of a scope still holds, from two sides:
//
//	usable    = total - faulty - reserve - buffer
//	remaining = min(usable - peak, usable × overcommit - allocated)
//
// The first term of remaining is the demand model, the second the allocation model;
// a report that shows one of them only is wrong half of the time ("usage looked free,
// the scheduler said exhausted"). Remaining may be negative: that much is promised or
// used beyond what the policy allows.
//
//   - faulty is what the parts marked faulty would give.
//   - reserve is the demand of the largest failure domain inside the scope, blade or
//     chassis by policy: what must find another place when it is lost. A scope inside
//     one domain has none. Demand is here the larger of allocated and peak, because an
//     idle VF has to move as well.
//   - buffer is a share of the total, rounded up.
//   - peak is the largest daily p95 of the window, or the value now if that is larger.
//     Without a forecast it stands for the next three days' peak.
//
// Every number is a whole amount, and every percentage comes from whole amounts, so
// that nothing depends on the order of additions.

// balance is the arithmetic of one cell. Its amounts are valid iff the total is known.
type balance struct {
	known           bool // some part's total is
	buffer, usable  int64
	byAlloc, byPeak *int64 // the two models; nil where there is no allocation or no measurement
}

func (c *cell) balance(p Policy, d Dimension) balance {
	if c.known.parts == 0 {
		return balance{}
	}
	b := balance{known: true, buffer: ceilDiv(c.total*int64(p.BufferPercent), 100)}
	b.usable = max(0, c.total-c.faulty-c.reserve-b.buffer)
	if c.known.allocates {
		left := b.usable*p.overcommit(d)/100 - c.known.allocated
		b.byAlloc = &left
	}
	if c.known.measured > 0 {
		left := b.usable - c.known.peak
		b.byPeak = &left
	}
	return b
}

// remaining returns the smaller model's amount; ok is false if neither is known.
func (b balance) remaining() (left int64, by Formula, ok bool) {
	switch {
	case b.byAlloc == nil && b.byPeak == nil:
		return 0, "", false
	case b.byPeak == nil || b.byAlloc != nil && *b.byAlloc <= *b.byPeak:
		return *b.byAlloc, ByAllocation, true
	}
	return *b.byPeak, ByDemand, true
}

// figure writes a cell down. ok is false if the scope has no part of that dimension.
func (n *node) figure(d Dimension, p Policy) (f Figure, ok bool) {
	c := n.cell(d)
	if c.known.parts+c.unknown.parts == 0 {
		return Figure{}, false
	}
	f = Figure{Dimension: d, Unit: d.Unit(), Parts: c.known.parts + c.unknown.parts}
	f.Unmeasured = f.Parts - c.known.measured - c.unknown.measured
	if n.level == FleetLevel || n.level == ChassisLevel {
		f.Series = c.series
	}
	if u := &c.unknown; u.parts > 0 {
		f.Unknown = &Rest{Parts: u.parts}
		f.Unknown.Allocated, f.Unknown.Used, _ = u.amounts()
	}
	b := c.balance(p, d)
	if !b.known {
		return f, true
	}
	f.Allocated, f.Used, f.Peak = c.known.amounts()
	f.Total, f.Faulty, f.Reserve, f.Buffer, f.Usable = &c.total, &c.faulty, &c.reserve, &b.buffer, &b.usable
	if left, by, ok := b.remaining(); ok {
		f.Remaining, f.Formula = &left, by
	}
	if f.Allocated != nil {
		f.AllocatedPercent = percent(*f.Allocated*100, b.usable*p.overcommit(d))
	}
	if f.Used != nil {
		f.UsedPercent = percent(*f.Used, b.usable)
	}
	if n.level != PortLevel {
		f.Stranded = n.fit.stranded[index(d)]
	}
	return f, true
}

// amounts returns what a load knows; nil is what it does not.
func (l *load) amounts() (allocated, used, peak *int64) {
	if l.allocates {
		allocated = &l.allocated
	}
	if l.measured > 0 {
		used, peak = &l.used, &l.peak
	}
	return allocated, used, peak
}

// scope writes a node down.
func (n *node) scope(p Policy, profile Profile) Scope {
	s := Scope{Level: n.level, Name: n.name, In: n.in, Slot: n.slot, Slots: n.slots, State: "ok", Figures: []Figure{}}
	switch {
	case n.faulty:
		s.State = "faulty"
	case n.silent:
		s.State = "silent"
	}
	for _, d := range dimensions {
		if f, ok := n.figure(d, p); ok {
			s.Figures = append(s.Figures, f)
		}
	}
	s.Binding = binding(s.Figures)
	if c := n.cell(Bandwidth); c.total > 0 {
		s.Oversubscription = &Oversubscription{Configured: round(float64(n.ceilings)/float64(c.total), 2)}
		if c.known.measured > 0 {
			real := round(float64(c.known.used)/float64(c.total), 3)
			s.Oversubscription.Real = &real
		}
	}
	if n.level != PortLevel {
		s.Provisioned = &n.provisioned
		s.Fit = n.fitOf(p, profile)
	}
	return s
}

// binding returns the dimension of which the smallest share remains.
func binding(figures []Figure) *Binding {
	var tightest *Binding
	for _, f := range figures {
		if f.Remaining == nil {
			continue
		}
		share := 0.0
		if s := percent(*f.Remaining, *f.Usable); s != nil {
			share = *s
		}
		if tightest == nil || share < tightest.RemainingPercent {
			tightest = &Binding{f.Dimension, f.Formula, share}
		}
	}
	return tightest
}

// percent returns part of whole to one decimal, or nil if there is no whole.
func percent(part, whole int64) *float64 {
	if whole <= 0 {
		return nil
	}
	p := round(100*float64(part)/float64(whole), 1)
	return &p
}

func round(x float64, decimals int) float64 {
	shift := math.Pow10(decimals)
	return math.Round(x*shift) / shift
}

func ceilDiv(a, b int64) int64 { return (a + b - 1) / b }
