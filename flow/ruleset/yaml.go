package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/flow"
)

// apiVersion is the version of the documents this package reads and writes.
const apiVersion = "bladeflow/v1"

// documents reads RuleSets out of YAML nodes, which know their line and column.
type documents struct {
	file    string
	ports   *flow.Ports
	sets    []*Set
	aliased int // values that the file's aliases stand for so far
}

func decodeYAML(file string, data []byte, ports *flow.Ports) ([]*Set, error) {
	d := documents{file: file, ports: ports}
	all, err := Documents(file, data)
	for _, n := range all {
		if err == nil {
			err = d.document(n)
		}
	}
	if f := looksLike(data); err != nil && f != YAML {
		return nil, &flow.Fault{Code: "E_DOCUMENT", What: file, Why: "it looks like the format " + string(f), Remedy: "read it with --from " + string(f), Err: err}
	}
	if err != nil {
		return nil, err
	}
	if len(d.sets) == 0 {
		return nil, &flow.Fault{Code: "E_DOCUMENT", What: file, Why: "it has no document", Remedy: "write a RuleSet with apiVersion: " + apiVersion}
	}
	return d.sets, nil
}

// looksLike says of a text that is no document what its first line could be.
func looksLike(data []byte) Format {
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] == '#':
			continue
		case line[0] == '@':
			return ClassBench
		case bytes.Contains(line, []byte("n_packets=")), bytes.HasPrefix(line, []byte("NXST_FLOW")), bytes.HasPrefix(line, []byte("OFPST_FLOW")):
			return OVS
		case bytes.Contains(line, []byte(" actions=")):
			return Flows
		}
		return YAML
	}
	return YAML
}

// Documents parses a file of YAML documents, whatever their kinds, for readers that
// take some themselves and give others to [FromYAML]. Aliases in it are bounded.
func Documents(file string, data []byte) ([]*yaml.Node, error) {
	d := documents{file: file}
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var all []*yaml.Node
	for {
		var n yaml.Node
		err := dec.Decode(&n)
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return nil, SyntaxFault(file, data, err)
		}
		if err := d.bound(&n); err != nil {
			return nil, err
		}
		all = append(all, n.Content[0])
	}
}

// FromYAML reads the RuleSets of one document that [Documents] returned: a RuleSet, or
// a List of them. Faults say file, line and column.
func FromYAML(file string, document *yaml.Node, ports *flow.Ports) ([]*Set, error) {
	d := documents{file: file, ports: ports}
	err := d.document(document)
	return d.sets, err
}

// parserFaults begin the errors whose line the library counts from 0; that of others
// it counts from 1.
var parserFaults = []string{"did not find expected node content", "did not find expected '-' indicator", "did not find expected key",
	"did not find expected ',' or", "did not find expected <document start>"}

// SyntaxFault turns an error of the YAML library, `yaml: line 3: why`, into a fault in
// the file whose bytes are data. Columns the library has none.
func SyntaxFault(file string, data []byte, err error) *flow.Fault {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	line := 1
	if rest, ok := strings.CutPrefix(text, "line "); ok {
		digits, why, _ := strings.Cut(rest, ": ")
		if n, err := strconv.Atoi(digits); err == nil {
			line, text = n, why
		}
		if slices.ContainsFunc(parserFaults, func(p string) bool { return strings.HasPrefix(text, p) }) {
			line = min(line+1, 1+bytes.Count(bytes.TrimSuffix(data, []byte("\n")), []byte("\n"))) // the end is after the last line
		}
	}
	return &flow.Fault{Code: "E_YAML", What: position{line, 1}.in(file), Why: text, Remedy: "mend the YAML", Err: err}
}

// fault is a fault at node n, which is at path in the document.
func (d *documents) fault(n *yaml.Node, path, code, why, remedy string) error {
	return &flow.Fault{Code: code, What: position{n.Line, n.Column}.in(d.file) + ": " + path, Why: why, Remedy: remedy}
}

// at puts a fault of package flow at node n.
func (d *documents) at(n *yaml.Node, path string, err error) error {
	f := *asFault(err)
	f.What = position{n.Line, n.Column}.in(d.file) + ": " + path + ": " + f.What
	f.Offset = 0
	return &f
}

