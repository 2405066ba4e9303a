package capacity

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
)

//go:embed report.html.tmpl
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"numbers": func(t table, column int) bool { return column >= t.Text },
}).Parse(page))

// WriteHTML writes the report as one file: style and drawings are in it, there is no
// script, and it asks for nothing from anywhere. 256 blades are about 2 MB.
func (d *Document) WriteHTML(w io.Writer) error {
	charts, err := d.charts()
	if err != nil {
		return err
	}
	return pageTemplate.Execute(w, struct {
		*Document
		Facts                 [][2]string
		Charts                []template.HTML
		Heatmaps              []heatmap
		Figures, Room, WhatIf []table
		Idle, Quality         table
		WhatIfTitle           string
	}{d, d.facts(), charts, d.heatmaps(), d.figureTables(), append(d.forecastTables(), d.roomTables()...), d.whatIfTables(), d.idleTable(), d.qualityTable(), d.whatIfTitle()})
}

func (d *Document) whatIfTitle() string {
	if d.Status.WhatIf == nil {
		return ""
	}
	return d.Status.WhatIf.title()
}

// charts draws every dimension of the fleet and the bandwidth of each chassis.
func (d *Document) charts() ([]template.HTML, error) {
	var all []template.HTML
	for _, s := range append(d.at(FleetLevel), d.at(ChassisLevel)...) {
		for i := range s.Figures {
			f := &s.Figures[i]
			if len(f.Series) == 0 || s.Level == ChassisLevel && f.Dimension != Bandwidth {
				continue
			}
			svg, err := chart(s, f)
			if err != nil {
				return nil, err
			}
			all = append(all, svg)
		}
	}
	return all, nil
}

// heatmap is one dimension of all chassis, slot by slot. The value stands in the cell;
// the shade only repeats it.
type heatmap struct {
	Title         string
	Width, Height int
	Columns       []label
	Rows          []label
	Cells         []heatCell
}

type label struct {
	X, Y int
	Text string
}

type heatCell struct {
	X, Y        int
	Text, About string
	Shade       string // s0 to s4, or what is not a number: none, odd
	Dark        bool   // light text on it
}

const cellWidth, cellHeight, nameWidth, headHeight = 44, 24, 120, 22

// heatmaps shows how full each blade is: the larger of allocated % and used %.
func (d *Document) heatmaps() []heatmap {
	chassis := d.at(ChassisLevel)
	blades := map[string][]*Scope{}
	slots := 0
	for _, b := range d.at(BladeLevel) {
		blades[b.In] = append(blades[b.In], b)
	}
	for _, c := range chassis {
		slots = max(slots, c.Slots, len(blades[c.Name]))
	}
	var all []heatmap
	for _, dim := range dimensions {
		if d.Status.Scopes[0].figure(dim) == nil {
			continue
		}
		h := heatmap{Title: dim.Title(), Width: nameWidth + slots*cellWidth, Height: headHeight + len(chassis)*cellHeight}
		for i := range slots {
			h.Columns = append(h.Columns, label{nameWidth + i*cellWidth + cellWidth/2, headHeight - 7, fmt.Sprint(i + 1)})
		}
		for row, c := range chassis {
			y := headHeight + row*cellHeight
			h.Rows = append(h.Rows, label{nameWidth - 8, y + 16, c.Name})
			for i, b := range seated(blades[c.Name], slots) {
				h.Cells = append(h.Cells, heat(b, dim, fmt.Sprintf("%s slot %d", c.Name, i+1), nameWidth+i*cellWidth, y))
			}
		}
		all = append(all, h)
	}
	return all
}

// seated puts blades into their slots; those whose slot is unknown take what is free.
func seated(blades []*Scope, slots int) []*Scope {
	seats := make([]*Scope, slots)
	for _, b := range blades {
		if b.Slot > 0 {
			seats[b.Slot-1] = b
		}
	}
	free := 0
	for _, b := range blades {
		if b.Slot > 0 {
			continue
		}
		for seats[free] != nil {
			free++
		}
		seats[free] = b
	}
	return seats
}

func heat(b *Scope, d Dimension, where string, x, y int) heatCell {
	c := heatCell{X: x, Y: y, Shade: "none"}
	if b == nil {
		c.Text, c.About = "–", where+": empty"
		return c
	}
	c.About = where + ", " + b.label()
	f := b.figure(d)
	switch {
	case f == nil:
		c.Text = "–"
		c.About += ": has none"
	case f.AllocatedPercent == nil && f.UsedPercent == nil:
		c.Text = "?"
		c.About += ": unknown"
	default:
		full := math.Max(derefPercent(f.AllocatedPercent), derefPercent(f.UsedPercent))
		c.Text = decimal(round(full, 0))
		c.About += fmt.Sprintf(": allocated %s, used %s", shownPercent(f.AllocatedPercent), shownPercent(f.UsedPercent))
		shade := min(int(full/25), 4)
		c.Shade, c.Dark = fmt.Sprint("s", shade), shade >= 3
	}
	switch b.State {
	case "faulty":
		c.Text, c.Shade, c.Dark = "✕"+c.Text, "odd", false
	case "silent":
		c.Text, c.Shade, c.Dark = "…"+c.Text, "odd", false
	}
	return c
}

func derefPercent(p *float64) float64 {
	if p == nil {
		return 0
	}
	return *p
}
