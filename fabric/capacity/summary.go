package capacity

import (
	"fmt"
	"strconv"
	"strings"
)

// summary writes the sentences that stand first.
func summary(d *Document) []string {
	var lines []string
	fleet := &d.Status.Scopes[0] // or the scope that was asked for
	for _, f := range fleet.Figures {
		lines = append(lines, sentence(f))
		if f.Forecast != nil {
			lines = append(lines, forecastSentence(f, d.Spec.Horizon))
		}
	}
	if b := fleet.Binding; b != nil {
		lines = append(lines, fmt.Sprintf("The tightest dimension of the %s is %s: %s %% of usable remains, bound by %s.", fleet.said(), b.Dimension.Title(), decimal(b.RemainingPercent), b.Formula))
	}
	if fleet.Fit != nil {
		lines = append(lines, fitSentence(fleet.Fit, d.Spec.Profile))
	}
	if c := d.Status.Consolidation; c.Blades > 0 {
		line := fmt.Sprintf("%d of %d measured blades (%s %%) use less than %d %% of every dimension", len(c.Below), c.Blades, decimal(c.Percent), idleBelow)
		if c.Emptied > 0 {
			line += fmt.Sprintf("; %d of them could be emptied into the rest, at most", c.Emptied)
		}
		lines = append(lines, line+".")
	}
	if w := d.Status.WhatIf; w != nil {
		line := fmt.Sprintf("Adding %s vNICs of %s: %s placed on %d PFs, %s more would fit", count(w.Wanted), profileName(w.Profile), count(w.Placed), len(w.Places), count(w.More))
		if w.RunsOut != "" {
			line += ", then " + w.RunsOut.Title() + " runs out"
		}
		lines = append(lines, line+".")
	}
	return lines
}

// said names a scope within a sentence.
func (s *Scope) said() string {
	if s.Level == FleetLevel {
		return "fleet"
	}
	return string(s.Level) + " " + s.Name
}

// forecastSentence says when demand reaches what is usable, and how far that is known.
func forecastSentence(f Figure, horizon int) string {
	line := fmt.Sprintf("Demand of %s reaches what is usable: ", f.Dimension.Title())
	if x := f.Forecast.Exhaustion; x != nil {
		line += fmt.Sprintf("%s (grade %s", x.when(horizon), x.Grade)
		if x.Coverage != nil {
			line += fmt.Sprintf("; the back-test held %s %% of days, nominally %s %%", decimal(*x.Coverage), decimal(nominal))
		}
		return line + ")."
	}
	line += f.Forecast.evidence()
	if w := f.Forecast.WorstWeek; w != nil {
		line += fmt.Sprintf("; the most it ever grew within a week is %s", amount(f.Dimension, *w))
	}
	return line + "."
}

func sentence(f Figure) string {
	title := strings.ToUpper(f.Dimension.Title()[:1]) + f.Dimension.Title()[1:]
	if f.Total == nil {
		return fmt.Sprintf("%s: the total is unknown on all %d parts, so what remains is unknown.", title, f.Parts)
	}
	line := fmt.Sprintf("%s: %s usable of %s", title, amount(f.Dimension, *f.Usable), amount(f.Dimension, *f.Total))
	if f.Allocated != nil {
		line += ", " + amount(f.Dimension, *f.Allocated) + " allocated"
	}
	if f.Used != nil {
		line += ", " + amount(f.Dimension, *f.Used) + " used"
	}
	if f.Remaining != nil {
		line += fmt.Sprintf(", %s remain by %s", amount(f.Dimension, *f.Remaining), f.Formula)
	} else {
		line += ", not measured, so what remains is unknown"
	}
	if f.Unknown != nil {
		line += fmt.Sprintf("; the total is unknown on %d of %d parts, which are left out", f.Unknown.Parts, f.Parts)
	}
	return line + "."
}

