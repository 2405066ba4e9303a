package flow

import (
	"fmt"
	"strings"
)

// ParseRule reads a rule in one line:
//
//	name=web,priority=100,in_port=vf0,ip_proto=tcp,dst_port=80-443 actions=normal
//
// Terms are in any order, actions last. Without priority it is 0. The rule's ID is
// [NewRuleID] of an empty set until a set gives it its own. The error is a *[Fault].
func ParseRule(line string, ports *Ports) (Rule, error) {
	var r Rule
	head, base, err := cutActions(line)
	if err != nil {
		return r, err
	}
	terms, err := splitTerms(head, 0)
	if err != nil {
		return r, err
	}
	var match []Term
	seen := map[string]bool{}
	for _, t := range terms {
		if (t.Name == "name" || t.Name == "priority") && seen[t.Name] {
			return r, &Fault{Code: "E_FIELD_TWICE", What: "field " + t.Name, Why: "it is there twice", Remedy: "leave one out", Offset: t.Offset}
		}
		seen[t.Name] = true
		switch t.Name {
		case "name":
			r.Name = t.Value
		case "priority":
			p, err := ParsePriority(t.Value)
			if err != nil {
				f := *err.(*Fault)
				f.Offset = t.Offset
				return r, &f
			}
			r.Priority = p
		default:
			match = append(match, t)
		}
	}
	if err := ValidRuleName(r.Name); err != nil {
		return r, err
	}
	if r.Match, err = NewMatch(match, ports); err != nil {
		return r, err
	}
	if r.Actions, err = parseActions(line[base:], base, ports); err != nil {
		return r, err
	}
	if err := r.Actions.validOn(&r.Match); err != nil {
		f := *err.(*Fault)
		f.Offset = base
		return r, &f
	}
	r.ID = NewRuleID("", r.Name)
	return r, nil
}

// cutActions returns what stands before `actions=`, and where the actions start.
func cutActions(line string) (head string, base int, err error) {
	const word = "actions="
	for at := 0; ; {
		i := strings.Index(line[at:], word)
		if i < 0 {
			return "", 0, &Fault{Code: "E_ACTION", What: "rule", Why: "it has no actions", Remedy: "end it with actions=ACTION,ACTION", Offset: len(line)}
		}
		at += i
		if at == 0 || strings.ContainsRune(", \t", rune(line[at-1])) {
			return line[:at], at + len(word), nil
		}
		at += len(word)
	}
}

// FormatRule writes r in one line, of which [ParseRule] makes the same name (the
// part behind the set's), priority, match and actions again.
func FormatRule(r *Rule, ports *Ports) string {
	name := r.Name[strings.LastIndexByte(r.Name, '/')+1:]
	terms := append([]Term{{Name: "name", Value: name}, {Name: "priority", Value: fmt.Sprint(r.Priority)}}, MatchTerms(&r.Match, ports)...)
	return joinTerms(terms) + " actions=" + FormatActions(r.Actions, ports)
}

// ParsePriority reads a priority of 0 to [MaxPriority]. The error is a *[Fault].
func ParsePriority(s string) (int32, error) {
	p, err := number(s, MaxPriority)
	if err != nil {
		return 0, &Fault{Code: "E_PRIORITY", What: "priority", Why: err.Error(), Remedy: fmt.Sprintf("use 0 to %d", MaxPriority)}
	}
	return int32(p), nil
}

// ValidRuleName returns nil iff s can name a rule or a set: letters, digits and
// . _ - only, at most 253 of them, so that `set/rule` names one rule everywhere.
func ValidRuleName(s string) error {
	fail := func(why string) error {
		return &Fault{Code: "E_NAME", What: fmt.Sprintf("name %q", s), Why: why, Remedy: "use 1 to 253 letters, digits and . _ -"}
	}
	if s == "" || len(s) > 253 {
		return fail(fmt.Sprintf("it has %d characters", len(s)))
	}
	for _, c := range []byte(s) {
		if !portName(string(rune(c))) || c == '/' || c == '@' {
			return fail(fmt.Sprintf("%q cannot be in a name", c))
		}
	}
	return nil
}
