package main

import (
	"cmp"
	"math"
	"slices"
	"strings"
)

// bars are the heights of a sparkline, the lowest first. A value that is not known is a
// blank.
type bars []rune

var (
	blocks = bars("▁▂▃▄▅▆▇█")
	plain  = bars("_.-=+*%#") // for terminals that show nothing but ASCII
)

// barsFor returns what a terminal can show, by the locale of its environment: POSIX asks
// LC_ALL, LC_CTYPE and LANG, in this order, and the first that is not empty counts.
func barsFor(env func(string) string) bars {
	locale := strings.ToLower(cmp.Or(env("LC_ALL"), env("LC_CTYPE"), env("LANG")))
	if strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8") {
		return blocks
	}
	return plain
}

// sparkline draws values, the oldest first, in proportion to the largest of them. NaN is
// not known.
func (b bars) sparkline(values []float64) string {
	most := 0.0
	for _, v := range values {
		if !math.IsNaN(v) {
			most = max(most, v)
		}
	}
	var line strings.Builder
	for _, v := range values {
		switch {
		case math.IsNaN(v):
			line.WriteByte(' ')
		case most <= 0 || v <= 0:
			line.WriteRune(b[0])
		default: // the lowest is for nothing alone
			line.WriteRune(b[max(1, int(math.Round(v/most*float64(len(b)-1))))])
		}
	}
	return line.String()
}

// past is what the last refreshes showed, by name.
type past map[string][]float64

// add adds one refresh. Who is not in it any more is forgotten.
func (p past) add(now map[string]float64, keep int) {
	for name := range p {
		if _, there := now[name]; !there {
			delete(p, name)
		}
	}
	for name, v := range now {
		p[name] = append(p[name], v)
		p[name] = slices.Delete(p[name], 0, max(0, len(p[name])-keep))
	}
}
