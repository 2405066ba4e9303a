package capacity

import (
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
)

// Dimension is one kind of thing that can run out.
type Dimension string

// The dimensions, in the order of every table.
const (
	Slots     Dimension = "slots"     // virtual functions of a PF
	Bandwidth Dimension = "bandwidth" // of a port, the busier direction
	Entries   Dimension = "entries"   // of the match table of a PF's eSwitch
	Software  Dimension = "software"  // packets a second that a blade's software datapath may cost
)

var dimensions = [...]Dimension{Slots, Bandwidth, Entries, Software}

// Unit returns what amounts of d count.
func (d Dimension) Unit() string {
	switch d {
	case Slots:
		return "VFs"
	case Bandwidth:
		return "bit/s"
	case Entries:
		return "entries"
	}
	return "packets/s"
}

// Title returns the name of d for people.
func (d Dimension) Title() string {
	switch d {
	case Slots:
		return "VF slots"
	case Bandwidth:
		return "port bandwidth"
	case Entries:
		return "table entries"
	}
	return "software budget"
}

// Input is everything a report is made of. Its YAML form is what
// `bladeflow report capacity --input` reads; JSON is read as YAML.
type Input struct {
	Name      string    `yaml:"name"`    // of the fleet
	At        time.Time `yaml:"at"`      // the moment the report is for
	Window    int       `yaml:"window"`  // days of demand looked at, the day of At the last; UTC
	Policy    Policy    `yaml:"policy"`  // what is kept back
	Reference Profile   `yaml:"profile"` // what "still fits" is counted in
	WhatIf    *Addition `yaml:"whatIf,omitempty"`

	Horizon int    `yaml:"horizon,omitempty" json:",omitempty"` // days ahead that demand is forecast for; 0 for no forecast
	Scope   string `yaml:"scope,omitempty" json:",omitempty"`   // LEVEL/NAME that the report is about; the fleet if empty

	Chassis []Chassis `yaml:"chassis,omitempty"`
	Demand  Demand    `yaml:"demand,omitempty"` // recorded for the whole fleet, if it was
}

// Policy says what is kept back from use. The zero value keeps nothing back.
type Policy struct {
	Survive       Level             `yaml:"survive"`              // the loss of one blade or one chassis, or nothing
	BufferPercent int               `yaml:"bufferPercent"`        // of the total
	Overcommit    map[Dimension]int `yaml:"overcommit,omitempty"` // allocation allowed, in percent of usable; 100 if absent, always 100 for slots
}

// DefaultPolicy survives the loss of one blade and keeps a tenth free.
func DefaultPolicy() Policy { return Policy{Survive: BladeLevel, BufferPercent: 10} }

func (p Policy) overcommit(d Dimension) int64 {
	if percent, ok := p.Overcommit[d]; ok {
		return int64(percent)
	}
	return 100
}

// Level is a kind of scope.
type Level string

// The levels, from the widest.
const (
	FleetLevel   Level = "fleet"
	ChassisLevel Level = "chassis"
	BladeLevel   Level = "blade"
	PFLevel      Level = "pf"
	PortLevel    Level = "port"
)

// depth is 0 for the fleet, and more for what is inside.
func (l Level) depth() int {
	return slices.Index([]Level{FleetLevel, ChassisLevel, BladeLevel, PFLevel, PortLevel}, l)
}

// Chassis is one enclosure.
type Chassis struct {
	Name   string  `yaml:"name"`
	Slots  int     `yaml:"slots"` // 0 if unknown: as many as its blades need
	Blades []Blade `yaml:"blades,omitempty"`
	Demand Demand  `yaml:"demand,omitempty"`
}

// Blade is one server.
type Blade struct {
	Name     string         `yaml:"name"` // unique in the fleet
	Slot     int            `yaml:"slot"` // from 1; 0 if unknown
	Faulty   bool           `yaml:"faulty"`
	Silent   bool           `yaml:"silent"` // its agent does not report; the numbers are the last known
	Software SoftwareBudget `yaml:"software"`
	PFs      []PF           `yaml:"pfs,omitempty"`
	Demand   Demand         `yaml:"demand,omitempty"`
}

// SoftwareBudget is what a blade may spend on the packets that hardware does not answer.
type SoftwareBudget struct {
	PacketsPerCore int64  `yaml:"packetsPerSecondPerCore"` // calibrated; 0 if it never was
	Cores          int64  `yaml:"cores"`
	Used           *int64 `yaml:"used,omitempty"` // packets a second now; nil if not measured
}

// PF is one physical function with its uplink port. Functions that share one
// physical port are not modelled: each has its own.
type PF struct {
	Name   string `yaml:"name"` // nicN/pfN, unique in the blade
	Faulty bool   `yaml:"faulty"`
	VFs    VFs    `yaml:"vfs"`
	Table  Table  `yaml:"table"`
	Port   Port   `yaml:"port"`
	Demand Demand `yaml:"demand,omitempty"` // recorded slots and entries
}

