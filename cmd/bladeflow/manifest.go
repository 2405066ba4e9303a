package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// manifest is an object that a file wants, ready to be sent.
type manifest struct {
	noun noun
	name string
	raw  json.RawMessage
	at   string // file:line:column
}

// filesFlag adds -f.
func filesFlag(cmd *cobra.Command, files *[]string, help string) {
	cmd.Flags().StringArrayVarP(files, "file", "f", nil, help+": a `FILE` of YAML or JSON documents, a directory of such files, or - for standard input; may be given several times")
}

// manifestsOf reads all objects of files and directories, strictly. What only the
// manager can know (whether names exist, whether all fits together) it will say.
func manifestsOf(cmd *cobra.Command, files []string) ([]manifest, error) {
	var all []manifest
	for _, file := range files {
		inside, err := filesIn(file)
		if err != nil {
			return nil, err
		}
		for _, f := range inside {
			doing(cmd, "reading %s", f)
			text, err := readFile(cmd, f)
			if err != nil {
				return nil, err
			}
			some, err := readManifests(f, text)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
	}
	if len(all) == 0 {
		return nil, &flow.Fault{Code: "E_DOCUMENT", What: strings.Join(files, ", "), Why: "no object is in it", Remedy: "write documents with apiVersion: " + api.Version}
	}
	seen := map[string]string{}
	for _, m := range all {
		id := m.noun.name + " " + m.name
		if first, twice := seen[id]; twice {
			return nil, &flow.Fault{Code: "E_OBJECT_TWICE", What: m.at + ": " + id, Why: "it is at " + first + " already", Remedy: "leave one out"}
		}
		seen[id] = m.at
	}
	return all, nil
}

// filesIn returns the manifests below a directory in the order of their names, or the
// file itself.
func filesIn(name string) ([]string, error) {
	if info, err := os.Stat(name); err != nil || !info.IsDir() {
		return []string{name}, nil // - or one that readFile will speak of
	}
	var out []string
	err := filepath.WalkDir(name, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(path)) {
			out = append(out, path)
		}
		return err
	})
	return out, err
}

// readManifests reads the objects of one file.
func readManifests(file string, text []byte) ([]manifest, error) {
	documents, err := ruleset.Documents(file, text)
	if err != nil {
		return nil, err
	}
	var all []manifest
	for _, n := range documents {
		some, err := readDocuments(file, n)
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return all, nil
}

// readDocuments reads one object, or the objects of a List.
func readDocuments(file string, n *yaml.Node) ([]manifest, error) {
	n = dealias(n)
	kind, items := "", (*yaml.Node)(nil)
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		switch n.Content[i].Value {
		case "kind":
			kind = n.Content[i+1].Value
		case "items":
			items = dealias(n.Content[i+1])
		}
	}
	if kind == "List" && items != nil && items.Kind == yaml.SequenceNode {
		var all []manifest
		for _, item := range items.Content {
			some, err := readDocuments(file, item)
			if err != nil {
				return nil, err
			}
			all = append(all, some...)
		}
		return all, nil
	}
	m, err := readObject(file, n, kind)
	if err != nil {
		return nil, err
	}
	return []manifest{m}, nil
}

// readObject reads one object of a kind that users write.
func readObject(file string, n *yaml.Node, kind string) (manifest, error) {
	place := func(n *yaml.Node) string { return fmt.Sprintf("%s:%d:%d", file, n.Line, n.Column) }
	fault := func(code, what, why, remedy string) (manifest, error) {
		return manifest{}, &flow.Fault{Code: code, What: place(n) + ": " + what, Why: why, Remedy: remedy}
	}
	i := slices.IndexFunc(nouns, func(w noun) bool { return w.made && w.kind == kind })
	switch {
	case n.Kind != yaml.MappingNode:
		return fault("E_TYPE", "document", "it is not an object", "write apiVersion: "+api.Version)
	case kind == "":
		return fault("E_FIELD_MISSING", "kind", "it is missing", "add kind: KIND")
	case i < 0:
		return fault("E_KIND", "kind "+strconv.Quote(kind), "nothing of this kind can be wanted", flow.Suggest(kind, wantedKinds()...))
	}
	raw, err := toJSON(n)
	if err != nil {
		return fault("E_TYPE", "document", err.Error(), "write plain YAML")
	}
	m := manifest{noun: nouns[i], raw: raw, at: place(n)}
	if kind == api.KindRuleSet {
		_, err = ruleset.FromYAML(file, n, flow.OpenPorts())
	} else if err = api.Decode(raw, m.noun.blank()); err != nil {
		err = located(file, n, err)
	}
	if err != nil {
		return m, err
	}
	head, err := headOf(raw)
	if err != nil {
		return m, err
	}
	switch m.name = head.Metadata.Name; {
	case head.APIVersion != api.Version:
		return fault("E_VERSION", "apiVersion", fmt.Sprintf("%q is not known here", head.APIVersion), "use "+api.Version)
	case m.name == "":
		return fault("E_FIELD_MISSING", "metadata.name", "it is missing", "add it")
	}
	return m, nil
}

