package capacity

import (
	"cmp"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"time"
)

// Problem. When will demand reach what is usable? Predictions by one straight line flap,
// and a date without a range is worse than none: a planner buys or does not buy by it.
//
// Idea. Daily p95 values are a trend, an effect of the weekday and a residual that
// remembers the day before:
//
//	value = level + slope × day + weekday + e,   e = phi × e of the day before + noise
//
// The slope is Theil and Sen's (the median of all slopes between two days), which a
// quarter of bad days cannot move; values are first pulled to within 4 MAD of such a line.
// Weekdays are medians of residuals, if there are 28 days. phi is the residuals'
// autocorrelation with the correction of short series, phi + (1+4 phi)/n, within 0…0.97.
//
// How wrong level and slope may be, and what the noise may do, is simulated together: 300
// times a past of the same length with the same phi and noise is drawn and its own line is
// taken as an error, and a future goes on from today's residual. The day on which a future
// first reaches usable is one answer; 5, 50 and 95 % of the answers are the report's.
//
// What is claimed is tested on the series itself: from several days in the past the next
// two weeks are forecast and compared with what came. If less than the nominal 90 % were
// within the band, the band is widened by as much as would have held 90 %, and the grade
// is C. Where that cannot mean anything (fewer than 56 days, phi above 0.8, a step in the
// last two weeks, the last day long ago) nothing is forecast, and it says why.
//
// Measured, 1,000 drawn series each with a weekly wave and 2 % outliers, horizon a year; what
// is reached later than the early edge and before the late one is within:
//
//	history   autocorrelation   within   before the early edge   width
//	 90 days  0                   94 %     2 %                   19 days
//	 90 days  0.6                 88 %     4 %                   31 days
//	180 days  0.6                 89 %     2 %                   22 days
//
// (BLADEFLOW_FORECASTS=1000 go test -v -run ForecastHolds.)
//
// Known bias: series that are not of this family, with bursts or changes of regime. What a
// back-test shows is the series' own past. Cost: 2 ms for 90 days and a horizon of a year,
// 6 ms with the back-test (one core of a shared machine at load 9).

const (
	leastDays   = 56   // of history, for a forecast
	weekdayDays = 28   // for an effect of weekdays
	mostPhi     = 0.8  // above, the past says too little of the future
	stepDays    = 14   // at the end, in which a step is looked for
	staleDays   = 7    // how old the last day may be
	futures     = 300  // simulated
	nominal     = 90.0 // percent within the band
	testDays    = 14   // forecast in one back-test
	testApart   = 7    // days between back-tests
	mostTests   = 8
)

// Never stands for a date that is not within the horizon.
const Never Date = "never"

// Forecast says when a scope's demand reaches what is usable of one dimension.
type Forecast struct {
	Days     int    `json:"days"`     // of history that counted
	Evidence string `json:"evidence"` // ok; or why there is no forecast: unknown, short, stale, correlated, step

	// Exhaustion is null without evidence.
	Exhaustion *Exhaustion `json:"exhaustion"`

	// WorstWeek is the most by which demand ever grew within seven days; null if there are
	// no seven. It is what is known without evidence.
	WorstWeek *int64 `json:"worstWeek"`
}

// Exhaustion is dates on which demand reaches what is usable, or [Never] within the
// horizon, and how good they are.
type Exhaustion struct {
	Early    Date     `json:"early"`  // 5 % of the simulated futures have reached it by then
	Middle   Date     `json:"middle"` // half of them
	Late     Date     `json:"late"`   // 95 %
	Month    int64    `json:"month"`  // trend: what demand grows by in 30 days
	Coverage *float64 `json:"coverage"`
	Band     []Band   `json:"band,omitempty"` // of the fleet and the chassis
	Grade    string   `json:"grade"`          // A: 90 days of history and a back-test that holds; B: one of them; C: the band was widened
}

// Band is where demand is expected on one day: 5, 50 and 95 % of simulated futures are not
// above it.
type Band struct {
	Date   Date  `json:"date"`
	Low    int64 `json:"low"`
	Middle int64 `json:"middle"`
	High   int64 `json:"high"`
}

// bandApart is how many days lie between two of a band: all are of the report's weekday, so
// that the week is not in it.
const bandApart = 7

// daily is one day of a series as the model takes it.
type daily struct {
	day   int // since the first
	week  int // day of the week
	value float64
}

