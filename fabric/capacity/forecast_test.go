package capacity

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow/flowtest"
)

const lastDay Date = "2026-11-23" // of the tests' series; the report is of the day after

// series makes daily values that end on lastDay.
func series(values ...float64) Series {
	s := make(Series, len(values))
	for i, v := range values {
		s[i] = Day{Date: lastDay.add(i + 1 - len(values)), Samples: fullDay, P95: int64(math.Round(v)), Max: int64(math.Round(v))}
	}
	return s
}

// process is what a series is drawn from, so that its future is known as well.
type process struct {
	level, slope, phi, noise float64
	wave                     float64 // less on Saturdays and Sundays
	outliers                 float64 // share of days that are far off
}

// draw returns n days up to lastDay and the first day after it that reaches usable, from
// 0; horizon+1 is never.
func (p process) draw(r *rand.Rand, n, horizon int, usable float64) (past Series, reached int) {
	e := p.noise * r.NormFloat64() / math.Sqrt(1-p.phi*p.phi)
	begin, _ := time.Parse(time.DateOnly, string(lastDay.add(1-n)))
	values := make([]float64, n)
	reached = horizon + 1
	for i := range n + horizon + 1 {
		v := p.level + p.slope*float64(i) + e
		if day := begin.AddDate(0, 0, i).Weekday(); day == time.Saturday || day == time.Sunday {
			v -= p.wave
		}
		switch {
		case i < n:
			if values[i] = v; r.Float64() < p.outliers {
				values[i] += 10 * p.noise * r.NormFloat64()
			}
		case v >= usable:
			return series(values...), i - n
		}
		e = p.phi*e + p.noise*r.NormFloat64()
	}
	return series(values...), reached
}

// day returns how many days after the report's a date is; horizon+1 is never.
func day(d Date, horizon int) int {
	if d == Never {
		return horizon + 1
	}
	return daysBetween(lastDay.add(1), d)
}

// TestForecastOfLine: a straight line is reached when it is reached, whatever weekdays do,
// and however far off one day in twenty is.
func TestForecastOfLine(t *testing.T) {
	values := make([]float64, 90)
	for i := range values {
		values[i] = 1000 + 10*float64(i)
	}
	want := &Exhaustion{Early: lastDay.add(11), Middle: lastDay.add(11), Late: lastDay.add(11), Month: 300, Coverage: new(float64), Grade: "A"}
	*want.Coverage = 100
	f := forecast("line", series(values...), 2000, lastDay.add(1), 365)
	if b := f.Exhaustion.Band; len(b) != 53 || b[0] != (Band{lastDay.add(1), 1900, 1900, 1900}) || b[52] != (Band{lastDay.add(365), 5540, 5540, 5540}) {
		t.Errorf("band %v", b)
	}
	f.Exhaustion.Band = nil
	if diff := cmp.Diff(want, f.Exhaustion); diff != "" || f.Evidence != "ok" || *f.WorstWeek != 70 {
		t.Errorf("%+v\n%s", f, diff)
	}
	if f = forecast("line", series(values...), 10_000, lastDay.add(1), 365); f.Exhaustion.Early != Never || f.Exhaustion.Late != Never {
		t.Errorf("never within the horizon: %+v", f.Exhaustion)
	}
	if f = forecast("line", series(values...), 1500, lastDay.add(1), 365); f.Exhaustion.Early != lastDay.add(1) {
		t.Errorf("it is reached already: %+v", f.Exhaustion)
	}
	r := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for i := range values {
		if values[i] += 5 * r.NormFloat64(); i%20 == 5 {
			values[i] *= 20
		}
	}
	if f = forecast("line", series(values...), 2000, lastDay.add(1), 365); f.Exhaustion == nil || abs(int(f.Exhaustion.Month)-300) > 10 || abs(day(f.Exhaustion.Middle, 365)-10) > 2 {
		t.Errorf("with outliers: %+v", f.Exhaustion)
	}
}

// TestMedian: the median is that of the sorted values, whatever their order and however
// many are equal.
func TestMedian(t *testing.T) {
	r := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for range 2000 {
		values := make([]float64, 1+r.IntN(40))
		for i := range values {
			values[i] = float64(r.IntN(1 + r.IntN(40)))
		}
		sorted := slices.Sorted(slices.Values(values))
		n := len(sorted)
		if want, got := (sorted[(n-1)/2]+sorted[n/2])/2, median(slices.Clone(values)); got != want {
			t.Fatalf("median of %v is %v, want %v", values, got, want)
		}
	}
	if median(nil) != 0 {
		t.Error("of nothing")
	}
}

func abs(n int) int { return max(n, -n) }

// TestForecastRefuses: what does not bear a forecast is not forecast, and says why.
func TestForecastRefuses(t *testing.T) {
	r := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	steady := func(n int) Series {
		s, _ := process{level: 1e6, noise: 1000}.draw(r, n, 0, math.Inf(1))
		return s
	}
	step := steady(90)
	for i := 80; i < 90; i++ {
		step[i].P95 += 100_000
	}
	walk, _ := process{level: 1e6, noise: 1000, phi: 0.99}.draw(r, 180, 0, math.Inf(1))
	today := lastDay.add(1)
	for _, c := range []struct {
		what  string
		s     Series
		today Date
		want  string
	}{
		{"nothing", nil, today, "short"},
		{"55 days", steady(55), today, "short"},
		{"56 days", steady(56), today, "ok"},
		{"half of a day recorded", append(steady(55), Day{lastDay, fullDay/2 - 1, 1, 1}), today, "short"},
		{"long ago", steady(90), today.add(staleDays), "stale"},
		{"a step", step, today, "step"},
	} {
		f := forecast(c.what, c.s, 2e6, c.today, 365)
		if f.Evidence != c.want || (f.Exhaustion == nil) == (c.want == "ok") || (f.evidence() == "") != (c.want == "ok") {
			t.Errorf("%s: %+v, want %s", c.what, f, c.want)
		}
	}
	if f := forecast("walk", walk, 2e6, today, 365); f.Exhaustion != nil && f.Exhaustion.Grade == "A" {
		t.Errorf("a random walk: %+v %+v", f, f.Exhaustion)
	}
}

