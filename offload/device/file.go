package device

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
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
	slices.Sort(files)
	return files
}

// Load returns the shipped model called name or, if name has a dot or a slash in
// it, the model in that file. A bad file is a *[flow.Fault] with the line.
func Load(name string) (Model, error) {
	where, b, err := Source(name)
	if err != nil {
		return Model{}, err
	}
	return Parse(where, b)
}

// Source returns the YAML text that [Load] would parse, and the name of its file.
func Source(name string) (where string, b []byte, err error) {
	if strings.ContainsAny(name, "./") {
		if b, err = os.ReadFile(name); err != nil {
			return "", nil, &flow.Fault{Code: "E_DEVICE_UNKNOWN", What: "device model " + name, Why: err.Error(), Remedy: "name a readable file", Err: err}
		}
		return name, b, nil
	}
	if b, err = shipped.ReadFile("models/" + name + ".yaml"); err != nil {
		return "", nil, &flow.Fault{Code: "E_DEVICE_UNKNOWN", What: fmt.Sprintf("device model %q", name), Why: "none has this name",
			Remedy: "use one of " + strings.Join(List(), ", ") + ", or a file"}
	}
	return name + ".yaml", b, nil
}

// form is a model as files have it. What a Model has as numbers is words here.
type form struct {
	APIVersion string               `yaml:"apiVersion"`
	Kind       string               `yaml:"kind"`
	Name       string               `yaml:"name"`
	Version    int                  `yaml:"version"`
	About      string               `yaml:"about"`
	Order      Order                `yaml:"order"`
	MissFalls  bool                 `yaml:"miss_falls"`
	Limits     limits               `yaml:"limits"`
	Fields     map[string]yaml.Node `yaml:"fields"`
	Ranges     bool                 `yaml:"ranges"`
	Needs      []yaml.Node          `yaml:"needs"`
	MasksPer   []yaml.Node          `yaml:"masks_per"`
	Protocols  []yaml.Node          `yaml:"port_protocols"`
	Tags       Tags                 `yaml:"tags"`
	NonZero    []yaml.Node          `yaml:"nonzero"`
	ByPort     bool                 `yaml:"proto_by_port"`
	EthTypes   []yaml.Node          `yaml:"eth_types"`
	InsertCost time.Duration        `yaml:"insert_cost"`
	Actions    []yaml.Node          `yaml:"actions"`
	Counters   counters             `yaml:"counters"`
	Missed     []yaml.Node          `yaml:"missed"`
	Evidence   map[string]Evidence  `yaml:"evidence"`
}

type limits struct {
	Entries    int `yaml:"entries"`
	Masks      int `yaml:"masks"`
	Priorities int `yaml:"priorities"`
	Counted    int `yaml:"counted"`
	Outputs    int `yaml:"outputs"`
	Copies     int `yaml:"copies_per_port"`
	VLANOps    int `yaml:"vlan_ops"`
}

type counters struct {
	PerEntry   bool          `yaml:"per_entry"`
	Lag        time.Duration `yaml:"lag"`
	PacketBits int           `yaml:"packet_bits"`
	ByteBits   int           `yaml:"byte_bits"`
}

// claims are the names every model must give evidence for. A limit that is not among
// them needs it where it is a number.
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
	r := reader{where: where}
	f, err := r.decode(b)
	if err != nil {
		return Model{}, err
	}
	m := Model{Name: f.Name, Version: f.Version, About: f.About, Order: f.Order, MissFalls: f.MissFalls,
		Entries: f.Limits.Entries, Masks: f.Limits.Masks, Priorities: f.Limits.Priorities, Counted: f.Limits.Counted,
		Outputs: f.Limits.Outputs, Copies: f.Limits.Copies, VLANOps: f.Limits.VLANOps,
		Ranges: f.Ranges, Tags: f.Tags, ProtoByPort: f.ByPort, Counters: f.Counters.PerEntry, CounterLag: f.Counters.Lag,
		PacketBits: f.Counters.PacketBits, ByteBits: f.Counters.ByteBits, InsertCost: f.InsertCost, Evidence: f.Evidence}
	for _, step := range []func(*form, *Model) error{r.head, r.fields, r.needs, r.actions, r.missed, r.evidence} {
		if err := step(f, &m); err != nil {
			return Model{}, err
		}
	}
	return m, nil
}

