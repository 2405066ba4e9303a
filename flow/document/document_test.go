package document

import (
	"errors"
	"strings"
	"testing"
)

func TestDecode(t *testing.T) {
	type spec struct {
		Name  string            `yaml:"name"`
		Ports []int             `yaml:"ports"`
		Size  uint8             `yaml:"size"`
		Share float64           `yaml:"share"`
		On    bool              `yaml:"on"`
		Words map[string]string `yaml:"words"`
		Deep  struct {
			A int `yaml:"a"`
		} `yaml:"deep"`
	}
	for _, c := range []struct{ text, want string }{
		{"name: a\nports: [1, 2]\nsize: 7\nshare: 0.5\non: true\nwords: {a: b}\ndeep: {a: 1}", ""},
		{"", "it is empty"},
		{"# nothing", "it is empty"},
		{"name: a\n---\nname: b", "line 2: a second document begins"},
		{"name: a\nnaem: b", "line 2: field naem: there is no such field"},
		{"deep:\n  b: 1", "line 2: field b: there is no such field"},
		{"name: a\nname: b", "line 2: field name: it is on line 1 already"},
		{"name: [a]", "line 1: a list is there, and it must be text"},
		{"ports: 5", `line 1: "5" is there, and it must be a list`},
		{"ports: [1, x]", `line 1: "x" is there, and it must be a whole number`},
		{"size: -1", `line 1: "-1" is there, and it must be a whole number that is not negative`},
		{"share: {a: 1}", "line 1: an object is there, and it must be a number"},
		{"on: 5", `line 1: "5" is there, and it must be true or false`},
		{"words: [a]", "line 1: a list is there, and it must be an object"},
		{"name: {", "line 1: did not find expected node content"},
		{"name: b: c", "mapping values are not allowed in this context"},
	} {
		err := Decode([]byte(c.text), new(spec))
		switch m := (*Mistake)(nil); {
		case c.want == "" && err != nil:
			t.Errorf("%q: %v", c.text, err)
		case c.want == "":
		case !errors.As(err, &m) || m.Error() != c.want:
			t.Errorf("%q: %v; want %s", c.text, err, c.want)
		case strings.Contains(m.Error(), "document."):
			t.Errorf("%q: %v names a type of the program", c.text, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte("name: a"))
	f.Add([]byte("a: &x [*x]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v struct {
			Name string            `yaml:"name"`
			Of   map[string][]uint `yaml:"of"`
		}
		if err := Decode(data, &v); err != nil && strings.Contains(err.Error(), "struct {") {
			t.Error(err)
		}
	})
}
