package capacity

import (
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// drawInput makes a small fleet of every kind of oddity.
func drawInput(t *rapid.T) Input {
	in := Input{Name: "f", At: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), Window: rapid.IntRange(1, 6).Draw(t, "window")}
	in.Policy = Policy{
		Survive:       rapid.SampledFrom([]Level{"", BladeLevel, ChassisLevel}).Draw(t, "survive"),
		BufferPercent: rapid.SampledFrom([]int{0, 10, 33}).Draw(t, "buffer"),
		Overcommit:    map[Dimension]int{Bandwidth: rapid.SampledFrom([]int{50, 100, 250}).Draw(t, "overcommit")},
	}
	in.Reference = drawProfile(t)
	for c := range rapid.IntRange(0, 2).Draw(t, "chassis") {
		ch := Chassis{Name: fmt.Sprint("c", c), Demand: drawDemand(t, 5)}
		for b := range rapid.IntRange(0, 3).Draw(t, "blades") {
			ch.Blades = append(ch.Blades, drawBlade(t, fmt.Sprintf("c%db%d", c, b), b+1))
		}
		in.Chassis = append(in.Chassis, ch)
	}
	in.Demand = drawDemand(t, 5)
	return in
}

func drawProfile(t *rapid.T) Profile {
	few := rapid.Int64Range(0, 3)
	return Profile{Name: "p", Guaranteed: Rate(few.Draw(t, "guaranteed")), Entries: few.Draw(t, "entries"), PacketsPerSecond: few.Draw(t, "pps")}
}

func drawBlade(t *rapid.T, name string, slot int) Blade {
	some := func(n int64) int64 { return rapid.Int64Range(0, n).Draw(t, "n") }
	rare := func(n int) bool { return rapid.IntRange(1, n).Draw(t, "rare") == 1 }
	maybe := func(n int64) *int64 {
		if rare(3) {
			return nil
		}
		return new(some(n))
	}
	b := Blade{Name: name, Slot: slot, Faulty: rare(8), Silent: rare(8), Demand: drawDemand(t, 4)}
	b.Software = SoftwareBudget{PacketsPerCore: some(4), Cores: some(4), Used: maybe(6)}
	for p := range rapid.IntRange(0, 2).Draw(t, "pfs") {
		total := some(6)
		made := some(total)
		pf := PF{Name: fmt.Sprintf("nic0/pf%d", p), Faulty: rare(8), Demand: drawDemand(t, 3)}
		delete(pf.Demand, Bandwidth)
		delete(pf.Demand, Software)
		pf.VFs = VFs{Total: total, Provisioned: made, Bound: some(made), Faulty: min(total, some(2)), Active: maybe(total)}
		pf.Table = Table{Limit: some(20), Source: rapid.SampledFrom([]LimitSource{Declared, Learned, Unknown, ""}).Draw(t, "source"), Asked: some(8), Used: maybe(8)}
		pf.Port = Port{Speed: Rate(some(20)), Guaranteed: Rate(some(10)), Maximum: Rate(some(40)), Faulty: rare(8), Used: maybe(10)}
		if rare(2) {
			pf.Port.Demand = drawSeries(t)
		}
		b.PFs = append(b.PFs, pf)
	}
	return b
}

func drawDemand(t *rapid.T, rarity int) Demand {
	d := Demand{}
	for _, dim := range dimensions {
		if rapid.IntRange(1, rarity).Draw(t, "recorded") == 1 {
			d[dim] = drawSeries(t)
		}
	}
	return d
}

func drawSeries(t *rapid.T) Series {
	var s Series
	for day := 15; day <= 26; day++ {
		if rapid.IntRange(0, 2).Draw(t, "day") > 0 {
			v := rapid.Int64Range(0, 12).Draw(t, "p95")
			s = append(s, Day{Date: Date(fmt.Sprintf("2026-11-%02d", day)), Samples: 288, P95: v, Max: v + 1})
		}
	}
	return s
}