// reader turns a form into a model, and knows the file for its errors.
type reader struct{ where string }

// fail returns a fault; line is 0 if it is not known.
func (r *reader) fail(line int, what, why, remedy string) error {
	place := r.where
	if line > 0 {
		place = fmt.Sprintf("%s:%d", r.where, line)
	}
	return &flow.Fault{Code: "E_DEVICE_MODEL", What: place + ": " + what, Why: why, Remedy: remedy}
}

var (
	atLine  = regexp.MustCompile(`line (\d+): (.*)`)
	noField = regexp.MustCompile(`^field (\S+) not found in type \S+$`)
)

func (r *reader) decode(b []byte) (*form, error) {
	const look = "see the shipped models for the form"
	var f form
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	err := d.Decode(&f)
	switch {
	case errors.Is(err, io.EOF):
		return nil, r.fail(0, "file", "empty", "write a device model")
	case err != nil:
		words := strings.TrimPrefix(err.Error(), "yaml: ")
		at := atLine.FindStringSubmatch(words)
		if at == nil {
			return nil, r.fail(0, "file", strings.Join(strings.Fields(words), " "), look)
		}
		line, _ := strconv.Atoi(at[1]) // digits
		if name := noField.FindStringSubmatch(at[2]); name != nil {
			return nil, r.fail(line, "unknown field "+name[1], "device models have no such field", look)
		}
		return nil, r.fail(line, "file", at[2], look)
	case d.Decode(new(yaml.Node)) != io.EOF:
		return nil, r.fail(0, "file", "something after the first document", "one file is one model")
	}
	return &f, nil
}

func (r *reader) head(f *form, _ *Model) error {
	l := f.Limits
	switch {
	case f.APIVersion != "bladeflow/v1" || f.Kind != "DeviceModel":
		return r.fail(0, "apiVersion, kind", "not a device model", "write apiVersion: bladeflow/v1, kind: DeviceModel")
	case f.Name == "":
		return r.fail(0, "name", "missing", "give the model a name")
	case f.Version < 1:
		return r.fail(0, "version", "missing", "give a version of at least 1")
	case f.Order != Honoured && f.Order != Constant && f.Order != Undefined:
		return r.fail(0, fmt.Sprintf("order %q", f.Order), "unknown", "use honoured, constant or undefined")
	case f.Tags != TagsFree && f.Tags != TagsThere && f.Tags != TagsSaid:
		return r.fail(0, fmt.Sprintf("tags %q", f.Tags), "unknown", "use there or said, or leave it out")
	case min(l.Entries, l.Masks, l.Priorities, l.Counted, l.Outputs, l.Copies, l.VLANOps, f.Counters.PacketBits, f.Counters.ByteBits) < 0 ||
		min(f.Counters.Lag, f.InsertCost) < 0:
		return r.fail(0, "limits", "one is below zero", "use 0 for no known limit")
	}
	return nil
}

func (r *reader) fields(f *form, m *Model) error {
	for _, name := range slices.Sorted(maps.Keys(f.Fields)) {
		n := f.Fields[name]
		p, h := slices.IndexFunc(parts[:], func(p part) bool { return p.name == name }), slices.Index(howNames[:], n.Value)
		if p < 0 {
			return r.fail(n.Line, "field "+name, "unknown", "use one of "+partNames())
		}
		if h < 0 {
			return r.fail(n.Line, fmt.Sprintf("field %s: %q", name, n.Value), "unknown", "use no, exact, prefix or any")
		}
		m.Fields[p] = How(h)
	}
	return nil
}

