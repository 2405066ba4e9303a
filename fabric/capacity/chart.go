package capacity

import (
	"bytes"
	"fmt"
	"html"
	"html/template"
	"image/color"
	"strings"
	"time"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// chart draws the demand of one figure by day, with what is usable and allocated as
// lines across, and what is forecast: its middle, and the band that holds 90 % of it. Lines differ by their dashes, not by colour alone; a day without a
// record is a gap. The drawing is inline SVG without any reference.
func chart(s *Scope, f *Figure) (template.HTML, error) {
	p := plot.New()
	unit, size := scale(f)
	p.Y.Label.Text = unit
	p.Y.Min = 0
	p.X.Tick.Marker = plot.TimeTicks{Format: "Jan 2", Time: plot.UTCUnixTime}
	p.Legend.Top, p.Legend.Padding = true, 2
	plain(p)
	lines := []struct {
		name  string
		value *int64
		dash  []vg.Length
	}{{"usable", f.Usable, []vg.Length{6, 3}}, {"allocated", f.Allocated, []vg.Length{2, 2}}}
	first, last := span(f.Series)
	var band []Band
	if f.Forecast != nil && f.Forecast.Exhaustion != nil {
		if band = f.Forecast.Exhaustion.Band; len(band) > 0 {
			last = unix(band[len(band)-1].Date)
			p.Legend.Left = true
		}
	}
	for _, l := range lines {
		if l.value == nil {
			continue
		}
		y := float64(*l.value) / size
		line, err := plotter.NewLine(plotter.XYs{{X: first, Y: y}, {X: last, Y: y}})
		if err != nil {
			return "", fmt.Errorf("chart of %s %s: %w", s.Name, f.Dimension, err)
		}
		line.Color, line.Dashes, line.Width = ink, l.dash, 1
		p.Add(line)
		p.Legend.Add(l.name, line)
		p.Y.Max = max(p.Y.Max, y*headroom)
	}
	for i, run := range runs(f.Series) {
		points := make(plotter.XYs, len(run))
		for j, day := range run {
			points[j] = plotter.XY{X: unix(day.Date), Y: float64(day.P95) / size}
			p.Y.Max = max(p.Y.Max, points[j].Y*headroom)
		}
		line, dots, err := plotter.NewLinePoints(points)
		if err != nil {
			return "", fmt.Errorf("chart of %s %s: %w", s.Name, f.Dimension, err)
		}
		line.Color, line.Width = demandInk, 1.5
		dots.Color, dots.Shape, dots.Radius = demandInk, draw.CircleGlyph{}, 1.5
		p.Add(line, dots)
		if i == 0 {
			p.Legend.Add("used, p95 of the day", line, dots)
		}
	}
	for _, l := range []struct {
		name string
		of   func(Band) int64
		dash []vg.Length
	}{{"forecast", func(b Band) int64 { return b.Middle }, []vg.Length{1, 2}}, {"90 % band", func(b Band) int64 { return b.High }, []vg.Length{1, 4}}, {"", func(b Band) int64 { return b.Low }, []vg.Length{1, 4}}} {
		if len(band) == 0 {
			break
		}
		points := make(plotter.XYs, len(band))
		for i, b := range band {
			points[i] = plotter.XY{X: unix(b.Date), Y: float64(l.of(b)) / size}
			p.Y.Max = max(p.Y.Max, points[i].Y*headroom)
		}
		line, err := plotter.NewLine(points)
		if err != nil {
			return "", fmt.Errorf("forecast of %s %s: %w", s.Name, f.Dimension, err)
		}
		line.Color, line.Dashes, line.Width = demandInk, l.dash, 1.5
		p.Add(line)
		if l.name != "" {
			p.Legend.Add(l.name, line)
		}
	}
	p.Y.Max = max(p.Y.Max, 1/size)
	p.X.Min, p.X.Max = first, last
	name := fmt.Sprintf("%s of %s by day, %s to %s", f.Dimension.Title(), s.Name, f.Series[0].Date, f.Series[len(f.Series)-1].Date)
	if len(band) > 0 {
		name += ", and forecast to " + string(band[len(band)-1].Date)
	}
	return inline(p, name)
}

var (
	ink       = color.RGBA{R: 0x33, G: 0x33, B: 0x33, A: 0xff}
	demandInk = color.RGBA{R: 0x0b, G: 0x5c, B: 0xad, A: 0xff}
)

const chartWidth, chartHeight = 520, 220

// headroom keeps the legend above the lines.
const headroom = 1.3

// inline returns a plot as a figure with its name, without what SVG in HTML does not
// need.
func inline(p *plot.Plot, name string) (template.HTML, error) {
	c := vgsvg.New(chartWidth, chartHeight)
	p.Draw(draw.New(c))
	var b bytes.Buffer
	if _, err := c.WriteTo(&b); err != nil {
		return "", err
	}
	_, drawing, _ := strings.Cut(b.String(), "<svg")
	_, drawing, _ = strings.Cut(drawing, ">")
	name = html.EscapeString(name)
	return template.HTML(fmt.Sprintf(`<figure><figcaption>%s</figcaption><svg class="chart" viewBox="0 0 %d %d" role="img" aria-label="%s">%s</figure>`,
		name, chartWidth, chartHeight, name, strings.TrimSpace(drawing))), nil
}

// plain takes the sans-serif face for all text.
func plain(p *plot.Plot) {
	f := font.Font{Typeface: "Liberation", Variant: "Sans", Size: 10}
	for _, t := range []*font.Font{&p.Title.TextStyle.Font, &p.X.Label.TextStyle.Font, &p.Y.Label.TextStyle.Font,
		&p.X.Tick.Label.Font, &p.Y.Tick.Label.Font, &p.Legend.TextStyle.Font} {
		*t = f
	}
}

// scale returns the unit of the axis and how large it is.
func scale(f *Figure) (unit string, size float64) {
	if f.Dimension != Bandwidth {
		return f.Unit, 1
	}
	if deref(f.Usable) >= 1e12 {
		return "Tbit/s", 1e12
	}
	return "Gbit/s", 1e9
}

func unix(d Date) float64 {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return 0
	}
	return float64(t.Unix())
}

// span returns the ends of the time axis; one day alone has some room around it.
func span(s Series) (first, last float64) {
	first, last = unix(s[0].Date), unix(s[len(s)-1].Date)
	if first == last {
		first, last = first-43200, last+43200
	}
	return first, last
}

// runs cuts a series where days are missing.
func runs(s Series) []Series {
	var all []Series
	for i, day := range s {
		if i == 0 || s[i-1].Date.add(1) != day.Date {
			all = append(all, nil)
		}
		all[len(all)-1] = append(all[len(all)-1], day)
	}
	return all
}
