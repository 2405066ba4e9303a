// Package document reads YAML that people write, strictly and in one place, and says
// what is wrong with it in their words: never with names of the program's own types.
package document

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Mistake is what is wrong with a document.
type Mistake struct {
	Line  int    // from 1; 0 if it is not of one line
	Field string // that the document must not have; "" if it is not about that
	Why   string
	Err   error // that the decoder met, or one of a type's own UnmarshalYAML
}

// Error says where it is and why, on one line.
func (m *Mistake) Error() string {
	var b strings.Builder
	if m.Line > 0 {
		b.WriteString("line " + strconv.Itoa(m.Line) + ": ")
	}
	if m.Field != "" {
		b.WriteString("field " + m.Field + ": ")
	}
	return b.String() + m.Why
}

// Unwrap returns Err.
func (m *Mistake) Unwrap() error { return m.Err }

// Decode reads the one document in data into v, a pointer. A field that v does not have,
// a value of another kind, nothing, and anything behind the document is a *[Mistake],
// the first if there are several.
func Decode(data []byte, v any) error {
	d := yaml.NewDecoder(bytes.NewReader(data))
	d.KnownFields(true)
	switch err := d.Decode(v); {
	case errors.Is(err, io.EOF):
		return &Mistake{Why: "it is empty"}
	case err != nil:
		return mistake(err)
	}
	var second yaml.Node
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return &Mistake{Line: second.Line, Why: "a second document begins"}
	}
	return nil
}

// What the decoder says, in its own words.
var (
	atLine   = regexp.MustCompile(`line (\d+): ([^\n]*)`)
	unknown  = regexp.MustCompile(`^field (\S+) not found in type .*$`)
	mismatch = regexp.MustCompile("^cannot unmarshal (!!\\w+)(?: `(.*)`)? into (.+)$")
	twice    = regexp.MustCompile(`^mapping key "(.*)" already defined at line (\d+)$`)
)

func mistake(err error) *Mistake {
	m := &Mistake{Why: strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " "), Err: err}
	said := atLine.FindStringSubmatch(err.Error())
	if said == nil {
		return m
	}
	m.Line, _ = strconv.Atoi(said[1]) // digits
	m.Why = said[2]
	if f := unknown.FindStringSubmatch(m.Why); f != nil {
		m.Field, m.Why = f[1], "there is no such field"
	} else if f := twice.FindStringSubmatch(m.Why); f != nil {
		m.Field, m.Why = f[1], "it is on line "+f[2]+" already"
	} else if f := mismatch.FindStringSubmatch(m.Why); f != nil {
		m.Why = kindOfTag(f[1], f[2]) + " is there, and it must be " + kindOfType(f[3])
	}
	return m
}

// kindOfTag names what stands in the document.
func kindOfTag(tag, text string) string {
	switch tag {
	case "!!seq":
		return "a list"
	case "!!map":
		return "an object"
	case "!!null":
		return "nothing"
	}
	return strconv.Quote(text)
}

// kindOfType names what the program wants.
func kindOfType(t string) string {
	for _, k := range []struct{ prefix, name string }{
		{"[]", "a list"}, {"map[", "an object"}, {"string", "text"}, {"bool", "true or false"},
		{"int", "a whole number"}, {"uint", "a whole number that is not negative"}, {"float", "a number"},
		{"time.Duration", "a time like 30s"},
	} {
		if strings.HasPrefix(t, k.prefix) {
			return k.name
		}
	}
	return "something else" // a type with a name says nothing of its kind
}
