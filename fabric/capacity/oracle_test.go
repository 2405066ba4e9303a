package capacity

import (
	"fmt"
	"math"
	"math/big"
	"time"
)

// The oracle works every figure out from the input's leaves alone, scope by scope,
// without a tree: it lists what lies in the scope, adds with big numbers, and packs by
// trying every distribution.

// leaf is one dimension where it really is.
type leaf struct {
	blade, chassis string
	pf             string // BLADE/PF; empty for the software budget
	total          *int64
	faulty         int64
	allocated      *int64
	used, peak     *int64
}

// within says whether a leaf lies in a scope.
func (l leaf) within(s Scope) bool {
	switch s.Level {
	case FleetLevel:
		return true
	case ChassisLevel:
		return l.chassis == s.Name
	case BladeLevel:
		return l.blade == s.Name
	}
	return l.pf == s.Name
}

func leaves(in Input, d Dimension) []leaf {
	var all []leaf
	for _, c := range in.Chassis {
		for _, b := range c.Blades {
			if d == Software {
				l := leaf{blade: b.Name, chassis: c.Name}
				l.used, l.peak = usedAndPeak(in, b.Software.Used, b.Demand[Software])
				if b.Software.PacketsPerCore*b.Software.Cores > 0 {
					l.total = new(b.Software.PacketsPerCore * b.Software.Cores)
					if b.Faulty {
						l.faulty = *l.total
					}
				}
				all = append(all, l)
				continue
			}
			for _, p := range b.PFs {
				l := leaf{blade: b.Name, chassis: c.Name, pf: b.Name + "/" + p.Name}
				broken := b.Faulty || p.Faulty
				switch d {
				case Slots:
					l.total, l.faulty, l.allocated = new(p.VFs.Total), p.VFs.Faulty, new(p.VFs.Bound)
					l.used, l.peak = usedAndPeak(in, p.VFs.Active, p.Demand[Slots])
				case Bandwidth:
					if p.Port.Speed != 0 {
						l.total = new(int64(p.Port.Speed))
					}
					broken = broken || p.Port.Faulty
					l.allocated = new(int64(p.Port.Guaranteed))
					l.used, l.peak = usedAndPeak(in, p.Port.Used, p.Port.Demand)
				case Entries:
					if p.Table.Source == Declared || p.Table.Source == Learned {
						l.total = new(p.Table.Limit)
					}
					l.allocated = new(p.Table.Asked)
					l.used, l.peak = usedAndPeak(in, p.Table.Used, p.Demand[Entries])
				}
				if broken && l.total != nil {
					l.faulty = *l.total
				}
				all = append(all, l)
			}
		}
	}
	return all
}

func usedAndPeak(in Input, now *int64, s Series) (used, peak *int64) {
	used, peak = now, now
	oldest := in.At.AddDate(0, 0, -in.Window).UTC().Format(time.DateOnly)
	for _, d := range s {
		if string(d.Date) <= oldest || string(d.Date) > in.At.UTC().Format(time.DateOnly) {
			continue
		}
		if now == nil {
			used = new(d.P95)
		}
		if peak == nil || d.P95 > *peak {
			peak = new(d.P95)
		}
	}
	return used, peak
}

// recordedFor returns the series of a scope itself.
func recordedFor(in Input, s Scope, d Dimension) Series {
	if s.Level == FleetLevel {
		return in.Demand[d]
	}
	for _, c := range in.Chassis {
		if s.Level == ChassisLevel && c.Name == s.Name {
			return c.Demand[d]
		}
		for _, b := range c.Blades {
			if s.Level == BladeLevel && b.Name == s.Name && d != Software {
				return b.Demand[d]
			}
		}
	}
	return nil
}

// truth is what the oracle says about one dimension of one scope.
type truth struct {
	total, faulty, allocated, used, peak int64
	known, unknown, measured             int
	allocates                            bool
	restAllocated, restPeak              int64
	reserve, buffer, usable              int64
	remaining                            *int64
	formula                              Formula
}

func (o *truth) demand() int64 {
	return max(o.allocated+o.restAllocated, o.peak+o.restPeak)
}

