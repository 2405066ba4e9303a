package ruleset

import (
	"bufio"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// lines yields the lines of a text that are neither empty nor comments (#), with
// their place: line and column from 1 of the first character that is no blank. The
// mark that some editors put in front of UTF-8 is left out.
func lines(data []byte) iter.Seq2[position, string] {
	return func(yield func(position, string) bool) {
		n := 0
		for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
			n++
			text := strings.TrimSpace(line)
			if text == "" || text[0] == '#' {
				continue
			}
			if !yield(position{n, 1 + strings.Index(line, text)}, text) {
				return
			}
		}
	}
}

// lineFault puts a fault of package flow, whose Offset is within the line, in place.
func lineFault(file string, at position, err error) error {
	f := *asFault(err)
	at.column += f.Offset
	f.What, f.Offset = at.in(file)+": "+f.What, 0
	return &f
}

// A file of flows has one rule a line. A line `set=NAME,tier=…,default=…` starts a
// set; rules before the first are in a set named after the file, in tier tenant.
func decodeFlows(file string, data []byte, ports *flow.Ports) ([]*Set, error) {
	start := func(name string) *Set {
		return &Set{Name: name, UID: name, Tenant: "default", Tier: flow.TierTenant, file: file}
	}
	var sets []*Set
	for at, line := range lines(data) {
		if strings.HasPrefix(line, "set=") {
			s := start("")
			if err := s.header(line); err != nil {
				return nil, lineFault(file, at, err)
			}
			sets = append(sets, s)
			continue
		}
		if len(sets) == 0 {
			sets = append(sets, start(setName(file)))
		}
		r, err := flow.ParseRule(line, ports)
		if err != nil {
			return nil, lineFault(file, at, err)
		}
		s := sets[len(sets)-1]
		s.Rules = append(s.Rules, r)
		s.at = append(s.at, at)
	}
	if len(sets) == 0 {
		sets = append(sets, start(setName(file)))
	}
	for _, s := range sets {
		if err := s.finish(); err != nil {
			return nil, err
		}
	}
	return sets, nil
}

// header reads the line that starts a set.
func (s *Set) header(line string) error {
	offset := 0
	seen := map[string]bool{}
	for part := range strings.SplitSeq(line, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fault := &flow.Fault{Code: "E_FIELD_VALUE", What: "field " + name, Why: "it has no value", Remedy: "write " + name + "=VALUE", Offset: offset}
		offset += len(part) + 1
		var err error
		switch {
		case seen[name]:
			fault.Code, fault.Why, fault.Remedy = "E_FIELD_TWICE", "it is there twice", "leave one out"
			return fault
		case value == "":
			return fault
		case name == "set":
			s.Name = value
			err = flow.ValidRuleName(value)
			if s.UID == "" {
				s.UID = value
			}
		case name == "uid":
			s.UID, err = value, flow.ValidRuleName(value)
		case name == "tenant":
			s.Tenant, err = value, flow.ValidRuleName(value)
		case name == "tier":
			s.Tier, err = flow.ParseTier(value)
		case name == "default":
			s.Default, err = parseDefault(value)
		default:
			fault.Code, fault.Why, fault.Remedy = "E_FIELD_UNKNOWN", "there is no such field", flow.Suggest(name, "set", "uid", "tenant", "tier", "default")
			return fault
		}
		if err != nil {
			f := *asFault(err)
			f.Offset = fault.Offset
			return &f
		}
		seen[name] = true
	}
	return nil
}

func encodeFlows(w io.Writer, sets []*Set, ports *flow.Ports) error {
	b := bufio.NewWriter(w)
	for _, s := range sets {
		fmt.Fprintf(b, "set=%s,tier=%s", s.Name, s.Tier)
		if s.UID != s.Name {
			fmt.Fprintf(b, ",uid=%s", s.UID)
		}
		if s.Tenant != "default" {
			fmt.Fprintf(b, ",tenant=%s", s.Tenant)
		}
		if s.Default != nil {
			fmt.Fprintf(b, ",default=%s", flow.FormatActions(s.Default, ports))
		}
		fmt.Fprintln(b)
		for i := range s.Rules {
			fmt.Fprintln(b, flow.FormatRule(&s.Rules[i], ports))
		}
	}
	return b.Flush()
}