// dailies returns the days that count: without the day of the report, which is not over,
// and those of which less than half was recorded.
func dailies(s Series, today Date) (out []daily, first time.Time) {
	for _, d := range s {
		at, err := time.Parse(time.DateOnly, string(d.Date))
		if err != nil || d.Date >= today || d.Samples > 0 && d.Samples < fullDay/2 {
			continue
		}
		if out == nil {
			first = at
		}
		out = append(out, daily{int(math.Round(at.Sub(first).Hours() / 24)), int(at.Weekday()), float64(d.P95)})
	}
	return out, first
}

// forecast works a series out. name seeds the simulation, so that the same input gives the
// same bytes.
func forecast(name string, s Series, usable int64, today Date, horizon int) Forecast {
	points, first := dailies(s, today)
	f := Forecast{Days: len(points), Evidence: "ok", WorstWeek: worstWeek(points)}
	now, err := time.Parse(time.DateOnly, string(today))
	if err != nil || len(points) == 0 {
		f.Evidence = "short"
		return f
	}
	day := int(math.Round(now.Sub(first).Hours() / 24))
	m := newModel(points)
	switch last := points[len(points)-1].day; {
	case len(points) < leastDays:
		f.Evidence = "short"
	case day-last > staleDays:
		f.Evidence = "stale"
	case stepped(points): // before the next: a step looks like a memory
		f.Evidence = "step"
	case m.phi > mostPhi:
		f.Evidence = "correlated"
	}
	if f.Evidence != "ok" {
		return f
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	r := rand.New(rand.NewPCG(h.Sum64(), uint64(len(points))))
	x := Exhaustion{Month: int64(math.Round(30 * m.slope)), Grade: "A"}
	coverage, widen, tested := backTest(points, r)
	if tested {
		x.Coverage = &coverage
	}
	switch holds := tested && widen == 1; {
	case tested && !holds:
		x.Grade = "C"
	case len(points) < 90 || !tested:
		x.Grade = "B"
	}
	last := points[len(points)-1].day
	days := make([]int, futures)
	at := make([][]float64, horizon/bandApart+1)
	for i := range days {
		days[i] = horizon + 1
		m.future(r, last, day+horizon-last, func(then int, expected, value float64) {
			ahead := then - day
			if ahead < 0 {
				return
			}
			value = expected + widen*(value-expected)
			if ahead%bandApart == 0 {
				at[ahead/bandApart] = append(at[ahead/bandApart], value)
			}
			if days[i] > horizon && value >= float64(usable) {
				days[i] = ahead
			}
		})
	}
	for i, values := range at {
		slices.Sort(values)
		amount := func(percent int) int64 { return int64(math.Round(max(0, values[len(values)*percent/100]))) }
		x.Band = append(x.Band, Band{today.add(i * bandApart), amount(5), amount(50), amount(95)})
	}
	slices.Sort(days)
	date := func(percent int) Date {
		if n := days[min(len(days)-1, len(days)*percent/100)]; n <= horizon {
			return today.add(n)
		}
		return Never
	}
	x.Early, x.Middle, x.Late = date(5), date(50), date(95)
	f.Exhaustion = &x
	return f
}

// worstWeek is the most that a value rose above one of the seven days before it.
func worstWeek(points []daily) *int64 {
	if len(points) == 0 || points[len(points)-1].day < 7 {
		return nil
	}
	worst := math.Inf(-1)
	for i, p := range points {
		for _, q := range points[max(0, i-7):i] {
			if p.day-q.day <= 7 {
				worst = max(worst, p.value-q.value)
			}
		}
	}
	if math.IsInf(worst, -1) {
		return nil
	}
	n := int64(math.Round(worst))
	return &n
}

// model is a fitted series.
type model struct {
	n            int
	level, slope float64
	weekday      [7]float64
	phi, noise   float64
	last         float64 // residual of the last day
	week         int     // its day of the week
}

func (m *model) at(day, week int) float64 {
	return m.level + m.slope*float64(day) + m.weekday[week]
}

// newModel fits the model, twice: the first line is for finding what is far off it.
func newModel(points []daily) model {
	line := shape(points)
	off := make([]float64, len(points))
	for i, p := range points {
		off[i] = math.Abs(p.value - line.at(p.day, p.week))
	}
	tame := slices.Clone(points)
	if limit := 4 * 1.4826 * median(off); limit > 0 {
		for i, p := range tame {
			middle := line.at(p.day, p.week)
			tame[i].value = min(max(p.value, middle-limit), middle+limit)
		}
	}
	m := shape(tame)
	m.n = len(points)
	var both, square, noise float64
	e := make([]float64, len(tame))
	for i, p := range tame {
		e[i] = p.value - m.at(p.day, p.week)
	}
	pairs := 0
	for i := 1; i < len(tame); i++ {
		if tame[i].day == tame[i-1].day+1 {
			both += e[i] * e[i-1]
			square += e[i-1] * e[i-1]
			pairs++
		}
	}
	if square > 0 {
		phi := both / square
		m.phi = min(max(phi+(1+4*phi)/float64(len(points)), 0), 0.97)
	}
	for i := 1; i < len(tame); i++ {
		if tame[i].day == tame[i-1].day+1 {
			d := e[i] - m.phi*e[i-1]
			noise += d * d
		}
	}
	if pairs > 0 {
		m.noise = math.Sqrt(noise / float64(pairs))
	}
	if len(e) > 0 {
		m.last, m.week = e[len(e)-1], tame[len(tame)-1].week
	}
	return m
}

// shape is level, slope and weekdays: a line, weekdays around it, and the line anew
// without them.
func shape(points []daily) model {
	var m model
	m.level, m.slope = theilSen(points)
	if len(points) < weekdayDays {
		return m
	}
	var by [7][]float64
	for _, p := range points {
		by[p.week] = append(by[p.week], p.value-m.at(p.day, p.week))
	}
	for i, off := range by {
		m.weekday[i] = median(off)
	}
	rest := slices.Clone(points)
	for i, p := range rest {
		rest[i].value -= m.weekday[p.week]
	}
	m.level, m.slope = theilSen(rest)
	return m
}

// theilSen returns the line whose slope is the median of those between any two points.
func theilSen(points []daily) (level, slope float64) {
	slopes := make([]float64, 0, len(points)*(len(points)-1)/2)
	for i, p := range points {
		for _, q := range points[:i] {
			slopes = append(slopes, (p.value-q.value)/float64(p.day-q.day))
		}
	}
	slope = median(slopes)
	rest := make([]float64, len(points))
	for i, p := range points {
		rest[i] = p.value - slope*float64(p.day)
	}
	return median(rest), slope
}

// median reorders values; of none it is 0. It looks for the middle only: of 4,000 slopes
// that is ten times faster than sorting them.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	half := len(values) / 2
	selectNth(values, half)
	if len(values)%2 == 1 {
		return values[half]
	}
	return (slices.Max(values[:half]) + values[half]) / 2
}

