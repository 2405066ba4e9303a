package agent

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
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

// reader walks a YAML document strictly and keeps the first fault. After one it
// walks on without effect, so that its callers need no checks.
type reader struct {
	file string
	err  error
}

// value is one node with the path to it. Its node is nil after a fault.
type value struct {
	r    *reader
	node *yaml.Node
	path string
}

type presence bool

const (
	required presence = true
	optional presence = false
)

// fields says what a mapping may have, whether it must, and what reads it.
type fields map[string]struct {
	need presence
	read func(value)
}

// document returns the top of the one document in data.
func (r *reader) document(data []byte) value {
	dec := yaml.NewDecoder(bytes.NewReader(data))
	var n, second yaml.Node
	err := dec.Decode(&n)
	switch {
	case errors.Is(err, io.EOF):
		err = errors.New("it is empty")
	case err == nil:
		if err = dec.Decode(&second); errors.Is(err, io.EOF) {
			return value{r, n.Content[0], ""}
		} else if err == nil {
			err = fmt.Errorf("line %d: a second document begins", second.Line)
		}
	}
	r.err = ruleset.SyntaxFault(r.file, data, err)
	return value{r: r}
}

func (v value) fault(code, why, remedy string) {
	if v.r.err == nil {
		v.r.err = &flow.Fault{Code: code, What: fmt.Sprintf("%s:%d:%d: %s", v.r.file, v.node.Line, v.node.Column, strings.TrimPrefix(v.path, ".")), Why: why, Remedy: remedy}
	}
}

// is reports whether v can be read as kind, else it notes a fault.
func (v value) is(kind yaml.Kind, word string) bool {
	if v.r.err != nil {
		return false
	}
	if v.node.Kind != kind || v.node.Tag == "!!null" {
		v.fault("E_TYPE", "it is not "+word, "see the example in `bladeflow agent --help`")
		return false
	}
	return true
}

// fields reads a mapping.
func (r *reader) fields(v value, known fields) {
	if !v.is(yaml.MappingNode, "a mapping") {
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(v.node.Content) && r.err == nil; i += 2 {
		key := value{r, v.node.Content[i], v.path + "." + v.node.Content[i].Value}
		name := key.node.Value
		f, ok := known[name]
		switch {
		case !ok:
			key.fault("E_FIELD_UNKNOWN", "there is no such field", "use "+strings.Join(known.names(), ", "))
		case seen[name]:
			key.fault("E_FIELD_TWICE", "it is there twice", "leave one out")
		default:
			f.read(value{r, v.node.Content[i+1], key.path})
		}
		seen[name] = true
	}
	for _, name := range known.names() {
		if bool(known[name].need) && !seen[name] && r.err == nil {
			value{r, v.node, v.path + "." + name}.fault("E_FIELD_MISSING", "it is missing", "add "+name)
		}
	}
}

func (f fields) names() []string {
	var names []string
	for name := range f {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// list reads each item of a list.
func (v value) list(read func(value)) {
	if !v.is(yaml.SequenceNode, "a list") {
		return
	}
	for i, n := range v.node.Content {
		read(value{v.r, n, fmt.Sprintf("%s[%d]", v.path, i)})
	}
}

// text returns a plain value as it is written.
func (v value) text() string {
	if !v.is(yaml.ScalarNode, "a plain value") {
		return ""
	}
	return v.node.Value
}

// oneOf returns a plain value that must be one of words.
func (v value) oneOf(words ...string) string {
	s := v.text()
	if v.r.err == nil && !slices.Contains(words, s) {
		v.fault("E_VALUE", fmt.Sprintf("%q is not known here", s), "use "+strings.Join(words, " or "))
	}
	return s
}

// number returns a whole number from 0 to most.
func (v value) number(most int) int {
	n, err := strconv.Atoi(v.text())
	if v.r.err == nil && (err != nil || n < 0 || n > most) {
		v.fault("E_VALUE", "not a number that fits here", fmt.Sprintf("use 0 to %d", most))
	}
	return n
}