func truthOf(in Input, s Scope, d Dimension) truth {
	var o truth
	for _, l := range leaves(in, d) {
		if !l.within(s) {
			continue
		}
		if l.total == nil {
			o.unknown++
			o.restAllocated += deref(l.allocated)
			o.restPeak += deref(l.peak)
			continue
		}
		o.known++
		o.total += *l.total
		o.faulty += l.faulty
		o.allocates = o.allocates || l.allocated != nil
		o.allocated += deref(l.allocated)
		if l.peak != nil {
			o.measured++
			o.used += *l.used
			o.peak += *l.peak
		}
	}
	// A chassis that was recorded itself is known better than by its blades.
	if parts := scopesIn(in, s); len(parts) > 0 {
		o.used, o.peak, o.measured, o.restPeak = 0, 0, 0, 0
		for _, part := range parts {
			sub := truthOf(in, part, d)
			o.used += sub.used
			o.peak += sub.peak
			o.measured += sub.measured
			o.restPeak += sub.restPeak
		}
	}
	if own := recordedFor(in, s, d); o.unknown == 0 && o.known > 0 {
		if used, peak := usedAndPeak(in, nil, own); used != nil {
			o.used, o.peak, o.measured = *used, *peak, o.known
		}
	}
	// What must find another place when the largest domain inside the scope is lost.
	for _, c := range in.Chassis {
		domain := Scope{Level: ChassisLevel, Name: c.Name}
		if in.Policy.Survive == ChassisLevel && s.Level == FleetLevel {
			lost := truthOf(in, domain, d)
			o.reserve = max(o.reserve, lost.demand())
		}
		for _, b := range c.Blades {
			inside := s.Level == FleetLevel || s.Level == ChassisLevel && s.Name == c.Name
			if in.Policy.Survive == BladeLevel && inside {
				lost := truthOf(in, Scope{Level: BladeLevel, Name: b.Name}, d)
				o.reserve = max(o.reserve, lost.demand())
			}
		}
	}
	// usable = total - faulty - reserve - buffer
	buffer := new(big.Rat).Mul(big.NewRat(o.total, 1), big.NewRat(int64(in.Policy.BufferPercent), 100))
	whole, rest := new(big.Int).QuoRem(buffer.Num(), buffer.Denom(), new(big.Int))
	o.buffer = whole.Int64()
	if rest.Sign() > 0 {
		o.buffer++
	}
	if o.usable = o.total - o.faulty - o.reserve - o.buffer; o.usable < 0 {
		o.usable = 0
	}
	over := int64(100)
	if p, ok := in.Policy.Overcommit[d]; ok {
		over = int64(p)
	}
	allowed := int64(math.Floor(float64(o.usable) * float64(over) / 100))
	if o.known > 0 && o.allocates {
		o.remaining, o.formula = new(allowed-o.allocated), ByAllocation
	}
	if left := o.usable - o.peak; o.known > 0 && o.measured > 0 && (o.remaining == nil || left < *o.remaining) {
		o.remaining, o.formula = &left, ByDemand
	}
	return o
}

// scopesIn returns the chassis of the fleet, or the blades of a chassis.
func scopesIn(in Input, s Scope) []Scope {
	var parts []Scope
	for _, c := range in.Chassis {
		if s.Level == FleetLevel {
			parts = append(parts, Scope{Level: ChassisLevel, Name: c.Name})
		}
		for _, b := range c.Blades {
			if s.Level == ChassisLevel && s.Name == c.Name {
				parts = append(parts, Scope{Level: BladeLevel, Name: b.Name})
			}
		}
	}
	return parts
}

// pfRoom is what the packing by trial knows of one PF.
type pfRoom struct {
	blade string
	free  map[Dimension]*int64 // nil: nobody can say
	open  bool                 // takes vNICs at all
}

func rooms(in Input, s Scope, p Profile) (pfs []pfRoom, software map[string]*int64) {
	software = map[string]*int64{}
	free := func(scope Scope, d Dimension) *int64 {
		o := truthOf(in, scope, d)
		if o.remaining == nil {
			return nil
		}
		return new(max(0, *o.remaining))
	}
	for _, c := range in.Chassis {
		for _, b := range c.Blades {
			software[b.Name] = free(Scope{Level: BladeLevel, Name: b.Name}, Software)
			if b.Faulty || b.Silent {
				software[b.Name] = new(int64)
			}
			for _, f := range b.PFs {
				name := b.Name + "/" + f.Name
				if !(leaf{blade: b.Name, chassis: c.Name, pf: name}).within(s) {
					continue
				}
				r := pfRoom{blade: b.Name, free: map[Dimension]*int64{}, open: !b.Faulty && !b.Silent && !f.Faulty}
				for _, d := range []Dimension{Slots, Bandwidth, Entries} {
					r.free[d] = free(Scope{Level: PFLevel, Name: name}, d)
				}
				pfs = append(pfs, r)
			}
		}
	}
	return pfs, software
}

// packByTrial returns the most vNICs that any distribution over the PFs places.
func packByTrial(pfs []pfRoom, software map[string]*int64, p Profile, withSoftware bool) int64 {
	if len(pfs) == 0 {
		return 0
	}
	first, best := pfs[0], int64(0)
	for k := int64(0); ; k++ {
		fits := k == 0 || first.open
		for d, free := range first.free {
			fits = fits && (k == 0 || free == nil || k*p.need(d) <= *free)
		}
		soft := software[first.blade]
		limited := withSoftware && soft != nil && p.need(Software) > 0
		if !fits || limited && k*p.need(Software) > *soft {
			return best
		}
		if limited {
			*soft -= k * p.need(Software)
		}
		best = max(best, k+packByTrial(pfs[1:], software, p, withSoftware))
		if limited {
			*soft += k * p.need(Software)
		}
	}
}