// selectNth puts the value that would be at n if values were sorted there, what is not
// larger before it, and what is not smaller behind it (Hoare).
func selectNth(values []float64, n int) {
	for low, high := 0, len(values)-1; low < high; {
		pivot := values[low+(high-low)/2]
		i, j := low, high
		for i <= j {
			for values[i] < pivot {
				i++
			}
			for values[j] > pivot {
				j--
			}
			if i <= j {
				values[i], values[j] = values[j], values[i]
				i++
				j--
			}
		}
		switch {
		case n <= j:
			high = j
		case n >= i:
			low = i
		default:
			return
		}
	}
}

// stepped reports whether the last two weeks are not where the days before lead: their
// residuals' median is more than three robust deviations off.
func stepped(points []daily) bool {
	cut, _ := slices.BinarySearchFunc(points, points[len(points)-1].day-stepDays+1, func(p daily, day int) int { return cmp.Compare(p.day, day) })
	if cut < weekdayDays {
		return false
	}
	m := shape(points[:cut])
	off := make([]float64, cut)
	for i, p := range points[:cut] {
		off[i] = math.Abs(p.value - m.at(p.day, p.week))
	}
	var late []float64
	for _, p := range points[cut:] {
		late = append(late, p.value-m.at(p.day, p.week))
	}
	return math.Abs(median(late)) > 3*1.4826*median(off)+0.5 // amounts are whole
}

// future draws one future from the last day on, and calls f for each day after it with
// what is expected and what came.
func (m *model) future(r *rand.Rand, last, days int, f func(day int, expected, value float64)) {
	level, slope := m.wrong(r, last)
	e, memory := m.last, m.last
	for h := 1; h <= days; h++ {
		day := last + h
		e, memory = m.phi*e+m.noise*r.NormFloat64(), m.phi*memory
		trend := m.at(day, (m.week+h)%7)
		f(day, trend+memory, trend+level+slope*float64(day)+e)
	}
}

