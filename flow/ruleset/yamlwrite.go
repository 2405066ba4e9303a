package ruleset

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// encodeYAML writes documents by hand: one line for a match, as people write it.
func encodeYAML(w io.Writer, sets []*Set, ports *flow.Ports) error {
	b := bufio.NewWriter(w)
	for i, s := range sets {
		if i > 0 {
			fmt.Fprintln(b, "---")
		}
		fmt.Fprintf(b, "apiVersion: %s\nkind: RuleSet\nmetadata: {name: %s", apiVersion, plain(s.Name))
		if s.UID != s.Name {
			fmt.Fprintf(b, ", uid: %s", plain(s.UID))
		}
		if s.Tenant != "default" {
			fmt.Fprintf(b, ", tenant: %s", plain(s.Tenant))
		}
		if len(s.Labels) > 0 {
			var labels []flow.Term
			for _, k := range slices.Sorted(maps.Keys(s.Labels)) {
				labels = append(labels, flow.Term{Name: plain(k), Value: s.Labels[k]})
			}
			fmt.Fprintf(b, ", labels: {%s}", pairs(labels))
		}
		fmt.Fprintf(b, "}\nspec:\n  tier: %s\n", s.Tier)
		if s.Default != nil {
			fmt.Fprintf(b, "  default: %s\n", flow.FormatActions(s.Default, ports))
		}
		fmt.Fprint(b, "  rules:")
		if len(s.Rules) == 0 {
			fmt.Fprint(b, " []")
		}
		fmt.Fprintln(b)
		for i := range s.Rules {
			r := &s.Rules[i]
			fmt.Fprintf(b, "    - name: %s\n      priority: %d\n      match: {%s}\n      actions: [%s]\n",
				plain(s.local(r)), r.Priority, pairs(flow.MatchTerms(&r.Match, ports)), yamlActions(r.Actions, ports))
		}
	}
	return b.Flush()
}

// local returns the name of a rule within the set.
func (s *Set) local(r *flow.Rule) string { return strings.TrimPrefix(r.Name, s.Name+"/") }

// plain writes a word so that YAML reads it as text whatever stands around it.
func plain(s string) string {
	safe := s != "" && s != "null" && s != "Null" && s != "NULL" && s[0] != ':' && s[len(s)-1] != ':'
	for i, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '.', c == '_', c == '/', c == '+', c == ':':
		case c == '-' && i > 0:
		default:
			safe = false
		}
	}
	if safe {
		return s
	}
	return strconv.Quote(s)
}

func pairs(terms []flow.Term) string {
	var out []string
	for _, t := range terms {
		if t.Value == "" {
			t.Value = "true" // bare
		}
		out = append(out, t.Name+": "+plain(t.Value))
	}
	return strings.Join(out, ", ")
}

func yamlActions(actions flow.Actions, ports *flow.Ports) string {
	var out []string
	for _, a := range actions {
		args := a.Args(ports)
		switch {
		case len(args) == 0:
			out = append(out, a.Op.String())
		case args[0].Name != "":
			out = append(out, fmt.Sprintf("{%s: {%s}}", a.Op, pairs(args)))
		case len(args) == 1:
			out = append(out, fmt.Sprintf("{%s: %s}", a.Op, plain(args[0].Value)))
		default:
			var values []string
			for _, t := range args {
				values = append(values, plain(t.Value))
			}
			out = append(out, fmt.Sprintf("{%s: [%s]}", a.Op, strings.Join(values, ", ")))
		}
	}
	return strings.Join(out, ", ")
}

// The JSON form of a document. Match values are strings, as they are in a text.
type jsonSet struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"`
	Metadata   jsonMetadata `json:"metadata"`
	Spec       jsonSpec     `json:"spec"`
}

type jsonMetadata struct {
	Name   string            `json:"name"`
	UID    string            `json:"uid,omitempty"`
	Tenant string            `json:"tenant,omitempty"`
	Labels map[string]string `json:"labels,omitempty"`
}

type jsonSpec struct {
	Tier    string     `json:"tier"`
	Default string     `json:"default,omitempty"`
	Rules   []jsonRule `json:"rules"`
}

type jsonRule struct {
	Name     string            `json:"name"`
	Priority int32             `json:"priority"`
	Match    map[string]string `json:"match"`
	Actions  []any             `json:"actions"`
}

// encodeJSON writes one object; several sets are a List.
func encodeJSON(w io.Writer, sets []*Set, ports *flow.Ports) error {
	items := []jsonSet{}
	for _, s := range sets {
		doc := jsonSet{APIVersion: apiVersion, Kind: "RuleSet", Metadata: jsonMetadata{Name: s.Name, Labels: s.Labels},
			Spec: jsonSpec{Tier: s.Tier.String(), Default: flow.FormatActions(s.Default, ports), Rules: []jsonRule{}}}
		if s.UID != s.Name {
			doc.Metadata.UID = s.UID
		}
		if s.Tenant != "default" {
			doc.Metadata.Tenant = s.Tenant
		}
		for i := range s.Rules {
			r := &s.Rules[i]
			rule := jsonRule{Name: s.local(r), Priority: r.Priority, Match: map[string]string{}}
			for _, t := range flow.MatchTerms(&r.Match, ports) {
				if t.Value == "" {
					t.Value = "true" // bare
				}
				rule.Match[t.Name] = t.Value
			}
			for _, a := range r.Actions {
				rule.Actions = append(rule.Actions, jsonAction(a, ports))
			}
			doc.Spec.Rules = append(doc.Spec.Rules, rule)
		}
		items = append(items, doc)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if len(items) == 1 {
		return enc.Encode(items[0])
	}
	return enc.Encode(map[string]any{"apiVersion": apiVersion, "kind": "List", "items": items})
}

func jsonAction(a flow.Action, ports *flow.Ports) any {
	args := a.Args(ports)
	if len(args) == 0 {
		return a.Op.String()
	}
	if args[0].Name != "" {
		named := map[string]string{}
		for _, t := range args {
			named[t.Name] = t.Value
		}
		return map[string]any{a.Op.String(): named}
	}
	values := []string{}
	for _, t := range args {
		values = append(values, t.Value)
	}
	if len(values) == 1 {
		return map[string]any{a.Op.String(): values[0]}
	}
	return map[string]any{a.Op.String(): values}
}
