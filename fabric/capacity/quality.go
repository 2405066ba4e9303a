package capacity

import (
	"fmt"
	"math"
	"time"
)

// fullDay is how many 5-minute values a day has.
const fullDay = 288

// quality looks for what makes the figures weaker than they look. Only the series of
// leaves count: those that are recorded where the dimension really is. The day of the
// report itself is not over and is left out.
func quality(in Input, fleet *node) Quality {
	first, last := in.window()
	days := in.Window - 1
	found := map[string][]string{}
	recorded, expected := 0, 0
	fleet.walk(func(n *node) {
		if n.level == BladeLevel && n.silent {
			found["E_CAPACITY_SILENT"] = append(found["E_CAPACITY_SILENT"], n.name)
		}
		for i, d := range dimensions {
			if d != leafOf(n.level, d) {
				continue
			}
			c := &n.cells[i]
			name := fmt.Sprintf("%s of %s", d, n.name)
			if c.unknown.parts > 0 {
				found["E_CAPACITY_UNKNOWN"] = append(found["E_CAPACITY_UNKNOWN"], name)
			}
			if c.known.measured+c.unknown.measured == 0 {
				found["E_CAPACITY_UNMEASURED"] = append(found["E_CAPACITY_UNMEASURED"], name)
			}
			if len(c.series) == 0 {
				continue
			}
			expected += days * fullDay
			thin := 0
			for _, day := range c.series {
				if day.Date == last {
					continue
				}
				recorded += min(day.Samples, fullDay)
				if day.Samples < fullDay*9/10 {
					thin++
				}
			}
			start := c.series[0].Date
			if start > first {
				found["E_CAPACITY_SHORT"] = append(found["E_CAPACITY_SHORT"], fmt.Sprintf("%s from %s", name, start))
			}
			if missing := daysBetween(max(start, first), last) - len(c.series.before(last)); missing+thin > 0 {
				found["E_CAPACITY_GAP"] = append(found["E_CAPACITY_GAP"], fmt.Sprintf("%s: %d days missing, %d thin", name, missing, thin))
			}
		}
	})
	q := Quality{Findings: []Finding{}}
	if expected > 0 {
		q.Coverage = percent(int64(recorded), int64(expected))
	}
	for _, f := range findings {
		if objects := found[f.code]; len(objects) > 0 {
			q.Findings = append(q.Findings, Finding{f.code, f.text, objects})
		}
	}
	return q
}

// findings are the kinds of trouble, worst first.
var findings = []struct{ code, text string }{
	{"E_CAPACITY_SILENT", "the blade's agent does not report: its numbers are the last known, and it takes no new vNIC"},
	{"E_CAPACITY_UNKNOWN", "the total is neither declared nor learned: nothing is said about what remains there"},
	{"E_CAPACITY_UNMEASURED", "use is not measured: what remains is judged by allocation alone"},
	{"E_CAPACITY_GAP", "days without a record, or with less than nine tenths of it: a peak may have been missed"},
	{"E_CAPACITY_SHORT", "the record begins inside the window"},
}

// leafOf returns d if level is where d really is, else nothing.
func leafOf(level Level, d Dimension) Dimension {
	home := map[Dimension]Level{Slots: PFLevel, Bandwidth: PortLevel, Entries: PFLevel, Software: BladeLevel}
	if home[d] == level {
		return d
	}
	return ""
}

// before returns the days of s before a date.
func (s Series) before(date Date) Series {
	for i, d := range s {
		if d.Date >= date {
			return s[:i]
		}
	}
	return s
}

// daysBetween returns how many days lie from a up to b, b left out.
func daysBetween(a, b Date) int {
	from, err1 := time.Parse(time.DateOnly, string(a))
	to, err2 := time.Parse(time.DateOnly, string(b))
	if err1 != nil || err2 != nil {
		return 0
	}
	return int(math.Round(to.Sub(from).Hours() / 24))
}
