package capacity

import (
	"fmt"
	"strings"
)

// table is one table of the forms that people read.
type table struct {
	ID    string
	Title string
	Note  string // a sentence above it
	Wide  bool   // thousands of rows in a large fleet: not in Markdown
	Head  []string
	Text  int // leading columns that are text; the others are numbers
	Rows  [][]string
}

var levelTitles = [...]struct {
	level Level
	title string
}{{FleetLevel, "Fleet"}, {ChassisLevel, "Chassis"}, {BladeLevel, "Blades"}, {PFLevel, "Physical functions"}, {PortLevel, "Ports"}}

// figureTables has one table a level, with one row a scope and dimension.
func (d *Document) figureTables() []table {
	var all []table
	for _, l := range levelTitles {
		t := table{ID: string(l.level), Title: l.title, Text: 2, Wide: l.level == PFLevel || l.level == PortLevel,
			Head: []string{"scope", "dimension", "total", "faulty", "reserve", "buffer", "usable", "allocated", "allocated %", "used", "used %", "peak", "remaining", "bound by", "stranded", "unknown parts"}}
		for _, s := range d.at(l.level) {
			for _, f := range s.Figures {
				t.Rows = append(t.Rows, f.row(s))
			}
		}
		all = append(all, t)
	}
	return all
}

func (f *Figure) row(s *Scope) []string {
	row := []string{s.label(), f.Dimension.Title()}
	shown := func(v *int64) string {
		if v == nil {
			return "–"
		}
		return amount(f.Dimension, *v)
	}
	total, remaining := shown(f.Total), shown(f.Remaining)
	if f.Total == nil {
		total = "unknown"
	}
	if f.Remaining == nil {
		remaining = "unknown"
	}
	row = append(row, total, shown(f.Faulty), shown(f.Reserve), shown(f.Buffer), shown(f.Usable), shown(f.Allocated), shownPercent(f.AllocatedPercent),
		shown(f.Used), shownPercent(f.UsedPercent), shown(f.Peak), remaining, orDash(string(f.Formula)), shown(f.Stranded))
	if f.Unknown == nil {
		return append(row, "0")
	}
	return append(row, fmt.Sprintf("%d of %d", f.Unknown.Parts, f.Parts))
}

// label names a scope and says if something is wrong with it.
func (s *Scope) label() string {
	if s.State == "ok" {
		return s.Name
	}
	return s.Name + " (" + s.State + ")"
}