func checkScope(t check, in Input, s Scope) {
	t.Helper()
	for _, d := range dimensions {
		o := truthOf(in, s, d)
		f := s.figure(d)
		here := o.known+o.unknown > 0 && (s.Level != PortLevel || d == Bandwidth)
		if (f != nil) != here {
			t.Fatalf("%s %s: figure of %s is there: %v, want %v", s.Level, s.Name, d, f != nil, here)
		}
		if f == nil {
			continue
		}
		where := fmt.Sprintf("%s %s %s", s.Level, s.Name, d)
		if o.known == 0 {
			if f.Total != nil || f.Remaining != nil || f.UsedPercent != nil || f.Unknown.Parts != o.unknown {
				t.Fatalf("%s: unknown is not unknown: %+v", where, f)
			}
			continue
		}
		same := func(what string, got *int64, want int64) {
			t.Helper()
			if got == nil || *got != want {
				t.Fatalf("%s: %s is %s, want %d", where, what, integer(got), want)
			}
		}
		same("total", f.Total, o.total)
		same("faulty", f.Faulty, o.faulty)
		same("reserve", f.Reserve, o.reserve)
		same("buffer", f.Buffer, o.buffer)
		same("usable", f.Usable, o.usable)
		if o.allocates {
			same("allocated", f.Allocated, o.allocated)
			checkPercent(t, where, f.AllocatedPercent, o.allocated*100, o.usable*in.Policy.overcommit(d))
		}
		if o.measured > 0 {
			same("used", f.Used, o.used)
			same("peak", f.Peak, o.peak)
			checkPercent(t, where, f.UsedPercent, o.used, o.usable)
		} else if f.Used != nil || f.UsedPercent != nil {
			t.Fatalf("%s: used without a measurement", where)
		}
		if (f.Remaining == nil) != (o.remaining == nil) || o.remaining != nil && (*f.Remaining != *o.remaining || f.Formula != o.formula) {
			t.Fatalf("%s: remaining is %s by %s, want %s by %s", where, integer(f.Remaining), f.Formula, integer(o.remaining), o.formula)
		}
	}
	if s.Level != PortLevel {
		checkFit(t, in, s)
	}
}

func checkPercent(t check, where string, got *float64, part, whole int64) {
	t.Helper()
	if whole == 0 {
		if got != nil {
			t.Fatalf("%s: %v %% of nothing", where, *got)
		}
		return
	}
	want, _ := new(big.Rat).Mul(big.NewRat(part, whole), big.NewRat(100, 1)).Float64()
	if got == nil || math.Abs(*got-want) > 0.0501 {
		t.Fatalf("%s: percent is %v, want %v", where, got, want)
	}
}

func checkFit(t check, in Input, s Scope) {
	t.Helper()
	p := in.Reference
	pfs, software := rooms(in, s, p)
	onBlade := s.Level != PFLevel
	want := packByTrial(pfs, software, p, onBlade)
	where := fmt.Sprintf("%s %s", s.Level, s.Name)
	if s.Fit.VNICs != want {
		t.Fatalf("%s: %d vNICs fit, want %d", where, s.Fit.VNICs, want)
	}
	if s.Fit.VNICs > s.Fit.Pooled || s.Fit.AfterReserve > s.Fit.VNICs || s.Fit.Fragmentation < 0 || s.Fit.Fragmentation > 1 {
		t.Fatalf("%s: fit %+v", where, *s.Fit)
	}
	pooled := pooledByCounting(pfs, software, p, onBlade)
	if pooled >= 0 && s.Fit.Pooled != max(pooled, want) {
		t.Fatalf("%s: pooled %d, want %d", where, s.Fit.Pooled, pooled)
	}
	if s.Fit.Pooled > 0 && math.Abs(s.Fit.Fragmentation-(1-float64(want)/float64(s.Fit.Pooled))) > 0.00006 {
		t.Fatalf("%s: fragmentation %v of %d and %d", where, s.Fit.Fragmentation, want, s.Fit.Pooled)
	}
	existing, _ := rooms(in, s, p)
	i := 0
	for _, c := range in.Chassis {
		for _, b := range c.Blades {
			for _, f := range b.PFs {
				if (leaf{blade: b.Name, chassis: c.Name, pf: b.Name + "/" + f.Name}).within(s) {
					*existing[i].free[Slots] = min(*existing[i].free[Slots], f.VFs.Provisioned-f.VFs.Bound)
					i++
				}
			}
		}
	}
	if got, want := s.Fit.Existing, packByTrial(existing, software, p, onBlade); got != want {
		t.Fatalf("%s: %d vNICs fit on VFs that exist, want %d", where, got, want)
	}
	checkStranded(t, in, s, pfs, software)
	if got, want := s.Fit.Binds, bindsByCounting(pfs, software, p, onBlade); got != want {
		t.Fatalf("%s: %q binds, want %q", where, got, want)
	}
}

