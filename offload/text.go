package offload

import (
	"fmt"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// String writes the plan for people: the operations in order, then where each rule
// ends up. Matches and actions are in the contract's words.
func (p *Plan) String() string {
	var b strings.Builder
	phase := func(title string, ops []Op) {
		fmt.Fprintf(&b, "%s\n", title)
		for i := range ops {
			fmt.Fprintf(&b, "  %-6s %s\n", ops[i].Kind, p.line(&ops[i].Entry))
		}
	}
	phase("retire", p.Retire)
	fmt.Fprintf(&b, "swap to generation %d\n", p.Want.Generation())
	phase("promote", p.Promote)
	u := p.Used
	fmt.Fprintf(&b, "used %s (%s, %s, %d foreign), %s, %s\n", count(u.Entries, "entry", "entries"), count(u.Guards, "guard", "guards"), count(u.Pieces, "piece", "pieces"), u.Foreign,
		count(u.Masks, "mask", "masks"), count(u.Priorities, "priority", "priorities"))
	fmt.Fprintf(&b, "rules\n")
	for i := range p.Placements {
		pl := &p.Placements[i]
		where := "software"
		switch {
		case pl.Whole():
			where = "hardware"
		case len(pl.Entries) > 0:
			where = "both"
		}
		fmt.Fprintf(&b, "  %-12s %s", pl.Name, where)
		if len(pl.Entries) > 0 {
			fmt.Fprintf(&b, ", %s", count(len(pl.Entries), "entry", "entries"))
		}
		if !pl.Whole() {
			fmt.Fprintf(&b, ": %s: %s: %s", pl.Code, pl.Reason, pl.Fix)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// line writes one entry. The priority is in hexadecimal: see entry.go for its parts.
func (p *Plan) line(e *flow.Entry) string {
	match, actions := flow.FormatMatch(&e.Match, p.Want.Ports()), "punt"
	if match == "" {
		match = "every packet"
	}
	if !e.Punt() {
		actions = flow.FormatActions(e.Actions, p.Want.Ports())
	}
	rule := fmt.Sprintf("%016x", uint64(e.Rule))
	if i, ok := p.Want.Index(e.Rule); ok {
		rule = p.Want.Rule(i).Name
	}
	return fmt.Sprintf("%-5s %-8s %016x  %s -> %s", e.Kind, rule, e.Priority, match, actions)
}
