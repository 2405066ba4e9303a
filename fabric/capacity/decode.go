package capacity

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/document"
)

// form is the envelope of what users write.
type form[T any] struct {
	APIVersion string   `yaml:"apiVersion"`
	Kind       string   `yaml:"kind"`
	Metadata   metadata `yaml:"metadata"`
	Spec       T        `yaml:"spec"`
}

type metadata struct {
	Name string `yaml:"name"`
}

// defaultWindow is how many days a report looks back.
const defaultWindow = 30

// ParseInput reads the YAML or JSON form of an input, strictly: an unknown field is an
// error that names its line. What the document leaves out gets [DefaultPolicy] and a
// window of 30 days. where names the document in errors.
func ParseInput(where string, b []byte) (Input, error) {
	doc := form[Input]{Spec: Input{Window: defaultWindow, Policy: DefaultPolicy()}}
	if err := decode(where, "CapacityInput", b, &doc); err != nil {
		return Input{}, err
	}
	in := doc.Spec
	if in.Name == "" {
		in.Name = doc.Metadata.Name
	}
	if err := in.Check(); err != nil {
		return Input{}, fmt.Errorf("%s: %w", where, err)
	}
	return in, nil
}

// ParseProfile reads the YAML or JSON form of a profile of one vNIC.
func ParseProfile(where string, b []byte) (Profile, error) {
	var doc form[Profile]
	if err := decode(where, "CapacityProfile", b, &doc); err != nil {
		return Profile{}, err
	}
	p := doc.Spec
	if p.Name == "" {
		p.Name = doc.Metadata.Name
	}
	var c checker
	if c.profile(p); c.err != nil {
		return Profile{}, fmt.Errorf("%s: %w", where, c.err)
	}
	return p, nil
}

func decode[T any](where, kind string, b []byte, doc *form[T]) error {
	switch err := document.Decode(b, doc); {
	case err != nil && len(bytes.TrimSpace(b)) == 0:
		return inputFault(where, "empty", "write a document of kind "+kind)
	case err != nil:
		return &flow.Fault{Code: "E_CAPACITY_INPUT", What: where, Why: err.Error(), Remedy: "correct the document", Err: err}
	case doc.APIVersion != "bladeflow/v1" || doc.Kind != kind:
		return inputFault(where, fmt.Sprintf("apiVersion %q and kind %q", doc.APIVersion, doc.Kind), "use bladeflow/v1 and "+kind)
	}
	return nil
}

func inputFault(what, why, remedy string) error {
	return &flow.Fault{Code: "E_CAPACITY_INPUT", What: what, Why: why, Remedy: remedy}
}

