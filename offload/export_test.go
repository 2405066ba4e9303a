package offload

import (
	"fmt"
	"math"
)

// Stale says what the planner remembers wrongly, or "".
func (p *Planner) Stale() string {
	most := p.mostAsks
	p.mostAsks = math.MaxInt // what is remembered may be more than the last device has room for
	defer func() { p.mostAsks = most }()
	for _, m := range p.members {
		for u := range m.all {
			if !u.asked {
				continue
			}
			have, kept := u.asks, p.kept
			u.asked = false
			fresh, _ := p.asksOf(m, u)
			p.kept = kept
			for i := range max(len(have), len(fresh)) {
				if i >= len(have) || i >= len(fresh) || have[i] != fresh[i] {
					return fmt.Sprintf("rule %s asks %d rules first, remembered were %d", m.rule.Name, len(fresh), len(have))
				}
			}
		}
		if m.covered && m.cover != p.index.covering(&m.rule.Match, after, m.place[after]) {
			return "who takes all packets of rule " + m.rule.Name
		}
	}
	return ""
}
