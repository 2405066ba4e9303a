// Package ruleset reads and writes rules in every form they come in: RuleSet
// documents in YAML and JSON, one-line flows, ClassBench, and the lines of
// `ovs-ofctl dump-flows`; and packets in traces and pcap files. It also builds the
// one [flow.Table] of a blade out of several sets.
//
// Reading is strict: the first thing that is not right ends it with a [flow.Fault]
// that says file, line and column, and nothing is returned. The package opens no
// files; callers hand in bytes and the name to speak of. Start reading with [Set],
// [Decode] and [Build].
package ruleset

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// Set is one RuleSet: rules of one owner in one tier.
type Set struct {
	Name    string
	UID     string // identity of the set in RuleIDs; the name if the document has none
	Tenant  string // "default" if the document has none
	Labels  map[string]string
	Tier    flow.Tier
	Default flow.Actions // what no rule matches; nil if the set does not say
	Rules   []flow.Rule  // in the order of the document; their Name is `set/rule`

	file string
	at   []position // of each rule; empty for a set that was not read
}

// position is a place in a text, both from 1.
type position struct{ line, column int }

// New returns a set that contains rules, whose names are given without the set's.
// It completes their names, IDs and tier. Names that are not unique or not names,
// and invalid matches and actions, are a *[flow.Fault].
func New(name string, tier flow.Tier, def flow.Actions, rules []flow.Rule) (*Set, error) {
	s := &Set{Name: name, UID: name, Tenant: "default", Tier: tier, Default: def, Rules: slices.Clone(rules)}
	if err := flow.ValidRuleName(name); err != nil {
		return nil, err
	}
	return s, s.finish()
}

// finish gives the rules their full names, IDs and tier, and checks what a reader
// of a text cannot check line by line.
func (s *Set) finish() error {
	first := make(map[string]int, len(s.Rules))
	for i := range s.Rules {
		r := &s.Rules[i]
		if j, twice := first[r.Name]; twice {
			f := &flow.Fault{Code: "E_RULE_TWICE", What: "rule " + r.Name, Why: "the set has two rules of this name", Remedy: "rename one of them"}
			if len(s.at) > 0 {
				f.Why = fmt.Sprintf("line %d has a rule of this name already", s.at[j].line)
			}
			return s.place(i, f)
		}
		first[r.Name] = i
		if err := errors.Join(flow.ValidRuleName(r.Name), r.Match.Valid(), r.Actions.Valid()); err != nil {
			return s.place(i, err)
		}
		r.ID = flow.NewRuleID(s.UID, r.Name)
		r.Name = s.Name + "/" + r.Name
		r.Tier = s.Tier
	}
	return nil
}

// Where returns `file:line:column` of rule i, or the rule's name if the set was not read.
func (s *Set) Where(i int) string {
	if i >= len(s.at) {
		return "rule " + s.Rules[i].Name
	}
	return s.at[i].in(s.file)
}

func (s *Set) place(i int, err error) error {
	var f *flow.Fault
	if len(s.at) == 0 || !errors.As(err, &f) {
		return err
	}
	g := *f
	g.What = s.Where(i) + ": " + f.What
	return &g
}

func (p position) in(file string) string { return fmt.Sprintf("%s:%d:%d", file, p.line, p.column) }

// Format is a form that rules are written in.
type Format string

// The formats. ClassBench and OVS know fewer fields and actions than the others.
const (
	YAML       Format = "yaml"
	JSON       Format = "json" // read as YAML, of which it is a part
	Flows      Format = "flows"
	ClassBench Format = "classbench"
	OVS        Format = "ovs"
)

// ParseFormat returns the format called s.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case YAML, JSON, Flows, ClassBench, OVS:
		return f, nil
	}
	return "", &flow.Fault{Code: "E_FORMAT", What: fmt.Sprintf("format %q", s), Why: "unknown",
		Remedy: flow.Suggest(s, string(YAML), string(JSON), string(Flows), string(ClassBench), string(OVS))}
}

