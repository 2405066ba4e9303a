package capacity

import (
	"fmt"
	"strings"
)

// Effect is what a change leaves of one scope.
type Effect struct {
	Left  []Left
	Binds Dimension // the tightest one afterwards; empty if none is known
	Text  string    // the same as a sentence
}

// Left is what remains of one dimension before and after a change. Nil is not known.
type Left struct {
	Dimension             Dimension
	Usable, Before, After *int64
}

// Effect compares one scope of d, the report as it would be, with the report as it is.
// A scope that is in neither has nothing left.
func (d *Document) Effect(now *Document, level Level, name string) Effect {
	var e Effect
	var parts []string
	before, after := now.scope(level, name), d.scope(level, name)
	for _, dim := range dimensions {
		l := Left{Dimension: dim}
		if before != nil {
			if f := before.figure(dim); f != nil {
				l.Before = f.Remaining
			}
		}
		if after == nil || after.figure(dim) == nil {
			if l.Before != nil {
				e.Left = append(e.Left, l)
			}
			continue
		}
		f := after.figure(dim)
		l.Usable, l.After = f.Usable, f.Remaining
		e.Left = append(e.Left, l)
		if l.After == nil {
			parts = append(parts, dim.Title()+" unknown")
			continue
		}
		show := count
		if dim == Bandwidth {
			show = func(n int64) string { return amount(dim, n) }
		}
		parts = append(parts, fmt.Sprintf("%s %s of %s", dim.Title(), show(*l.After), show(*l.Usable)))
	}
	where := fmt.Sprintf("%s %s", level, name)
	if level == FleetLevel {
		where = "the fleet"
	}
	if len(parts) == 0 {
		e.Text = where + " has nothing to give"
		return e
	}
	e.Text = fmt.Sprintf("%s would have left: %s", where, strings.Join(parts, ", "))
	if after.Binding != nil {
		e.Binds = after.Binding.Dimension
		e.Text += fmt.Sprintf("; tightest: %s, %s %% left", e.Binds.Title(), decimal(after.Binding.RemainingPercent))
	}
	return e
}

// scope returns the scope of that name, or nil; the fleet's name does not matter.
func (d *Document) scope(level Level, name string) *Scope {
	for _, s := range d.at(level) {
		if level == FleetLevel || s.Name == name {
			return s
		}
	}
	return nil
}
