package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// objectForms are the forms of -o for objects of the API; the first is the default.
var objectForms = []string{"table", "wide", "json", "yaml", "csv", "name"}

// printObjects writes a list in one of objectForms.
func printObjects(w io.Writer, n noun, list api.List[json.RawMessage], form string, heads bool) error {
	switch form {
	case "json":
		return printJSON(w, list)
	case "yaml":
		return printYAML(w, list)
	case "name":
		for _, raw := range list.Items {
			name, err := nameOf(raw)
			if err != nil {
				return err
			}
			fmt.Fprintln(w, name)
		}
		return nil
	}
	rows, err := tableOf(n, list.Items, form != "table")
	if err != nil {
		return err
	}
	if !heads {
		rows = rows[1:]
	}
	if form == "csv" {
		out := csv.NewWriter(w)
		return out.WriteAll(rows)
	}
	return printTable(w, rows)
}

// tableOf returns the rows of a table, the head first.
func tableOf(n noun, items []json.RawMessage, wide bool) ([][]string, error) {
	rows := [][]string{n.heads(wide)}
	for _, raw := range items {
		row, err := n.row(raw)
		if err != nil {
			return nil, err
		}
		rows = append(rows, row[:len(rows[0])])
	}
	return rows, nil
}

// heads returns the names of a table's columns.
func (n noun) heads(wide bool) []string {
	if wide {
		return n.head
	}
	return n.head[:n.wide]
}

// headOf returns the head of an object.
func headOf(raw json.RawMessage) (api.Head, error) {
	var h api.Head
	err := json.Unmarshal(raw, &h)
	return h, err
}

func nameOf(raw json.RawMessage) (string, error) {
	h, err := headOf(raw)
	return h.Metadata.Name, err
}

// printYAML writes v, which encodes to JSON, as YAML with its fields in the same order.
func printYAML(w io.Writer, v any) error {
	text, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b, err := toYAML(text)
	if err == nil {
		_, err = w.Write(b)
	}
	return err
}

// toYAML rewrites JSON, of which YAML is the larger language, in YAML's own style.
func toYAML(text []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(text, &n); err != nil {
		return nil, err
	}
	var plain func(*yaml.Node)
	plain = func(n *yaml.Node) {
		n.Style = 0
		for _, c := range n.Content {
			plain(c)
		}
	}
	plain(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return nil, err
	}
	return out.Bytes(), e.Close()
}

// labelsFlag is a selector of labels, as the API reads it.
type labelsFlag struct{ text *string }

// String is what --help shows, nothing.
func (labelsFlag) String() string { return "" }

// Type is what --help calls the value.
func (labelsFlag) Type() string { return "NAME=VALUE,…" }

// Set checks a selector.
func (l labelsFlag) Set(text string) error {
	_, err := api.ParseSelector(text)
	*l.text = text
	return err
}