// bindsByCounting names the dimension that keeps one more vNIC out on most PFs: on a PF
// that takes any, each dimension that alone would take no more; on all PFs with room of a
// blade, the software budget, where that lets in fewer than they have room for. What is
// faulty or silent is kept out by nothing of the sort and has no say.
func bindsByCounting(pfs []pfRoom, software map[string]*int64, p Profile, onBlade bool) Dimension {
	count := map[Dimension]int{}
	blades := map[string][]pfRoom{}
	for _, r := range pfs {
		if r.open {
			blades[r.blade] = append(blades[r.blade], r)
		}
	}
	for _, list := range blades {
		alone, roomy := int64(0), 0
		for _, r := range list {
			n := packByTrial([]pfRoom{r}, software, p, false)
			alone += n
			if n > 0 {
				roomy++
			}
		}
		if onBlade && packByTrial(list, software, p, true) < alone {
			count[Software] += roomy
			continue
		}
		for _, r := range list {
			n := packByTrial([]pfRoom{r}, software, p, false)
			for d, free := range r.free {
				if free != nil && p.need(d) > 0 && (n+1)*p.need(d) > *free {
					count[d]++
				}
			}
		}
	}
	most := Dimension("")
	for _, d := range dimensions {
		if count[d] > count[most] {
			most = d
		}
	}
	return most
}

// pooledByCounting puts vNICs into the pooled room until one does not fit.
func pooledByCounting(pfs []pfRoom, software map[string]*int64, p Profile, onBlade bool) int64 {
	pool := map[Dimension]int64{}
	skip := map[Dimension]bool{Software: !onBlade}
	blades := map[string]bool{}
	for _, r := range pfs {
		for d, free := range r.free {
			if !r.open {
				continue
			}
			if free == nil {
				skip[d] = true
				continue
			}
			pool[d] += *free
		}
		if onBlade && !blades[r.blade] {
			blades[r.blade] = true
			if software[r.blade] == nil {
				skip[Software] = true
			} else {
				pool[Software] += *software[r.blade]
			}
		}
	}
	for n := int64(0); ; n++ {
		for _, d := range dimensions {
			if !skip[d] && (n+1)*p.need(d) > pool[d] {
				return n
			}
		}
	}
}

// checkStranded recomputes what is stranded blade by blade: where the software budget
// keeps vNICs out it is everything left on the PFs, elsewhere what is left on each PF
// of the dimensions that have room for one more.
func checkStranded(t check, in Input, s Scope, pfs []pfRoom, software map[string]*int64) {
	t.Helper()
	p := in.Reference
	want := map[Dimension]int64{}
	blades := map[string][]pfRoom{}
	for _, r := range pfs {
		blades[r.blade] = append(blades[r.blade], r)
	}
	for blade, list := range blades {
		alone := int64(0)
		fits := make([]int64, len(list))
		for i, r := range list {
			fits[i] = packByTrial(list[i:i+1], software, p, false)
			_ = r
			alone += fits[i]
		}
		together := alone
		if s.Level != PFLevel {
			together = packByTrial(list, software, p, true)
		}
		for _, d := range []Dimension{Slots, Bandwidth, Entries} {
			if p.need(d) == 0 {
				continue
			}
			left, some := int64(0), false
			for i, r := range list {
				if !r.open || r.free[d] == nil {
					continue
				}
				some = true
				if together < alone {
					left += *r.free[d]
				} else if rest := *r.free[d] - fits[i]*p.need(d); rest >= p.need(d) {
					left += rest
				}
			}
			if together < alone && some {
				left -= together * p.need(d)
			}
			want[d] += left
		}
		if n := p.need(Software); n > 0 && s.Level != PFLevel && software[blade] != nil && together == alone {
			if rest := *software[blade] - n*together; rest >= n {
				want[Software] += rest
			}
		}
	}
	for _, f := range s.Figures {
		if f.Stranded != nil && *f.Stranded != want[f.Dimension] || f.Stranded == nil && want[f.Dimension] != 0 {
			t.Fatalf("%s %s: %s of %s stranded, want %d", s.Level, s.Name, integer(f.Stranded), f.Dimension, want[f.Dimension])
		}
	}
}

// check is what both kinds of test can do.
type check interface {
	Helper()
	Fatalf(string, ...any)
}