// Decode reads all sets of a file. file is the name faults speak of, and names the
// set where the format has no name for it. ports gives port names their meaning;
// see [flow.OpenPorts] for reading without a blade.
func Decode(f Format, file string, data []byte, ports *flow.Ports) ([]*Set, error) {
	switch f {
	case YAML, JSON:
		return decodeYAML(file, data, ports)
	case Flows:
		return decodeFlows(file, data, ports)
	case ClassBench:
		return decodeClassBench(file, data)
	case OVS:
		return decodeOVS(file, data, ports)
	}
	_, err := ParseFormat(string(f))
	return nil, err
}

// Encode writes sets so that [Decode] reads rules of the same meaning again. What
// the format cannot say is a *[flow.Fault] that names the rule and the field.
// ClassBench and OVS have no sets: their rules are written in the order of the
// whole table, and ClassBench has no actions either.
func Encode(w io.Writer, f Format, sets []*Set, ports *flow.Ports) error {
	switch f {
	case YAML:
		return encodeYAML(w, sets, ports)
	case JSON:
		return encodeJSON(w, sets, ports)
	case Flows:
		return encodeFlows(w, sets, ports)
	case ClassBench:
		return encodeClassBench(w, sets)
	case OVS:
		return encodeOVS(w, sets)
	}
	_, err := ParseFormat(string(f))
	return err
}

// Build makes the one table of a blade out of sets. Sets have different names,
// defaults agree where they are given, and rules that only their names order do not
// act differently on a packet ([flow.FindTie]); a fault names both sets.
func Build(gen flow.Generation, sw *flow.Switch, ports *flow.Ports, sets ...*Set) (*flow.Table, error) {
	spec := flow.TableSpec{Generation: gen, Switch: sw, Ports: ports}
	var from *Set // whose default it is
	byName := map[string]*Set{}
	for _, s := range sets {
		if other := byName[s.Name]; other != nil {
			return nil, &flow.Fault{Code: "E_SET_TWICE", What: "RuleSet " + s.Name,
				Why: fmt.Sprintf("%s and %s both have a set of this name", cmp.Or(other.file, "a caller"), cmp.Or(s.file, "a caller")), Remedy: "rename one of them"}
		}
		byName[s.Name] = s
		spec.Rules = append(spec.Rules, s.Rules...)
		if s.Default == nil {
			continue
		}
		if from != nil && !spec.Default.Equal(s.Default) {
			return nil, &flow.Fault{Code: "E_DEFAULT", What: fmt.Sprintf("RuleSets %s and %s", from.Name, s.Name),
				Why:    fmt.Sprintf("their defaults are %s and %s", flow.FormatActions(from.Default, ports), flow.FormatActions(s.Default, ports)),
				Remedy: "leave one out or make them agree"}
		}
		spec.Default, from = s.Default, s
	}
	t, err := flow.NewTable(spec)
	var tie *flow.Tie
	if errors.As(err, &tie) {
		f := *asFault(err)
		f.What = fmt.Sprintf("%s and %s", whereIs(tie.A, byName), whereIs(tie.B, byName))
		return nil, &f
	}
	return t, err
}

func asFault(err error) *flow.Fault {
	var f *flow.Fault
	errors.As(err, &f)
	return f
}

// whereIs names a rule with its place.
func whereIs(r *flow.Rule, sets map[string]*Set) string {
	set, _, _ := strings.Cut(r.Name, "/")
	what := "rule " + r.Name
	s := sets[set]
	if s == nil || len(s.at) == 0 {
		return what
	}
	i := slices.IndexFunc(s.Rules, func(o flow.Rule) bool { return o.ID == r.ID })
	return s.Where(i) + ": " + what
}

// setName makes a set's name of a file's.
func setName(file string) string {
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	if flow.ValidRuleName(name) != nil {
		return "rules"
	}
	return name
}

// inOrder returns the rules of all sets in the order a table asks them, rules that
// only their IDs order staying in the order of the documents.
func inOrder(sets []*Set) []*flow.Rule {
	var all []*flow.Rule
	for _, s := range sets {
		for i := range s.Rules {
			all = append(all, &s.Rules[i])
		}
	}
	slices.SortStableFunc(all, func(a, b *flow.Rule) int {
		return cmp.Or(cmp.Compare(a.Tier, b.Tier), cmp.Compare(b.Priority, a.Priority))
	})
	return all
}