// needs reads the lists of parts, the protocols whose ports can be matched, and the
// frame types that can.
func (r *reader) needs(f *form, m *Model) error {
	for _, list := range []struct {
		name string
		from []yaml.Node
		to   *[]Part
	}{{"needs", f.Needs, &m.Needs}, {"masks_per", f.MasksPer, &m.MasksPer}, {"nonzero", f.NonZero, &m.NonZero}} {
		for _, n := range list.from {
			p := slices.IndexFunc(parts[:], func(p part) bool { return p.name == n.Value })
			if p < 0 {
				return r.fail(n.Line, list.name+": "+n.Value, "unknown", "use one of "+partNames())
			}
			if m.Fields[p] == No {
				return r.fail(n.Line, list.name+": "+n.Value, "the device cannot match it", "list it among the fields")
			}
			*list.to = append(*list.to, Part(p))
		}
	}
	for _, n := range f.Protocols {
		one, err := flow.ParseMatch("ip_proto="+n.Value, nil)
		if err != nil {
			return r.fail(n.Line, "port_protocols: "+n.Value, "no protocol", "use tcp, udp or sctp")
		}
		m.Protocols = append(m.Protocols, uint8(one.Value.Get(flow.Proto)))
	}
	for _, n := range f.EthTypes {
		one, err := flow.ParseMatch("eth_type="+n.Value, nil)
		if err != nil {
			return r.fail(n.Line, "eth_types: "+n.Value, "no eth_type", "use a name or a number as in rules")
		}
		m.EthTypes = append(m.EthTypes, uint16(one.Value.Get(flow.EthType)))
	}
	return nil
}

func (r *reader) actions(f *form, m *Model) error {
	for _, n := range f.Actions {
		op := flow.Op(0)
		for op <= flow.Set && op.String() != n.Value {
			op++
		}
		switch {
		case n.Value == puntWord:
			m.Punt = true
		case op > flow.Set || op == flow.Normal || op == flow.Pass:
			return r.fail(n.Line, "action "+n.Value, "no device has it", "use drop, output, mirror, vlan_push, vlan_pop, vlan_set, set or punt")
		default:
			m.Actions = append(m.Actions, op)
		}
	}
	return nil
}

func (r *reader) missed(f *form, m *Model) error {
	for _, n := range f.Missed {
		pin, known := classes[n.Value]
		if !known {
			return r.fail(n.Line, "missed "+n.Value, "unknown", "use odd, first_fragment, later_fragment or two_tags")
		}
		var match flow.Match
		pin(&match)
		m.Missed = append(m.Missed, match)
	}
	return nil
}

func (r *reader) evidence(f *form, _ *Model) error {
	needed := slices.Clone(claims)
	for _, more := range []struct {
		name  string
		limit int
	}{{"counted", f.Limits.Counted}, {"outputs", f.Limits.Outputs}, {"copies_per_port", f.Limits.Copies}, {"vlan_ops", f.Limits.VLANOps}} {
		if more.limit != 0 {
			needed = append(needed, more.name)
		}
	}
	for name, claimed := range map[string]bool{"insert_cost": f.InsertCost != 0, "tags": f.Tags != TagsFree, "nonzero": len(f.NonZero) > 0, "proto_by_port": f.ByPort,
		"eth_types": len(f.EthTypes) > 0} {
		if claimed {
			needed = append(needed, name)
		}
	}
	for _, name := range needed {
		switch e, ok := f.Evidence[name]; {
		case !ok || e.Source == "":
			return r.fail(0, "evidence", "none for "+name, "say where the limit is from")
		case !slices.Contains([]Tier{Proven, Emulated, Expected, Vendor, Unknown}, e.Tier):
			return r.fail(0, "evidence for "+name, fmt.Sprintf("unknown tier %q", e.Tier), "use proven, emulated, expected, vendor or unknown")
		}
	}
	for _, limit := range []struct {
		name  string
		value int
	}{{"entries", f.Limits.Entries}, {"masks", f.Limits.Masks}, {"priorities", f.Limits.Priorities}} {
		if limit.value != 0 && f.Evidence[limit.name].Tier == Unknown {
			return r.fail(0, "evidence for "+limit.name, fmt.Sprintf("unknown, and the limit is %d", limit.value), "write 0 for what nobody knows")
		}
	}
	return nil
}

func partNames() string {
	var all []string
	for i := range parts {
		all = append(all, parts[i].name)
	}
	return strings.Join(all, ", ")
}