var kindNames = map[yaml.Kind]string{yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a plain value"}

// deref follows an alias.
func deref(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// want returns the node behind n if it is of the kind, else a fault.
func (d *documents) want(n *yaml.Node, kind yaml.Kind, path, example string) (*yaml.Node, error) {
	n = deref(n)
	if n.Kind == kind && n.Tag != "!!null" {
		return n, nil
	}
	have := kindNames[n.Kind]
	if n.Tag == "!!null" {
		have = "empty"
	}
	return nil, d.fault(n, path, "E_TYPE", fmt.Sprintf("it is %s and must be %s", have, kindNames[kind]), "write "+example)
}

// each calls f for each pair of a mapping and refuses keys that come twice.
func (d *documents) each(n *yaml.Node, path string, f func(key, value *yaml.Node) error) error {
	seen := make(map[string]bool, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Kind != yaml.ScalarNode {
			return d.fault(key, path, "E_TYPE", "a key is not a plain word", "write FIELD: VALUE")
		}
		if seen[key.Value] {
			return d.fault(key, strings.TrimPrefix(path+"."+key.Value, "."), "E_FIELD_TWICE", "it is there twice", "leave one out")
		}
		seen[key.Value] = true
		if err := f(key, n.Content[i+1]); err != nil {
			return err
		}
	}
	return nil
}

func (d *documents) unknown(key *yaml.Node, path string, known ...string) error {
	return d.fault(key, strings.TrimPrefix(path+"."+key.Value, "."), "E_FIELD_UNKNOWN", "there is no such field", flow.Suggest(key.Value, known...))
}

// text returns the words of a plain value as they are written.
func (d *documents) text(n *yaml.Node, path, example string) (string, error) {
	n, err := d.want(n, yaml.ScalarNode, path, example)
	if err != nil {
		return "", err
	}
	return n.Value, nil
}

// document reads one object: a RuleSet, or a List of them.
func (d *documents) document(n *yaml.Node) error {
	n, err := d.want(n, yaml.MappingNode, "document", "apiVersion: "+apiVersion)
	if err != nil {
		return err
	}
	var version, kind, metadata, spec, items *yaml.Node
	err = d.each(n, "", func(key, value *yaml.Node) error {
		switch key.Value {
		case "apiVersion":
			version = value
		case "kind":
			kind = value
		case "metadata":
			metadata = value
		case "spec":
			spec = value
		case "items":
			items = value
		default:
			return d.unknown(key, "", "apiVersion", "kind", "metadata", "spec")
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := d.constant(n, version, "apiVersion", apiVersion); err != nil {
		return err
	}
	if kind != nil && kind.Value == "List" {
		return d.list(n, items)
	}
	if err := d.constant(n, kind, "kind", "RuleSet"); err != nil {
		return err
	}
	switch {
	case metadata == nil:
		return d.fault(n, "metadata", "E_FIELD_MISSING", "it is missing", "add metadata: {name: NAME}")
	case spec == nil:
		return d.fault(n, "spec", "E_FIELD_MISSING", "it is missing", "add spec: {tier: tenant, rules: []}")
	case items != nil:
		return d.fault(items, "items", "E_FIELD_UNKNOWN", "a RuleSet has no items", "use kind: List or spec.rules")
	}
	s := &Set{Tenant: "default", file: d.file}
	if err := d.metadata(s, metadata); err != nil {
		return err
	}
	if err := d.spec(s, spec); err != nil {
		return err
	}
	if err := s.finish(); err != nil {
		return err
	}
	d.sets = append(d.sets, s)
	return nil
}

// constant checks a field that can only have one value.
func (d *documents) constant(parent, n *yaml.Node, path, want string) error {
	if n == nil {
		return d.fault(parent, path, "E_FIELD_MISSING", "it is missing", fmt.Sprintf("add %s: %s", path, want))
	}
	v, err := d.text(n, path, want)
	if err == nil && v != want {
		return d.fault(n, path, "E_VERSION", fmt.Sprintf("%q is not known here", v), "use "+want)
	}
	return err
}

func (d *documents) list(n, items *yaml.Node) error {
	if items == nil {
		return d.fault(n, "items", "E_FIELD_MISSING", "it is missing", "add items: [RuleSet, …]")
	}
	items, err := d.want(items, yaml.SequenceNode, "items", "a list of RuleSets")
	if err != nil {
		return err
	}
	for _, item := range items.Content {
		if item = deref(item); item.Kind == yaml.MappingNode {
			for i := 0; i < len(item.Content); i += 2 {
				if item.Content[i].Value == "items" {
					return d.fault(item, "items", "E_TYPE", "a List in a List", "put all RuleSets into one")
				}
			}
		}
		if err := d.document(item); err != nil {
			return err
		}
	}
	return nil
}

func (d *documents) metadata(s *Set, n *yaml.Node) error {
	n, err := d.want(n, yaml.MappingNode, "metadata", "metadata: {name: NAME}")
	if err != nil {
		return err
	}
	err = d.each(n, "metadata", func(key, value *yaml.Node) (err error) {
		path := "metadata." + key.Value
		switch key.Value {
		case "name":
			s.Name, err = d.name(value, path)
		case "uid":
			s.UID, err = d.name(value, path)
		case "tenant":
			s.Tenant, err = d.name(value, path)
		case "revision":
			_, err = d.text(value, path, "a number") // the store's, which ignores what files say
		case "labels":
			if value, err = d.want(value, yaml.MappingNode, path, "{NAME: VALUE}"); err != nil {
				return err
			}
			s.Labels = map[string]string{}
			err = d.each(value, path, func(k, v *yaml.Node) (err error) {
				s.Labels[k.Value], err = d.text(v, path+"."+k.Value, "a word")
				return err
			})
		default:
			err = d.unknown(key, "metadata", "name", "uid", "tenant", "labels", "revision")
		}
		return err
	})
	if err == nil && s.Name == "" {
		return d.fault(n, "metadata.name", "E_FIELD_MISSING", "it is missing", "add name: NAME")
	}
	if s.UID == "" {
		s.UID = s.Name
	}
	return err
}

// name returns a plain value that can be a name.
func (d *documents) name(n *yaml.Node, path string) (string, error) {
	v, err := d.text(n, path, "a name")
	if err != nil {
		return "", err
	}
	if err := flow.ValidRuleName(v); err != nil {
		return "", d.at(n, path, err)
	}
	return v, nil
}

func (d *documents) spec(s *Set, n *yaml.Node) error {
	n, err := d.want(n, yaml.MappingNode, "spec", "spec: {tier: tenant, rules: []}")
	if err != nil {
		return err
	}
	tier := false
	err = d.each(n, "spec", func(key, value *yaml.Node) error {
		path := "spec." + key.Value
		switch key.Value {
		case "tier":
			tier = true
			v, err := d.text(value, path, "tier: tenant")
			if err != nil {
				return err
			}
			if s.Tier, err = flow.ParseTier(v); err != nil {
				return d.at(value, path, err)
			}
		case "default":
			v, err := d.text(value, path, "default: drop")
			if err != nil {
				return err
			}
			if s.Default, err = parseDefault(v); err != nil {
				return d.at(value, path, err)
			}
		case "rules":
			rules, err := d.want(value, yaml.SequenceNode, path, "a list of rules")
			if err != nil {
				return err
			}
			return d.rules(s, rules)
		default:
			return d.unknown(key, "spec", "tier", "default", "rules")
		}
		return nil
	})
	if err == nil && !tier {
		s.Tier = flow.TierTenant
	}
	return err
}

// parseDefault reads what a set says of packets that no rule matches.
func parseDefault(s string) (flow.Actions, error) {
	for _, op := range []flow.Op{flow.Normal, flow.Pass, flow.Drop} {
		if s == op.String() {
			return flow.Actions{{Op: op}}, nil
		}
	}
	return nil, &flow.Fault{Code: "E_DEFAULT", What: fmt.Sprintf("default %q", s), Why: "unknown", Remedy: "use normal, pass or drop"}
}

func (d *documents) rules(s *Set, n *yaml.Node) error {
	s.Rules = make([]flow.Rule, len(n.Content))
	s.at = make([]position, len(n.Content))
	for i, item := range n.Content {
		s.at[i] = position{item.Line, item.Column}
		if err := d.rule(&s.Rules[i], i, deref(item)); err != nil {
			return err
		}
	}
	return nil
}

// rule reads one rule: a mapping, or the text of one line.
func (d *documents) rule(r *flow.Rule, index int, n *yaml.Node) error {
	path := func() string { return fmt.Sprintf("spec.rules[%d]", index) }
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" {
		var err error
		if *r, err = flow.ParseRule(n.Value, d.ports); err != nil {
			return d.at(n, path(), err)
		}
		return nil
	}
	if n.Kind != yaml.MappingNode {
		_, err := d.want(n, yaml.MappingNode, path(), "{name: NAME, priority: 100, match: {}, actions: [drop]}")
		return err
	}
	var name bool
	var actions *yaml.Node
	err := d.each(n, path(), func(key, value *yaml.Node) error {
		at := func() string { return path() + "." + key.Value }
		switch key.Value {
		case "name":
			v, err := d.name(value, at())
			if err != nil {
				return err
			}
			r.Name, name = v, true
		case "priority":
			v, err := d.text(value, at(), "priority: 100")
			if err != nil {
				return err
			}
			if r.Priority, err = flow.ParsePriority(v); err != nil {
				return d.at(value, at(), err)
			}
		case "match":
			m, err := d.want(value, yaml.MappingNode, at(), "match: {FIELD: VALUE}")
			if err != nil {
				return err
			}
			return d.match(r, m, at)
		case "actions":
			a, err := d.want(value, yaml.SequenceNode, at(), "actions: [normal]")
			if err != nil {
				return err
			}
			actions = a
			return d.actions(r, a, at)
		default:
			return d.unknown(key, path(), "name", "priority", "match", "actions")
		}
		return nil
	})
	switch {
	case err != nil:
		return err
	case !name:
		return d.fault(n, path()+".name", "E_FIELD_MISSING", "it is missing", "add name: NAME")
	case actions == nil:
		return d.fault(n, path()+".actions", "E_FIELD_MISSING", "it is missing", "add actions: [drop]")
	}
	if err := r.Valid(); err != nil { // what actions and match are to each other
		return d.at(actions, path()+".actions", err)
	}
	return nil
}

func (d *documents) match(r *flow.Rule, n *yaml.Node, path func() string) error {
	terms := make([]flow.Term, 0, len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], deref(n.Content[i+1])
		if value.Kind != yaml.ScalarNode || value.Tag == "!!null" {
			_, err := d.want(value, yaml.ScalarNode, path()+"."+key.Value, "one value, as dst_port: 80-443")
			return err
		}
		terms = append(terms, flow.Term{Name: key.Value, Value: value.Value, Offset: i})
	}
	m, err := flow.NewMatch(terms, d.ports)
	if err == nil {
		r.Match = m
		return nil
	}
	f := asFault(err)
	at := n.Content[f.Offset+1]
	if f.Code == "E_FIELD_UNKNOWN" || f.Code == "E_FIELD_TWICE" {
		at = n.Content[f.Offset]
	}
	return d.at(at, path(), err)
}

func (d *documents) actions(r *flow.Rule, n *yaml.Node, path func() string) error {
	for i, item := range n.Content {
		a, err := d.action(deref(item), func() string { return fmt.Sprintf("%s[%d]", path(), i) })
		if err != nil {
			return err
		}
		r.Actions = append(r.Actions, a)
	}
	if err := r.Actions.Valid(); err != nil {
		return d.at(n, path(), err)
	}
	return nil
}

// action reads `normal`, or a mapping of one word to a value, a list or a mapping.
func (d *documents) action(n *yaml.Node, path func() string) (flow.Action, error) {
	nodes := []*yaml.Node{n}
	op, args := flow.Term{Name: n.Value}, []flow.Term(nil)
	add := func(name string, value *yaml.Node) error {
		v, err := d.text(value, path()+"."+op.Name, "one value")
		args = append(args, flow.Term{Name: name, Value: v, Offset: len(nodes)})
		nodes = append(nodes, value)
		return err
	}
	switch {
	case n.Kind == yaml.MappingNode && len(n.Content) == 2:
		op.Name = n.Content[0].Value
		var err error
		switch v := deref(n.Content[1]); {
		case v.Tag == "!!null":
		case v.Kind == yaml.ScalarNode:
			err = add("", v)
		case v.Kind == yaml.SequenceNode:
			for _, item := range v.Content {
				if err = add("", item); err != nil {
					break
				}
			}
		default:
			err = d.each(v, path()+"."+op.Name, func(key, value *yaml.Node) error { return add(key.Value, value) })
		}
		if err != nil {
			return flow.Action{}, err
		}
	case n.Kind != yaml.ScalarNode || n.Tag == "!!null":
		return flow.Action{}, d.fault(n, path(), "E_TYPE", "not an action", "write normal, or output: PORT")
	}
	a, err := flow.NewAction(op, args, d.ports)
	if err != nil {
		return a, d.at(nodes[asFault(err).Offset], path(), err)
	}
	return a, nil
}
