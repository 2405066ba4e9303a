package device

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/flow"
)

//go:embed models/*.yaml
var shipped embed.FS

// List returns the names of the models that ship with bladeflow, sorted.
func List() []string {
	files, err := fs.Glob(shipped, "models/*.yaml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".yaml")
	}
	return files
}

// Load returns the shipped model called name or, if name has a dot or a slash in
// it, the model in that file. A bad file is a *[flow.Fault] with the line.
func Load(name string) (Model, error) {
	if strings.ContainsAny(name, "./") {
		b, err := os.ReadFile(name)
		if err != nil {
			return Model{}, &flow.Fault{Code: "E_DEVICE_UNKNOWN", What: "device model " + name, Why: err.Error(), Remedy: "name a readable file", Err: err}
		}
		return Parse(name, b)
	}
	b, err := shipped.ReadFile("models/" + name + ".yaml")
	if err != nil {
		return Model{}, &flow.Fault{Code: "E_DEVICE_UNKNOWN", What: fmt.Sprintf("device model %q", name), Why: "none has this name",
			Remedy: "use one of " + strings.Join(List(), ", ") + ", or a file"}
	}
	return Parse(name+".yaml", b)
}

// form is a model as files have it. What a Model has as numbers is words here.
type form struct {
	APIVersion string              `yaml:"apiVersion"`
	Kind       string              `yaml:"kind"`
	Name       string              `yaml:"name"`
	Version    int                 `yaml:"version"`
	About      string              `yaml:"about"`
	Order      Order               `yaml:"order"`
	MissFalls  bool                `yaml:"miss_falls"`
	Limits     limits              `yaml:"limits"`
	Fields     map[string]string   `yaml:"fields"`
	Ranges     bool                `yaml:"ranges"`
	Actions    []string            `yaml:"actions"`
	Counters   counters            `yaml:"counters"`
	Missed     []string            `yaml:"missed"`
	Evidence   map[string]Evidence `yaml:"evidence"`
}

type limits struct {
	Entries    int `yaml:"entries"`
	Masks      int `yaml:"masks"`
	Priorities int `yaml:"priorities"`
	Outputs    int `yaml:"outputs"`
	Copies     int `yaml:"copies_per_port"`
	VLANOps    int `yaml:"vlan_ops"`
}

type counters struct {
	PerEntry bool          `yaml:"per_entry"`
	Lag      time.Duration `yaml:"lag"`
}

// claims are the names every model must give evidence for.
var claims = []string{"actions", "counters", "entries", "fields", "masks", "miss_falls", "missed", "order", "priorities"}

// puntWord stands in a file's actions for Model.Punt.
const puntWord = "punt"

// classes are the sets of packets a file's `missed` can name.
var classes = map[string]func(*flow.Match){
	"odd":            func(m *flow.Match) { m.Pin(flow.Flags, flow.FlagOdd, flow.FlagOdd) },
	"first_fragment": func(m *flow.Match) { m.Pin(flow.Flags, flow.FlagFragFirst, flow.FlagFragFirst) },
	"later_fragment": func(m *flow.Match) { m.Pin(flow.Flags, flow.FlagFragLater, flow.FlagFragLater) },
	"two_tags":       func(m *flow.Match) { m.Pin(flow.CVLAN, flow.TagPresent, flow.TagPresent) },
}

// Parse reads a model from the bytes of the file called where. It is strict: an
// unknown word, a limit below zero, or one without evidence is a *[flow.Fault].
func Parse(where string, b []byte) (Model, error) {
	fail := func(what, why, remedy string) (Model, error) {
		return Model{}, &flow.Fault{Code: "E_DEVICE_MODEL", What: where + ": " + what, Why: why, Remedy: remedy}
	}
	var f form
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		if errors.Is(err, io.EOF) {
			return fail("file", "empty", "write a device model")
		}
		return fail("file", strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\n", ""), "yaml: "), "see `bladeflow devices show softnic` for the form")
	}
	if d.Decode(new(form)) == nil {
		return fail("file", "a second document", "one file is one model")
	}
	m := Model{Name: f.Name, Version: f.Version, About: f.About, Order: f.Order, MissFalls: f.MissFalls,
		Entries: f.Limits.Entries, Masks: f.Limits.Masks, Priorities: f.Limits.Priorities,
		Outputs: f.Limits.Outputs, Copies: f.Limits.Copies, VLANOps: f.Limits.VLANOps,
		Ranges: f.Ranges, Counters: f.Counters.PerEntry, CounterLag: f.Counters.Lag, Evidence: f.Evidence}
	switch {
	case f.APIVersion != "bladeflow/v1" || f.Kind != "DeviceModel":
		return fail("apiVersion, kind", "not a device model", "write apiVersion: bladeflow/v1, kind: DeviceModel")
	case f.Name == "" || f.Version < 1:
		return fail("name, version", "missing", "give a name, and a version of at least 1")
	case f.Order != Honoured && f.Order != Undefined:
		return fail(fmt.Sprintf("order %q", f.Order), "unknown", "use honoured or undefined")
	case min(f.Limits.Entries, f.Limits.Masks, f.Limits.Priorities, f.Limits.Outputs, f.Limits.Copies, f.Limits.VLANOps) < 0:
		return fail("limits", "one is below zero", "use 0 for no known limit")
	}
	for name, how := range f.Fields {
		p, h := slices.IndexFunc(parts[:], func(p part) bool { return p.name == name }), slices.Index(howNames[:], how)
		if p < 0 {
			return fail("field "+name, "unknown", "use one of "+partNames())
		}
		if h < 0 {
			return fail(fmt.Sprintf("field %s: %q", name, how), "unknown", "use no, exact, prefix or any")
		}
		m.Fields[p] = How(h)
	}
	for _, name := range f.Actions {
		op := flow.Op(0)
		for op <= flow.VLANSet && op.String() != name {
			op++
		}
		switch {
		case name == puntWord:
			m.Punt = true
		case op > flow.VLANSet || op == flow.Normal || op == flow.Pass:
			return fail("action "+name, "no device has it", "use drop, output, mirror, vlan_push, vlan_pop, vlan_set or punt")
		default:
			m.Actions = append(m.Actions, op)
		}
	}
	for _, name := range f.Missed {
		pin, known := classes[name]
		if !known {
			return fail("missed "+name, "unknown", "use odd, first_fragment, later_fragment or two_tags")
		}
		var match flow.Match
		pin(&match)
		m.Missed = append(m.Missed, match)
	}
	for _, name := range claims {
		switch e, ok := f.Evidence[name]; {
		case !ok || e.Source == "":
			return fail("evidence", "none for "+name, "say where the limit is from")
		case !slices.Contains([]Tier{Proven, Emulated, Expected, Vendor}, e.Tier):
			return fail("evidence for "+name, fmt.Sprintf("unknown tier %q", e.Tier), "use proven, emulated, expected or vendor")
		}
	}
	return m, nil
}

func partNames() string {
	var all []string
	for i := range parts {
		all = append(all, parts[i].name)
	}
	return strings.Join(all, ", ")
}
