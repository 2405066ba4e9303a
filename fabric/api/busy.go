package api

import (
	"slices"
	"time"
)

// Busy is how much one thing has to do, and how full it is. Its name is that of the
// thing in its own list.
type Busy struct {
	Head
	Status BusyStatus `json:"status"`
}

// BusyStatus is figures, each as of a reading.
type BusyStatus struct {
	Blade string `json:"blade"`

	// Readings are where the figures come from, by BusyColumn.From.
	Readings map[string]Reading `json:"readings"`

	// Figures are by BusyColumn.Name. What nobody knows is absent.
	Figures map[string]float64 `json:"figures"`

	// Words are what else is known of the thing, by BusyKind.Words; what it has not is
	// absent.
	Words map[string]string `json:"words,omitempty"`
}

// Reading is how a figure is known: by the last report of a blade in which anything was
// new, and for what is counted, by the one before.
type Reading struct {
	State   string    `json:"state"`
	At      time.Time `json:"at,omitzero"` // of the last one, by the blade's clock
	Seconds float64   `json:"seconds"`     // between the two; 0 if there is one only, or if nothing is counted
}

// States of a reading.
const (
	ReadingMeasured = "measured" // figures are of the time between two readings, the last of which is new
	ReadingQuiet    = "quiet"    // nothing has been counted since the last reading: rates are 0
	ReadingOnce     = "once"     // there is one reading so far: no rates
	ReadingSilent   = "silent"   // the blade does not report: no rates
	ReadingNone     = "none"     // the blade has never reported this
)

// BusyKind is one kind of thing that can be busy.
type BusyKind struct {
	Name    string       // in the singular
	Columns []BusyColumn // things are sorted by the first if nobody wants another
	Words   []string
}

// ColumnNames returns the names of a kind's columns, in their order.
func (k BusyKind) ColumnNames() (names []string) {
	for _, c := range k.Columns {
		names = append(names, c.Name)
	}
	return names
}

// Sources returns the readings whose age matters: those that a kind's counted figures
// come from, in the order of its columns. How full a device is, is known as long as its
// blade reports, and matters alone.
func (k BusyKind) Sources() (all []string) {
	for _, c := range k.Columns {
		if !slices.Contains(all, c.From) && (c.From != FromTable || len(all) == 0) {
			all = append(all, c.From)
		}
	}
	return all
}

// BusyColumn is one figure of a thing.
type BusyColumn struct {
	Name string
	Unit string // packets/s, bit/s, entries, packets, or % of what there is
	From string // the reading it comes from
}

// Readings that figures come from.
const (
	FromRules = "rules" // what rules have counted: Rules
	FromPorts = "ports" // what functions have counted: Ports
	FromTable = "table" // how full devices are: BladeStatus
)

// BusyKinds are the kinds of things that can be busy, in the order of the help.
func BusyKinds() []BusyKind {
	answered := func(more ...BusyColumn) []BusyColumn {
		return append([]BusyColumn{{"packets", "packets/s", FromRules}, {"hardware", "packets/s", FromRules}, {"cache", "packets/s", FromRules}, {"software", "packets/s", FromRules}}, more...)
	}
	passed := func(last string) []BusyColumn {
		return []BusyColumn{{"bits", "bit/s", FromPorts}, {"received", "bit/s", FromPorts}, {"sent", "bit/s", FromPorts}, {"packets", "packets/s", FromPorts}, {last, "%", FromPorts}}
	}
	return []BusyKind{
		{"blade", answered(BusyColumn{"dropped", "packets/s", FromRules}, BusyColumn{"bits", "bit/s", FromPorts}, BusyColumn{"table", "%", FromTable}), nil},
		{"pf", passed("load"), nil},
		{"vf", passed("load"), []string{"vnic"}},
		{"vnic", passed("load"), []string{"port"}},
		{"rule", answered(BusyColumn{"bits", "bit/s", FromRules}, BusyColumn{"total", "packets", FromRules}), []string{"place"}},
		{"verdict", []BusyColumn{{"packets", "packets/s", FromRules}, {"total", "packets", FromRules}}, nil},
		{"device", []BusyColumn{{"table", "%", FromTable}, {"entries", "entries", FromTable}, {"limit", "entries", FromTable}, {"guards", "entries", FromTable}, {"foreign", "entries", FromTable}}, nil},
	}
}

// BusyNames returns the names of [BusyKinds].
func BusyNames() (names []string) {
	for _, k := range BusyKinds() {
		names = append(names, k.Name)
	}
	return names
}