// wrong draws how wrong level and slope may be: the line through a past of noise alone,
// as long as the real one.
func (m *model) wrong(r *rand.Rand, last int) (level, slope float64) {
	if m.noise == 0 || m.n < 2 {
		return 0, 0
	}
	apart := float64(last) / float64(m.n-1)
	var sumX, sumY, sumXX, sumXY float64
	e := m.noise * r.NormFloat64() / math.Sqrt(1-m.phi*m.phi)
	for i := range m.n {
		x := apart * float64(i)
		sumX, sumY, sumXX, sumXY = sumX+x, sumY+e, sumXX+x*x, sumXY+x*e
		e = m.phi*e + m.noise*r.NormFloat64()
	}
	n := float64(m.n)
	slope = (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
	return (sumY - slope*sumX) / n, slope
}

// backTest forecasts days that are known from those before them. It returns how many
// percent of them were within the nominal band, and by what the band must be widened to
// hold as many as it claims; 1 if it does. Without enough history nothing is tested.
func backTest(points []daily, r *rand.Rand) (coverage, widen float64, tested bool) {
	var off []float64 // as shares of the band's half on that side
	for k := 1; k <= mostTests; k++ {
		cut := len(points) - testApart*(k+1)
		if cut < leastDays-testDays {
			break
		}
		past := points[:cut]
		m := newModel(past)
		last := past[cut-1].day
		values := make([][]float64, testDays)
		middles := make([]float64, testDays)
		for range futures {
			m.future(r, last, testDays, func(day int, expected, value float64) {
				values[day-last-1] = append(values[day-last-1], value)
				middles[day-last-1] = expected
			})
		}
		for _, p := range points[cut:] {
			i := p.day - last - 1
			if i >= testDays {
				break
			}
			slices.Sort(values[i])
			low, high := values[i][futures*5/100], values[i][futures*95/100]
			half := max(high-middles[i], 0.5) // amounts are whole
			if p.value < middles[i] {
				half = max(middles[i]-low, 0.5)
			}
			off = append(off, math.Abs(p.value-middles[i])/half)
		}
	}
	if len(off) == 0 {
		return 0, 1, false
	}
	slices.Sort(off)
	within, _ := slices.BinarySearchFunc(off, 1, func(x, one float64) int {
		if x <= one {
			return -1
		}
		return 1
	})
	coverage = round(100*float64(within)/float64(len(off)), 1)
	if coverage >= nominal {
		return coverage, 1, true
	}
	return coverage, off[min(len(off)-1, int(math.Ceil(nominal/100*float64(len(off)))))], true
}

// foretell adds forecasts to the figures of a scope.
func (s *Scope) foretell(n *node, today Date, horizon int) {
	for i := range s.Figures {
		f := &s.Figures[i]
		x := Forecast{Evidence: "unknown"}
		if f.Usable != nil && f.Unknown == nil {
			x = forecast(string(s.Level)+"/"+s.Name+"/"+string(f.Dimension), n.cell(f.Dimension).series, *f.Usable, today, horizon)
		}
		if x.Exhaustion != nil && s.Level != FleetLevel && s.Level != ChassisLevel {
			x.Exhaustion.Band = nil
		}
		f.Forecast = &x
	}
}

// evidence says in words why there is no forecast.
func (f *Forecast) evidence() string {
	switch f.Evidence {
	case "unknown":
		return "insufficient evidence: the total is not known of all parts"
	case "short":
		return fmt.Sprintf("insufficient evidence: %d days were recorded, and %d are needed", f.Days, leastDays)
	case "stale":
		return fmt.Sprintf("insufficient evidence: nothing was recorded for more than %d days", staleDays)
	case "correlated":
		return "insufficient evidence: each day hangs too much on the day before"
	case "step":
		return fmt.Sprintf("insufficient evidence: demand made a step in the last %d days", stepDays)
	}
	return ""
}

// when says in words when demand reaches what is usable.
func (x *Exhaustion) when(horizon int) string {
	never := fmt.Sprintf("never within %d days", horizon)
	switch {
	case x.Early == Never:
		return never
	case x.Late == Never && x.Middle == Never:
		return fmt.Sprintf("from %s on, most likely %s", x.Early, never)
	case x.Late == Never:
		return fmt.Sprintf("from %s on, most likely %s, or %s", x.Early, x.Middle, never)
	}
	return fmt.Sprintf("between %s and %s, most likely %s", x.Early, x.Late, x.Middle)
}