func wantedKinds() []string {
	var out []string
	for _, n := range nouns {
		if n.made {
			out = append(out, n.kind)
		}
	}
	return out
}

// located puts the place of the field that a fault names in front of it.
func located(file string, n *yaml.Node, err error) error {
	f, ok := errors.AsType[*flow.Fault](err)
	if !ok {
		return err
	}
	path := strings.TrimPrefix(f.What, "field ")
	at := nodeAt(n, path)
	g := *f
	g.What = fmt.Sprintf("%s:%d:%d: %s", file, at.Line, at.Column, path)
	g.Remedy = strings.Replace(f.Remedy, "see /openapi.json", "compare it with one that is there: bladeflow get NOUN NAME -o yaml", 1)
	return &g
}

var pathPart = regexp.MustCompile(`[^.\[\]]+`)

// nodeAt follows a path like spec.vnics[0].mac as far as it leads: to the key of the
// last mapping, or to the element of the last list.
func nodeAt(n *yaml.Node, path string) *yaml.Node {
	at := n
	for _, part := range pathPart.FindAllString(path, -1) {
		n = dealias(n)
		switch n.Kind {
		case yaml.SequenceNode:
			i, err := strconv.Atoi(part)
			if err != nil || i >= len(n.Content) {
				return at
			}
			n = n.Content[i]
			at = n
		case yaml.MappingNode:
			next := (*yaml.Node)(nil)
			for i := 0; i < len(n.Content); i += 2 {
				if n.Content[i].Value == part { // the last, for a field that is there twice
					at, next = n.Content[i], n.Content[i+1]
				}
			}
			if next == nil {
				return at
			}
			n = next
		default:
			return at
		}
	}
	return at
}

func dealias(n *yaml.Node) *yaml.Node {
	if n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// toJSON rewrites a YAML node as JSON, keeping fields in order, twice if they are
// there twice. Numbers that JSON cannot write (0x800) become strings, which rules read
// alike.
func toJSON(n *yaml.Node) (json.RawMessage, error) {
	var out bytes.Buffer
	err := writeJSON(&out, n)
	return out.Bytes(), err
}

func writeJSON(out *bytes.Buffer, n *yaml.Node) error {
	n = dealias(n)
	switch n.Kind {
	case yaml.MappingNode:
		out.WriteByte('{')
		for i := 0; i < len(n.Content); i += 2 {
			if i > 0 {
				out.WriteByte(',')
			}
			if n.Content[i].Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: a key is not a plain word", n.Content[i].Line)
			}
			writeString(out, n.Content[i].Value)
			out.WriteByte(':')
			if err := writeJSON(out, n.Content[i+1]); err != nil {
				return err
			}
		}
		out.WriteByte('}')
	case yaml.SequenceNode:
		out.WriteByte('[')
		for i, item := range n.Content {
			if i > 0 {
				out.WriteByte(',')
			}
			if err := writeJSON(out, item); err != nil {
				return err
			}
		}
		out.WriteByte(']')
	default:
		writeScalar(out, n)
	}
	return nil
}

func writeScalar(out *bytes.Buffer, n *yaml.Node) {
	switch n.Tag {
	case "!!null":
		out.WriteString("null")
	case "!!bool":
		out.WriteString(strconv.FormatBool(strings.EqualFold(n.Value, "true")))
	case "!!int", "!!float":
		if json.Valid([]byte(n.Value)) {
			out.WriteString(n.Value)
			return
		}
		fallthrough
	default:
		writeString(out, n.Value)
	}
}

func writeString(out *bytes.Buffer, s string) {
	e := json.NewEncoder(out) // strings always encode
	e.SetEscapeHTML(false)
	_ = e.Encode(s)
	out.Truncate(out.Len() - 1) // the line's end
}