func shownPercent(p *float64) string {
	if p == nil {
		return "–"
	}
	return decimal(*p) + " %"
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// roomTables says per level what still fits, what binds, and how far ports are
// oversubscribed.
func (d *Document) roomTables() []table {
	var all []table
	for _, l := range levelTitles {
		t := table{ID: "room-" + string(l.level), Title: "Room: " + strings.ToLower(l.title), Text: 1, Wide: l.level == PFLevel || l.level == PortLevel,
			Head: []string{"scope", "VFs provisioned", "vNICs that fit", "on VFs that exist", "binds", "pooled", "fragmentation", "within today's reserve", "tightest", "oversubscribed", "really"}}
		for _, s := range d.at(l.level) {
			t.Rows = append(t.Rows, s.roomRow())
		}
		all = append(all, t)
	}
	return all
}

func (s *Scope) roomRow() []string {
	row := []string{s.label(), "–", "–", "–", "–", "–", "–", "–", "–", "–", "–"}
	if f := s.Fit; f != nil {
		fits := count(f.VNICs)
		if f.AtMost {
			fits = "at most " + fits
		}
		row[1], row[2], row[3], row[4], row[5], row[7] = count(*s.Provisioned), fits, count(f.Existing), orDash(string(f.Binds)), count(f.Pooled), count(f.AfterReserve)
		row[6] = decimal(round(100*f.Fragmentation, 1)) + " %"
	}
	if b := s.Binding; b != nil {
		row[8] = fmt.Sprintf("%s: %s %% left by %s", b.Dimension, decimal(b.RemainingPercent), b.Formula)
	}
	if o := s.Oversubscription; o != nil {
		row[9] = decimal(o.Configured) + " : 1"
		if o.Real != nil {
			row[10] = decimal(*o.Real) + " : 1"
		}
	}
	return row
}

// forecastTables has one table a level with when demand reaches what is usable; none
// without a horizon.
func (d *Document) forecastTables() []table {
	var all []table
	for _, l := range levelTitles {
		t := table{ID: "forecast-" + string(l.level), Title: "Forecast: " + strings.ToLower(l.title), Text: 2, Wide: l.level == PFLevel || l.level == PortLevel,
			Head: []string{"scope", "dimension", "remaining", "growth in 30 days", "worst week", "early", "middle", "late", "grade", "back-test", "days", "why not"}}
		for _, s := range d.at(l.level) {
			for i := range s.Figures {
				if f := &s.Figures[i]; f.Forecast != nil {
					t.Rows = append(t.Rows, f.forecastRow(s))
				}
			}
		}
		if len(t.Rows) > 0 {
			all = append(all, t)
		}
	}
	return all
}

func (f *Figure) forecastRow(s *Scope) []string {
	shown := func(v *int64) string {
		if v == nil {
			return "–"
		}
		return amount(f.Dimension, *v)
	}
	row := []string{s.label(), f.Dimension.Title(), shown(f.Remaining), "–", shown(f.Forecast.WorstWeek), "–", "–", "–", "–", "–", count(int64(f.Forecast.Days)), orDash(f.Forecast.evidence())}
	if x := f.Forecast.Exhaustion; x != nil {
		row[3], row[5], row[6], row[7], row[8], row[9] = signed(f.Dimension, x.Month), string(x.Early), string(x.Middle), string(x.Late), x.Grade, shownPercent(x.Coverage)
	}
	return row
}

// idleTable lists the blades below 20 %.
func (d *Document) idleTable() table {
	c := d.Status.Consolidation
	t := table{ID: "idle", Title: fmt.Sprintf("Blades below %d %%", idleBelow), Text: 2, Head: []string{"blade", "busiest dimension", "used %", "can be emptied"}}
	freed := make([]string, len(c.Freed))
	for i, f := range c.Freed {
		freed[i] = amount(f.Dimension, f.Total)
	}
	t.Note = fmt.Sprintf("%d of %d measured blades use less than %d %% of every dimension.", len(c.Below), c.Blades, idleBelow)
	if c.Emptied > 0 {
		t.Note += fmt.Sprintf(" Their vNICs are few enough that at most %d of the blades could be emptied into the rest and used for something else, which frees %s.", c.Emptied, strings.Join(freed, ", "))
	}
	for _, b := range c.Below {
		yes := "no"
		if b.Emptied {
			yes = "yes"
		}
		t.Rows = append(t.Rows, []string{b.Blade, b.Dimension.Title(), decimal(b.Percent) + " %", yes})
	}
	return t
}

// whatIfTables are where the new vNICs would go and what that changes.
func (d *Document) whatIfTables() []table {
	w := d.Status.WhatIf
	if w == nil {
		return nil
	}
	places := table{ID: "places", Title: "Where they would go", Text: 1, Head: []string{"PF", "vNICs"}}
	for _, p := range w.Places {
		places.Rows = append(places.Rows, []string{p.PF, count(p.VNICs)})
	}
	changes := table{ID: "changes", Title: "What changes", Text: 4, Head: []string{"level", "scope", "dimension", "figure", "before", "after", "delta"}}
	for _, c := range w.Changes {
		before, after, delta := c.Before.amounts(), c.After.amounts(), c.Delta.amounts()
		for i := range delta {
			if deref(delta[i].value) == 0 {
				continue
			}
			changes.Rows = append(changes.Rows, []string{string(c.Level), c.Name, c.Dimension.Title(), delta[i].name,
				amount(c.Dimension, *before[i].value), amount(c.Dimension, *after[i].value), signed(c.Dimension, *delta[i].value)})
		}
	}
	return []table{places, changes}
}

func signed(d Dimension, n int64) string {
	if n > 0 {
		return "+" + amount(d, n)
	}
	return amount(d, n)
}

// qualityTable lists what is wrong with the data.
func (d *Document) qualityTable() table {
	t := table{ID: "quality", Title: "Data quality", Text: 4, Head: []string{"code", "where", "what it means", "objects"}}
	t.Note = "No demand was recorded."
	if p := d.Status.Quality.Coverage; p != nil {
		t.Note = fmt.Sprintf("%s %% of the window's 5-minute values were recorded, today left out.", decimal(*p))
	}
	for _, f := range d.Status.Quality.Findings {
		t.Rows = append(t.Rows, []string{f.Code, fmt.Sprintf("%d objects", len(f.Objects)), f.Text, strings.Join(f.Objects, "; ")})
	}
	return t
}

// facts says what the report was asked, in pairs.
func (d *Document) facts() [][2]string {
	s := d.Spec
	survive := "nothing is reserved for a loss"
	if s.Survive != "" {
		survive = fmt.Sprintf("the loss of one %s", s.Survive)
	}
	p := s.Profile
	facts := [][2]string{
		{"at", s.At},
		{"window", fmt.Sprintf("%s to %s", s.From, s.To)},
		{"must survive", survive},
		{"buffer", fmt.Sprintf("%d %%", s.Buffer)},
		{"reference profile", fmt.Sprintf("%s: 1 VF, %s guaranteed, %s, %s in software", profileName(p), amount(Bandwidth, int64(p.Guaranteed)), amount(Entries, p.Entries), amount(Software, p.PacketsPerSecond))},
		{"input digest", s.Digest},
	}
	if s.Scope != "" {
		facts = append(facts, [2]string{"scope", s.Scope})
	}
	if s.Horizon > 0 {
		facts = append(facts, [2]string{"horizon", fmt.Sprintf("%d days", s.Horizon)})
	}
	return facts
}
