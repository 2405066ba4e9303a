package flow

import "fmt"

// Tie is two rules of equal tier and priority that act differently on a packet
// both match. A table with one would have no meaning, so it is refused.
type Tie struct {
	A, B *Rule
	Key  Key // of a packet that both match
}

// FindTie returns a tie among rules, which are sorted by [Rule.Before], or nil.
func FindTie(rules []Rule) *Tie {
	for i := range rules {
		a := &rules[i]
		for j := i + 1; j < len(rules) && rules[j].Tier == a.Tier && rules[j].Priority == a.Priority; j++ {
			b := &rules[j]
			if !a.Match.Overlaps(&b.Match) || a.Actions.Equal(b.Actions) {
				continue
			}
			if k, ok := Shared(&a.Match, &b.Match); ok {
				return &Tie{a, b, k}
			}
		}
	}
	return nil
}

// Error says which rules tie.
func (t *Tie) Error() string { return fmt.Sprintf("rules %s and %s tie", t.A.Name, t.B.Name) }

func (t *Tie) fault(ports *Ports) error {
	return &Fault{Code: "E_TIE", What: fmt.Sprintf("rules %s and %s", t.A.Name, t.B.Name),
		Why:    fmt.Sprintf("both match the packet %s with priority %d and act differently", FormatKey(t.Key, ports), t.A.Priority),
		Remedy: "give one of them a higher priority", Err: t}
}
