package api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Selector is a condition on labels: NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas
// between those that must all hold. The zero value holds always.
type Selector []labelTerm

type labelTerm struct {
	name, value string
	any, not    bool // whatever the value; the opposite
}

// ParseSelector reads a selector; an empty text is the zero value.
func ParseSelector(text string) (Selector, error) {
	var s Selector
	if text == "" {
		return nil, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		var t labelTerm
		t.name, t.value, t.any = strings.Cut(part, "=")
		t.any = !t.any
		if t.any {
			t.name, t.not = strings.CutPrefix(t.name, "!")
		} else {
			t.name, t.not = strings.CutSuffix(t.name, "!")
		}
		if t.name = strings.TrimSpace(t.name); t.name == "" || strings.ContainsAny(t.name, "!= ") || strings.ContainsAny(t.value, "!= ") {
			return nil, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("labels %q", text), Why: "not a condition on labels",
				Remedy: "write NAME=VALUE, NAME!=VALUE, NAME or !NAME, with commas between"}
		}
		s = append(s, t)
	}
	return s, nil
}

// Selects reports whether labels are as the selector wants.
func (s Selector) Selects(labels map[string]string) bool {
	return !slices.ContainsFunc(s, func(t labelTerm) bool {
		value, has := labels[t.name]
		return (has && (t.any || value == t.value)) == t.not
	})
}