// TestForecastHolds: of series whose future is known, as many are reached within the range
// as it claims, nearly; later than the early edge they nearly all are.
func TestForecastHolds(t *testing.T) {
	const horizon = 365
	for _, c := range []struct {
		n       int
		phi     float64
		atLeast float64 // percent; nominal is 90
	}{{90, 0, 70}, {90, 0.6, 65}, {180, 0.6, 65}} { // five deviations below what long runs show
		r := rand.New(rand.NewPCG(flowtest.Seed(t), uint64(c.n)))
		within, early, told, width := 0, 0, 0, 0
		n := flowtest.Count(t, "BLADEFLOW_FORECASTS", 60)
		for range n {
			p := process{level: 1e6, slope: 2000 + 3000*r.Float64(), phi: c.phi, noise: 20_000, wave: 100_000, outliers: 0.02}
			usable := p.level + p.slope*float64(c.n+20+r.IntN(100))
			past, reached := p.draw(r, c.n, horizon, usable)
			f := forecast("x", past, int64(usable), lastDay.add(1), horizon)
			if f.Exhaustion == nil {
				continue
			}
			told++
			from, to := day(f.Exhaustion.Early, horizon), day(f.Exhaustion.Late, horizon)
			width += to - from
			if reached < from {
				early++
			} else if reached <= to {
				within++
			}
		}
		share := 100 * float64(within) / float64(max(told, 1))
		t.Logf("%d days, phi %v: %d of %d forecast, %.0f %% within, %.0f %% before the early edge, %d days wide", c.n, c.phi, told, n, share, 100*float64(early)/float64(max(told, 1)), width/max(told, 1))
		if share < c.atLeast || told < n/2 {
			t.Errorf("%d days, phi %v: %.0f %% of %d within the range, want %v %%", c.n, c.phi, share, told, c.atLeast)
		}
	}
}

// TestForecastWidens: a series that is worse than its past has a grade that says so.
func TestForecastWidens(t *testing.T) {
	r := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	values := make([]float64, 120)
	for i := range values { // calm, then ever wilder
		values[i] = 1e6 + 1000*r.NormFloat64()*(1+float64(i*i)/800)
	}
	f := forecast("wild", series(values...), 3e6, lastDay.add(1), 90)
	if x := f.Exhaustion; x != nil && x.Coverage != nil && (*x.Coverage < nominal) != (x.Grade == "C") {
		t.Errorf("%+v: coverage %v", x, *x.Coverage)
	}
}

// TestReportForecasts: the report has what forecast says, in every form, for the scope that
// was asked for; without a horizon it is as it was.
func TestReportForecasts(t *testing.T) {
	in := readFleet(t)
	before := written(t, in, "json")
	if strings.Contains(before, "forecast") {
		t.Error("a forecast that nobody asked for")
	}
	in.Horizon, in.Window = 200, 90
	for c := range in.Chassis {
		for b := range in.Chassis[c].Blades {
			for p := range in.Chassis[c].Blades[b].PFs {
				values := make([]float64, 91)
				for i := range values {
					values[i] = 1e9 + 1e7*float64(i)
				}
				s := series(values...)
				for i := range s {
					s[i].Date = DateOf(in.At).add(i - 91)
				}
				in.Chassis[c].Blades[b].PFs[p].Port.Demand = s
			}
		}
	}
	d, err := Report(in)
	if err != nil {
		t.Fatal(err)
	}
	s := d.Status.Scopes[0]
	f := s.figure(Bandwidth)
	if f.Forecast == nil {
		t.Fatal("no forecast")
	}
	if f.Unknown == nil && f.Forecast.Exhaustion == nil {
		t.Errorf("%+v", f.Forecast)
	}
	if !slices.ContainsFunc(d.Status.Summary, func(line string) bool {
		return strings.Contains(line, "Demand of port bandwidth reaches what is usable: ")
	}) {
		t.Errorf("%q", d.Status.Summary)
	}
	for form, want := range map[string]string{"csv": "\nband high,", "md": "## Forecast: fleet", "html": ", and forecast to "} {
		if text := written(t, in, form); !strings.Contains(text, want) {
			t.Errorf("%s: no %q", form, want)
		}
	}
	blade := in.Chassis[0].Blades[0].Name
	in.Scope = "blade/" + blade
	d, err = Report(in)
	if err != nil {
		t.Fatal(err)
	}
	for i, s := range d.Status.Scopes {
		if x := s.Figures[0].Forecast.Exhaustion; x != nil && x.Band != nil {
			t.Errorf("a band of %s %s", s.Level, s.Name)
		}
		if i == 0 && s.Name != blade || i > 0 && !strings.HasPrefix(s.Name, blade+"/") {
			t.Errorf("scope %s %s", s.Level, s.Name)
		}
		if s.Level == PortLevel && s.figure(Bandwidth).Forecast == nil {
			t.Errorf("no forecast for %s", s.Name)
		}
	}
	for form := range forms {
		written(t, in, form)
	}
	in.Scope = "blade/none"
	if _, err := Report(in); err == nil || !strings.Contains(err.Error(), "there is none") {
		t.Errorf("%v", err)
	}
}