// UnmarshalYAML reads 25G, 100M or a number of bits a second.
func (r *Rate) UnmarshalYAML(n *yaml.Node) error {
	v, err := ParseRate(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	*r = v
	return nil
}

// ParseRate reads a rate: a number of bits a second, or one with k, M, G or T behind it.
func ParseRate(s string) (Rate, error) {
	number, unit := s, int64(1)
	if s != "" {
		if u, ok := map[byte]int64{'k': 1e3, 'M': 1e6, 'G': 1e9, 'T': 1e12}[s[len(s)-1]]; ok {
			number, unit = s[:len(s)-1], u
		}
	}
	v, err := strconv.ParseInt(number, 10, 64)
	if err != nil || v < 0 || v > int64(maxAmount)/unit {
		return 0, inputFault(fmt.Sprintf("rate %q", s), "not a whole number of bit/s with k, M, G or T behind it, up to 1000T", "write 25G or 25000000000")
	}
	return Rate(v * unit), nil
}

// maxAmount bounds every single amount, so that sums over a fleet cannot overflow.
const maxAmount = 1e15

// Check returns what in an input makes no sense, or nil.
func (in Input) Check() error {
	c := checker{names: map[string]bool{}}
	c.ok(in.At.After(time.Unix(0, 0)), "at", "not a moment", "write 2026-11-24T12:00:00Z")
	c.ok(in.Window >= 1 && in.Window <= 3*366, "window", fmt.Sprintf("%d days", in.Window), "use 1 to 1098")
	c.ok(in.Horizon >= 0 && in.Horizon <= 3*366, "horizon", fmt.Sprintf("%d days", in.Horizon), "use 1 to 1098, or 0 for no forecast")
	c.policy(in.Policy)
	c.profile(in.Reference)
	if in.WhatIf != nil {
		c.ok(in.WhatIf.VNICs >= 0 && in.WhatIf.VNICs <= 1e6, "what-if", fmt.Sprintf("%d vNICs", in.WhatIf.VNICs), "use 0 to 1000000")
		c.profile(in.WhatIf.Profile)
	}
	c.demand("fleet", in.Demand)
	for _, ch := range in.Chassis {
		c.name("chassis", ch.Name)
		c.demand(ch.Name, ch.Demand)
		slots := map[int]bool{}
		for _, b := range ch.Blades {
			c.name("blade", b.Name)
			c.ok(b.Slot >= 0 && b.Slot <= 1024 && (ch.Slots == 0 || b.Slot <= ch.Slots), b.Name, fmt.Sprintf("slot %d of %d", b.Slot, ch.Slots), "use a slot the chassis has")
			c.ok(b.Slot == 0 || !slots[b.Slot], b.Name, fmt.Sprintf("slot %d is taken twice", b.Slot), "give each blade its own")
			slots[b.Slot] = true
			c.blade(b)
		}
	}
	return c.err
}

// checker keeps the first fault of what it is asked.
type checker struct {
	names map[string]bool
	err   error
}

func (c *checker) ok(good bool, what, why, remedy string) {
	if !good && c.err == nil {
		c.err = inputFault(what, why, remedy)
	}
}

func (c *checker) name(kind, name string) {
	c.ok(name != "", kind, "no name", "name it")
	c.ok(!c.names[kind+name], kind+" "+name, "named twice", "names are unique in the fleet")
	c.names[kind+name] = true
}

func (c *checker) amounts(what string, amounts ...int64) {
	for _, a := range amounts {
		c.ok(a >= 0 && a <= maxAmount, what, fmt.Sprintf("amount %d", a), "use 0 to 10^15")
	}
}

func (c *checker) policy(p Policy) {
	c.ok(p.Survive == "" || p.Survive == BladeLevel || p.Survive == ChassisLevel, "policy", fmt.Sprintf("survive %q", p.Survive), `use blade, chassis or ""`)
	c.ok(p.BufferPercent >= 0 && p.BufferPercent <= 100, "policy", fmt.Sprintf("bufferPercent %d", p.BufferPercent), "use 0 to 100")
	for d, percent := range p.Overcommit {
		c.ok(percent >= 1 && percent <= 10000, "policy", fmt.Sprintf("overcommit %s %d", d, percent), "use 1 to 10000 percent")
		c.ok(d == Bandwidth || d == Entries || d == Software || d == Slots && percent == 100, "policy", fmt.Sprintf("overcommit of %s", d), "use bandwidth, entries or software: a VF has one vNIC")
	}
}

func (c *checker) blade(b Blade) {
	c.amounts(b.Name, b.Software.PacketsPerCore, b.Software.Cores, deref(b.Software.Used))
	c.ok(b.Software.PacketsPerCore <= 1e9 && b.Software.Cores <= 1e4, b.Name, "software budget out of range", "use up to 10^9 packets/s and 10^4 cores")
	c.demand(b.Name, b.Demand)
	for _, p := range b.PFs {
		name := b.Name + "/" + p.Name
		c.name("pf", name)
		v := p.VFs
		c.amounts(name, v.Total, v.Provisioned, v.Bound, v.Faulty, deref(v.Active), p.Table.Limit, p.Table.Asked, deref(p.Table.Used),
			int64(p.Port.Speed), int64(p.Port.Guaranteed), int64(p.Port.Maximum), deref(p.Port.Used))
		c.ok(v.Bound <= v.Provisioned && v.Provisioned <= v.Total, name, fmt.Sprintf("%d VFs bound, %d provisioned, %d possible", v.Bound, v.Provisioned, v.Total), "bound are among provisioned, provisioned among total")
		c.ok(v.Faulty <= v.Total, name, fmt.Sprintf("%d of %d VFs faulty", v.Faulty, v.Total), "correct the count")
		switch p.Table.Source {
		case Declared, Learned, Unknown, "":
		default:
			c.ok(false, name, fmt.Sprintf("table source %q", p.Table.Source), "use declared, learned or unknown")
		}
		c.demand(name, p.Demand)
		c.series(name, p.Port.Demand)
	}
}

func (c *checker) demand(what string, demand Demand) {
	for d, s := range demand {
		c.ok(d == Slots || d == Bandwidth || d == Entries || d == Software, what, fmt.Sprintf("demand of %q", d), "use slots, bandwidth, entries or software")
		c.series(what, s)
	}
}

func (c *checker) series(what string, s Series) {
	last := Date("")
	for _, d := range s {
		_, err := time.Parse(time.DateOnly, string(d.Date))
		c.ok(err == nil && d.Date > last, what, fmt.Sprintf("demand of %q", d.Date), "write dates as 2026-11-24, each once and in order")
		c.amounts(what, int64(d.Samples), d.P95, d.Max)
		last = d.Date
	}
}

func (c *checker) profile(p Profile) {
	c.amounts("profile "+p.Name, int64(p.Guaranteed), int64(p.Maximum), p.Entries, p.PacketsPerSecond)
	c.ok(p.Maximum == 0 || p.Maximum >= p.Guaranteed, "profile "+p.Name, "maximum below guaranteed", "raise it, or leave it out")
}

func deref(p *int64) int64 {
	if p == nil {
		return 0
	}
	return *p
}
