package main

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/flow"
)

// TestToJSON: YAML is rewritten as the JSON that means the same, in the same order.
func TestToJSON(t *testing.T) {
	for text, want := range map[string]string{
		`{b: 1, a: [x, true, null, 1.5]}`: `{"b":1,"a":["x",true,null,1.5]}`,
		`{a: 0x800, b: 010, c: .5}`:       `{"a":"0x800","b":"010","c":".5"}`,
		`{a: "1", b: 'true', c: yes}`:     `{"a":"1","b":"true","c":"yes"}`,
		`{a: &x {n: "<é>"}, b: *x}`:       `{"a":{"n":"<é>"},"b":{"n":"<é>"}}`,
		`{a: 1, a: 2}`:                    `{"a":1,"a":2}`,
		`02:00:00:00:00:01`:               `"02:00:00:00:00:01"`,
	} {
		var n yaml.Node
		if err := yaml.Unmarshal([]byte(text), &n); err != nil {
			t.Fatal(err)
		}
		if got, err := toJSON(n.Content[0]); err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", text, got, err, want)
		}
	}
}

// TestNodeAt: a path leads to the line and column that users should look at.
func TestNodeAt(t *testing.T) {
	const text = "spec:\n  vnics:\n    - name: a\n    - name: b\n      mac: x\n      mac: y\n"
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(text), &n); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string][2]int{"spec": {1, 1}, "spec.vnics": {2, 3}, "spec.vnics[1]": {4, 7}, "spec.vnics[1].mac": {6, 7}, "spec.vnics[7].mac": {2, 3}, "spec.none.deeper": {1, 1}, "": {1, 1}} {
		if at := nodeAt(n.Content[0], path); at.Line != want[0] || at.Column != want[1] {
			t.Errorf("%q is at %d:%d, want %v", path, at.Line, at.Column, want)
		}
	}
}

var placed = regexp.MustCompile(`^f\.yaml(:\d+:\d+)?(: |$)`)

// FuzzManifests: whatever is in a file, it is read as objects that can be sent, or
// refused with its place.
func FuzzManifests(f *testing.F) {
	f.Add([]byte("apiVersion: bladeflow/v1\nkind: Network\nmetadata: {name: front}\nspec: {vlan: 10}\n---\nkind: List\nitems: []\n"))
	f.Add([]byte(`{"apiVersion":"bladeflow/v1","kind":"RuleSet","metadata":{"name":"r"},"spec":{"rules":[{"name":"a","actions":["drop"]}]}}`))
	f.Add([]byte("apiVersion: bladeflow/v1\nkind: Profile\nmetadata: &m {name: p}\nspec: {vnics: [*m]}\n"))
	f.Add([]byte("? [a]\n: b\n"))
	f.Add([]byte("&a [*a]"))
	f.Fuzz(func(t *testing.T, text []byte) {
		all, err := readManifests("f.yaml", text)
		if fault, ok := errors.AsType[*flow.Fault](err); err != nil && (!ok || fault.Code == "" || !placed.MatchString(fault.What)) {
			t.Errorf("%q: %v has no place", text, err)
		}
		for _, m := range all {
			if !json.Valid(m.raw) || m.name == "" || !strings.HasPrefix(m.at, "f.yaml:") {
				t.Errorf("%q is read as %s %q at %s", text, m.raw, m.name, m.at)
			}
		}
	})
}