// VFs are counts of virtual functions of one PF.
type VFs struct {
	Total       int64  `yaml:"total"`       // what the PF can have (sriov_totalvfs)
	Provisioned int64  `yaml:"provisioned"` // what exists
	Bound       int64  `yaml:"bound"`       // what a vNIC has
	Faulty      int64  `yaml:"faulty"`
	Active      *int64 `yaml:"active,omitempty"` // had traffic in the window; nil if not measured
}

// LimitSource says how the size of a table is known.
type LimitSource string

// Sources of a table's size.
const (
	Declared LimitSource = "declared" // the device model or the device says so
	Learned  LimitSource = "learned"  // the device once refused an entry at this count
	Unknown  LimitSource = "unknown"
)

// Table is the match table of a PF's eSwitch.
type Table struct {
	Limit  int64       `yaml:"limit"`          // valid unless Source is unknown
	Source LimitSource `yaml:"source"`         // empty is unknown
	Asked  int64       `yaml:"asked"`          // entries that rules want
	Used   *int64      `yaml:"used,omitempty"` // entries in the device; nil if not read
}

// Port is the uplink of a PF.
type Port struct {
	Name       string `yaml:"name"` // the PF's if empty
	Faulty     bool   `yaml:"faulty"`
	Speed      Rate   `yaml:"speed"`          // 0 if unknown, as it is while the link is down
	Guaranteed Rate   `yaml:"guaranteed"`     // sum over the vNICs behind the port
	Maximum    Rate   `yaml:"maximum"`        // sum of ceilings; a vNIC without one counts with the port's speed
	Used       *int64 `yaml:"used,omitempty"` // bit/s now, the busier direction; nil if not measured
	Demand     Series `yaml:"demand,omitempty"`
}

// Rate is in bits a second. Its text form is a number with k, M, G or T: 25G.
type Rate int64

// Demand is what was recorded for one scope, by dimension.
type Demand map[Dimension]Series

// Series is one scope's demand in one dimension, by day and in order.
type Series []Day

// Day is one day of demand. Amounts are in the unit of the dimension.
type Day struct {
	Date    Date  `yaml:"date" json:"date"`
	Samples int   `yaml:"samples" json:"samples"` // 5-minute values the day has; a full one has 288
	P95     int64 `yaml:"p95" json:"p95"`         // 95th percentile of the 5-minute values
	Max     int64 `yaml:"max" json:"max"`
}

// Date is a day of UTC, 2026-11-24; dates compare as text.
type Date string

// DateOf returns the day that t is in.
func DateOf(t time.Time) Date { return Date(t.UTC().Format(time.DateOnly)) }

// add returns the date n days later; a date that is none stays as it is.
func (d Date) add(n int) Date {
	t, err := time.Parse(time.DateOnly, string(d))
	if err != nil {
		return d
	}
	return DateOf(t.AddDate(0, 0, n))
}

// window returns the first and the last date that the report looks at.
func (in Input) window() (first, last Date) {
	last = DateOf(in.At)
	return last.add(1 - in.Window), last
}

// Profile is what one more vNIC needs: always one VF, and what is named here.
type Profile struct {
	Name             string `yaml:"name" json:"name"`
	Guaranteed       Rate   `yaml:"guaranteed" json:"guaranteedBitsPerSecond"`
	Maximum          Rate   `yaml:"maximum" json:"maximumBitsPerSecond"` // 0 is no ceiling: it counts with the port's speed
	Entries          int64  `yaml:"entries" json:"entries"`
	PacketsPerSecond int64  `yaml:"packetsPerSecond" json:"packetsPerSecond"` // that software will have to answer
}

// need returns how much of d one vNIC takes.
func (p Profile) need(d Dimension) int64 {
	switch d {
	case Slots:
		return 1
	case Bandwidth:
		return int64(p.Guaranteed)
	case Entries:
		return p.Entries
	}
	return p.PacketsPerSecond
}

// Addition asks what would happen if vNICs came.
type Addition struct {
	VNICs   int64   `yaml:"vnics" json:"vnics"`
	Profile Profile `yaml:"profile" json:"profile"`
}

// BladeOf returns what an inventory says about a blade: VFs a PF can have and has,
// and the speed of its port. Who owns them and how large the tables are, it does
// not know.
func BladeOf(name string, inv fabric.Inventory) Blade {
	b := Blade{Name: name}
	for _, n := range inv.NICs {
		for _, p := range n.PFs {
			pf := PF{Name: p.Name, VFs: VFs{Total: int64(p.TotalVFs), Provisioned: int64(p.NumVFs)}, Table: Table{Source: Unknown}}
			if p.Netdev != nil {
				pf.Port.Speed = Rate(p.Netdev.Speed)
			}
			b.PFs = append(b.PFs, pf)
		}
	}
	return b
}
