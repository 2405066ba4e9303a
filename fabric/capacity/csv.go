package capacity

import (
	"encoding/csv"
	"fmt"
	"io"
	"strconv"
)

// WriteCSV writes every number of the report in one long table, one number a line:
//
//	table,level,name,dimension,figure,unit,value
//
// table is figures, forecast, band low, band middle, band high, fit, oversubscription, consolidation, whatif, quality or series; a
// spreadsheet's pivot or a filter on the first column makes any of them wide. An
// unknown number has an empty value; a date of a series stands in the column figure.
func (d *Document) WriteCSV(w io.Writer) error {
	c := rows{csv.NewWriter(w)}
	c.line("table", "level", "name", "dimension", "figure", "unit", "value")
	for i := range d.Status.Scopes {
		c.scope(&d.Status.Scopes[i])
	}
	c.consolidation(d.Status.Consolidation)
	if d.Status.WhatIf != nil {
		c.whatIf(d.Status.WhatIf)
	}
	if p := d.Status.Quality.Coverage; p != nil {
		c.line("quality", "fleet", d.Metadata.Name, "", "coverage", "%", decimal(*p))
	}
	for _, f := range d.Status.Quality.Findings {
		for _, o := range f.Objects {
			c.line("quality", "", o, "", f.Code, "", "1")
		}
	}
	c.Flush()
	return c.Error()
}

// rows is a CSV file being written; its errors show when it is flushed.
type rows struct{ *csv.Writer }

func (c rows) line(cells ...string) { _ = c.Write(cells) }

func (c rows) scope(s *Scope) {
	level, name := string(s.Level), s.Name
	for _, f := range s.Figures {
		for _, v := range f.amounts() {
			c.line("figures", level, name, string(f.Dimension), v.name, f.Unit, integer(v.value))
		}
		c.line("figures", level, name, string(f.Dimension), "allocated percent", "%", optional(f.AllocatedPercent))
		c.line("figures", level, name, string(f.Dimension), "used percent", "%", optional(f.UsedPercent))
		unknown := 0
		if f.Unknown != nil {
			unknown = f.Unknown.Parts
		}
		c.line("figures", level, name, string(f.Dimension), "parts", "", strconv.Itoa(f.Parts))
		c.line("figures", level, name, string(f.Dimension), "unknown parts", "", strconv.Itoa(unknown))
		c.line("figures", level, name, string(f.Dimension), "unmeasured parts", "", strconv.Itoa(f.Unmeasured))
		if f.Forecast != nil {
			c.forecast(s, f.Dimension, f.Unit, f.Forecast)
		}
		for _, day := range f.Series {
			c.line("series", level, name, string(f.Dimension), string(day.Date), f.Unit, strconv.FormatInt(day.P95, 10))
		}
	}
	if o := s.Oversubscription; o != nil {
		c.line("oversubscription", level, name, string(Bandwidth), "configured", "", decimal(o.Configured))
		c.line("oversubscription", level, name, string(Bandwidth), "real", "", optional(o.Real))
	}
	if f := s.Fit; f != nil {
		c.line("fit", level, name, string(f.Binds), "vnics", "vNICs", strconv.FormatInt(f.VNICs, 10))
		c.line("fit", level, name, "", "existing", "vNICs", strconv.FormatInt(f.Existing, 10))
		c.line("fit", level, name, "", "pooled", "vNICs", strconv.FormatInt(f.Pooled, 10))
		c.line("fit", level, name, "", "after reserve", "vNICs", strconv.FormatInt(f.AfterReserve, 10))
		c.line("fit", level, name, "", "fragmentation", "", decimal(f.Fragmentation))
		c.line("fit", level, name, "", "at most", "", strconv.FormatBool(f.AtMost))
	}
}

func (c rows) forecast(s *Scope, d Dimension, unit string, f *Forecast) {
	line := func(figure, unit, value string) {
		c.line("forecast", string(s.Level), s.Name, string(d), figure, unit, value)
	}
	line("days", "", strconv.Itoa(f.Days))
	line("evidence", "", f.Evidence)
	line("worst week", unit, integer(f.WorstWeek))
	x := f.Exhaustion
	if x == nil {
		return
	}
	line("growth in 30 days", unit, strconv.FormatInt(x.Month, 10))
	line("early", "", string(x.Early))
	line("middle", "", string(x.Middle))
	line("late", "", string(x.Late))
	line("coverage", "%", optional(x.Coverage))
	line("grade", "", x.Grade)
	for _, b := range x.Band {
		for _, v := range []struct {
			name   string
			amount int64
		}{{"band low", b.Low}, {"band middle", b.Middle}, {"band high", b.High}} {
			c.line(v.name, string(s.Level), s.Name, string(d), string(b.Date), unit, strconv.FormatInt(v.amount, 10))
		}
	}
}

func (c rows) consolidation(k Consolidation) {
	for _, b := range k.Below {
		c.line("consolidation", "blade", b.Blade, string(b.Dimension), "used percent", "%", decimal(b.Percent))
		c.line("consolidation", "blade", b.Blade, "", "emptied", "", strconv.FormatBool(b.Emptied))
	}
	for _, f := range k.Freed {
		c.line("consolidation", "fleet", "", string(f.Dimension), "freed", f.Unit, strconv.FormatInt(f.Total, 10))
	}
}

func (c rows) whatIf(w *WhatIf) {
	c.line("whatif", "", w.Profile.Name, "", "wanted", "vNICs", strconv.FormatInt(w.Wanted, 10))
	c.line("whatif", "", w.Profile.Name, "", "placed", "vNICs", strconv.FormatInt(w.Placed, 10))
	c.line("whatif", "", w.Profile.Name, string(w.RunsOut), "more", "vNICs", strconv.FormatInt(w.More, 10))
	for _, p := range w.Places {
		c.line("whatif", "pf", p.PF, "", "placed", "vNICs", strconv.FormatInt(p.VNICs, 10))
	}
	for _, ch := range w.Changes {
		for _, part := range []struct {
			name string
			s    Standing
		}{{"before", ch.Before}, {"after", ch.After}, {"delta", ch.Delta}} {
			for _, v := range part.s.amounts() {
				c.line("whatif", string(ch.Level), ch.Name, string(ch.Dimension), fmt.Sprintf("%s %s", v.name, part.name), ch.Unit, integer(v.value))
			}
		}
	}
}

// named is an amount and what it is called in tables.
type named struct {
	name  string
	value *int64
}

func (f *Figure) amounts() []named {
	return []named{{"total", f.Total}, {"faulty", f.Faulty}, {"reserve", f.Reserve}, {"buffer", f.Buffer}, {"usable", f.Usable},
		{"allocated", f.Allocated}, {"used", f.Used}, {"peak", f.Peak}, {"remaining", f.Remaining}, {"stranded", f.Stranded}}
}

func (s *Standing) amounts() []named {
	return []named{{"usable", s.Usable}, {"allocated", s.Allocated}, {"used", s.Used}, {"remaining", s.Remaining}}
}

func integer(v *int64) string {
	if v == nil {
		return ""
	}
	return strconv.FormatInt(*v, 10)
}

func optional(v *float64) string {
	if v == nil {
		return ""
	}
	return decimal(*v)
}