func fitSentence(f *Fit, p Profile) string {
	line := fmt.Sprintf("%s more vNICs of %s fit", count(f.VNICs), profileName(p))
	if f.Existing < f.VNICs {
		line = fmt.Sprintf("%s more vNICs of %s fit on the VFs that exist, %s with all that the cards can have", count(f.Existing), profileName(p), count(f.VNICs))
	}
	if f.AtMost {
		line = "At most " + line
	}
	if f.AfterReserve < f.VNICs {
		line += fmt.Sprintf(", %s of them without touching the buffer and the reserve of today, which grows with what is added", count(f.AfterReserve))
	}
	if f.Binds != "" {
		line += fmt.Sprintf("; %s binds first", f.Binds.Title())
	}
	if f.Fragmentation > 0 {
		line += fmt.Sprintf("; %s %% of the pooled room is lost to fragmentation", decimal(round(100*f.Fragmentation, 1)))
	}
	return line + "."
}

func profileName(p Profile) string {
	if p.Name == "" {
		return "one VF each"
	}
	return p.Name
}

// method states the formulas with the numbers of this report in them.
func method(in Input) []string {
	lost := "nothing is reserved for the loss of a blade or chassis"
	if in.Policy.Survive != "" {
		lost = fmt.Sprintf("reserve = the largest demand of one %s inside the scope, demand being the larger of allocated and peak", in.Policy.Survive)
	}
	over := make([]string, len(dimensions))
	for i, d := range dimensions {
		over[i] = fmt.Sprintf("%s %d %%", d.Title(), in.Policy.overcommit(d))
	}
	first, last := in.window()
	lines := []string{
		fmt.Sprintf("usable = total - faulty - reserve - buffer; %s; buffer = %d %% of total, rounded up.", lost, in.Policy.BufferPercent),
		"allocated % = allocated / (usable × overcommit); used % = used / usable. Overcommit: " + strings.Join(over, ", ") + ".",
		"remaining = min(usable - peak, usable × overcommit - allocated); the first is called demand, the second allocation. Negative: beyond what the policy allows.",
		fmt.Sprintf("used = the value now, or the latest day's 95th percentile of 5-minute values; peak = the largest of used and of every day's from %s to %s, in place of a prediction.", first, last),
		"A wider scope adds its parts up; peaks are added as if they came at the same time, unless the scope was recorded itself.",
		"fit(PF) = min over dimensions of floor(free / need); vNICs = sum over PFs, capped by each blade's software budget. Faulty PFs and silent blades take none. On VFs that exist: no more on a PF than it has VFs without a vNIC.",
		"stranded = sum over PFs of free - need × fit where another dimension binds; fragmentation = 1 - vNICs / fit of the pooled free amounts.",
		"oversubscription = sum of vNIC ceilings on a port / its speed; a vNIC without a ceiling counts with the speed.",
		fmt.Sprintf("A blade is below %d %% if every measured dimension is; emptying is tried in the order of fewest VFs, against the pooled rest.", idleBelow),
		"Unknown totals are never guessed: their parts are left out of sums and named under data quality.",
	}
	if in.Horizon > 0 {
		lines = append(lines, fmt.Sprintf("Forecast: daily p95 pulled to within 4 MAD, Theil-Sen trend, weekday medians, AR(1) residuals; early, middle and late are when 5, 50 and 95 %% of %d simulated futures have reached usable. At least %d days of history. Grade A is 90 days and a back-test that holds, B one of them; C: it held less than it claims, and the band was widened.", futures, leastDays))
	}
	return lines
}

// count writes a number with thousands apart.
func count(n int64) string {
	if n < 0 {
		return "-" + count(-n)
	}
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// amount writes an amount with its unit, rates in the largest unit below them.
func amount(d Dimension, n int64) string {
	if d != Bandwidth {
		return count(n) + " " + d.Unit()
	}
	for _, u := range []struct {
		size int64
		name string
	}{{1e12, "Tbit/s"}, {1e9, "Gbit/s"}, {1e6, "Mbit/s"}, {1e3, "kbit/s"}} {
		if n >= u.size || n <= -u.size {
			return decimal(round(float64(n)/float64(u.size), 2)) + " " + u.name
		}
	}
	return count(n) + " bit/s"
}

// decimal writes a number without superfluous digits.
func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
