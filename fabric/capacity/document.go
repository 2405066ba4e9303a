package capacity

import (
	"encoding/json"
	"io"
)

// Document is the report. Its JSON form is the stable one (apiVersion bladeflow/v1,
// kind CapacityReport); every other form is written from it. Fields are added, never
// changed. An amount that is unknown is null, a list is never null.
type Document struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Spec       Settings `json:"spec"`
	Status     Findings `json:"status"`
}

// Metadata names the fleet.
type Metadata struct {
	Name string `json:"name"`
}

// Settings are what the report was asked.
type Settings struct {
	At      string  `json:"at"` // RFC 3339, UTC
	From    Date    `json:"from"`
	To      Date    `json:"to"`
	Survive Level   `json:"survive"` // empty: nothing is reserved
	Buffer  int     `json:"bufferPercent"`
	Over    []Over  `json:"overcommit"`
	Profile Profile `json:"profile"`
	Horizon int     `json:"horizon,omitempty"` // days; 0 if nothing was forecast
	Scope   string  `json:"scope,omitempty"`   // what the report is about, if not the fleet
	Digest  string  `json:"inputDigest"`       // SHA-256 of the input
}

// Over is how much of the usable amount may be allocated.
type Over struct {
	Dimension Dimension `json:"dimension"`
	Percent   int64     `json:"percent"`
}

// Findings are what the report says.
type Findings struct {
	Summary       []string      `json:"summary"` // one sentence each
	Scopes        []Scope       `json:"scopes"`  // the fleet, then level by level
	Consolidation Consolidation `json:"consolidation"`
	WhatIf        *WhatIf       `json:"whatIf"`
	Quality       Quality       `json:"quality"`
	Method        []string      `json:"method"` // the formulas, one sentence each
}

// Scope is one port, PF, blade, chassis or the fleet.
type Scope struct {
	Level            Level             `json:"level"`
	Name             string            `json:"name"`
	In               string            `json:"in"` // the scope around it; empty for the fleet
	Slot             int               `json:"slot,omitempty"`
	Slots            int               `json:"slots,omitempty"` // of a chassis
	State            string            `json:"state"`           // ok, faulty or silent
	Provisioned      *int64            `json:"provisionedVFs"`  // null for a port
	Figures          []Figure          `json:"figures"`
	Binding          *Binding          `json:"binding"`          // the tightest dimension; null if none is known
	Oversubscription *Oversubscription `json:"oversubscription"` // of the ports in the scope; null if no speed is known
	Fit              *Fit              `json:"fit"`              // null for a port
}

// Figure is one dimension of one scope, in the dimension's unit. Amounts cover the
// parts whose total is known; Unknown holds what is left out.
type Figure struct {
	Dimension        Dimension `json:"dimension"`
	Unit             string    `json:"unit"`
	Total            *int64    `json:"total"`
	Faulty           *int64    `json:"faulty"`
	Reserve          *int64    `json:"reserve"` // for the loss the policy names
	Buffer           *int64    `json:"buffer"`
	Usable           *int64    `json:"usable"`
	Allocated        *int64    `json:"allocated"`
	Used             *int64    `json:"used"` // now, or the latest day's p95
	Peak             *int64    `json:"peak"` // the window's largest
	Remaining        *int64    `json:"remaining"`
	Formula          Formula   `json:"formula"` // which of the two gave remaining
	AllocatedPercent *float64  `json:"allocatedPercent"`
	UsedPercent      *float64  `json:"usedPercent"`
	Stranded         *int64    `json:"stranded"` // free, but another dimension keeps the reference profile out
	Unknown          *Rest     `json:"unknown"`  // null if every part's total is known
	Unmeasured       int       `json:"unmeasured"`
	Parts            int       `json:"parts"`              // ports, tables, PFs or blades that the amounts add up
	Series           Series    `json:"series,omitempty"`   // of the fleet and the chassis
	Forecast         *Forecast `json:"forecast,omitempty"` // if a horizon was asked for: of the fleet, chassis and blades, and of all inside a narrower scope
}

// Formula is one of the two models of what remains.
type Formula string

// What can bind.
const (
	ByAllocation Formula = "allocation" // usable × overcommit - allocated
	ByDemand     Formula = "demand"     // usable - peak
)

// Rest is what parts of unknown total hold.
type Rest struct {
	Parts     int    `json:"parts"`
	Allocated *int64 `json:"allocated"`
	Used      *int64 `json:"used"`
}

// Binding names the dimension of which the smallest share of the usable amount remains.
type Binding struct {
	Dimension        Dimension `json:"dimension"`
	Formula          Formula   `json:"formula"`
	RemainingPercent float64   `json:"remainingPercent"` // of usable; 0 if nothing is usable
}

// Oversubscription compares what ports were promised to carry with their speed.
// Ports of unknown speed are left out.
type Oversubscription struct {
	Configured float64  `json:"configured"` // sum of ceilings / speed
	Real       *float64 `json:"real"`       // used / speed
}

// Fit counts the vNICs of the reference profile that still fit.
type Fit struct {
	VNICs         int64     `json:"vnics"`         // packed PF by PF, with all VFs that PFs can have
	Existing      int64     `json:"existing"`      // of vnics, how many fit on VFs that exist
	AtMost        bool      `json:"atMost"`        // a dimension the profile needs is unknown somewhere
	Binds         Dimension `json:"binds"`         // what keeps the next one out, on most PFs
	Pooled        int64     `json:"pooled"`        // if the free parts were one
	Fragmentation float64   `json:"fragmentation"` // 1 - vnics / pooled
	AfterReserve  int64     `json:"afterReserve"`  // of vnics, how many leave the scope's buffer and its reserve of today whole; what is added raises the reserve
}

// Consolidation is about blades that do little.
type Consolidation struct {
	Below   []Idle  `json:"below"`   // blades whose every measured dimension is below 20 % used
	Blades  int     `json:"blades"`  // that have a measurement
	Percent float64 `json:"percent"` // of them
	Emptied int     `json:"emptied"` // how many of Below can be emptied into the rest, the least allocated first
	Freed   []Freed `json:"freed"`   // what emptying them frees
}

// Idle is a blade below 20 %.
type Idle struct {
	Blade     string    `json:"blade"`
	Percent   float64   `json:"percent"` // of the busiest dimension
	Dimension Dimension `json:"dimension"`
	Emptied   bool      `json:"emptied"`
}

// Freed is an amount of one dimension.
type Freed struct {
	Dimension Dimension `json:"dimension"`
	Unit      string    `json:"unit"`
	Total     int64     `json:"total"`
}

// WhatIf is what an [Addition] would do.
type WhatIf struct {
	Profile  Profile   `json:"profile"`
	Wanted   int64     `json:"wanted"`
	Placed   int64     `json:"placed"`
	AtMost   bool      `json:"atMost"`
	Places   []Place   `json:"places"`
	RunsOut  Dimension `json:"runsOut"` // what keeps the next one out, on most PFs
	More     int64     `json:"more"`    // that still fit afterwards
	Changes  []Change  `json:"changes"`
	Warnings []string  `json:"warnings"`
}

// Place is a PF that would take new vNICs.
type Place struct {
	PF    string `json:"pf"` // BLADE/NIC/PF
	VNICs int64  `json:"vnics"`
}

// Change is one dimension of one scope before and after.
type Change struct {
	Level     Level     `json:"level"`
	Name      string    `json:"name"`
	Dimension Dimension `json:"dimension"`
	Unit      string    `json:"unit"`
	Before    Standing  `json:"before"`
	After     Standing  `json:"after"`
	Delta     Standing  `json:"delta"`
}

// Standing is the part of a [Figure] that an addition moves.
type Standing struct {
	Usable    *int64 `json:"usable"`
	Allocated *int64 `json:"allocated"`
	Used      *int64 `json:"used"`
	Remaining *int64 `json:"remaining"`
}

// Quality says how far the figures can be trusted.
type Quality struct {
	Coverage *float64  `json:"coverage"` // percent of the window's 5-minute values that were recorded; null without a series
	Findings []Finding `json:"findings"`
}

// Finding is one kind of trouble with the data, and where it is.
type Finding struct {
	Code    string   `json:"code"` // stable, E_…
	Text    string   `json:"text"`
	Objects []string `json:"objects"`
}

// WriteJSON writes the document.
func (d *Document) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// at returns the scopes of one level.
func (d *Document) at(level Level) []*Scope {
	var found []*Scope
	for i := range d.Status.Scopes {
		if s := &d.Status.Scopes[i]; s.Level == level {
			found = append(found, s)
		}
	}
	return found
}

// figure returns the figure of one dimension, or nil.
func (s *Scope) figure(d Dimension) *Figure {
	for i := range s.Figures {
		if s.Figures[i].Dimension == d {
			return &s.Figures[i]
		}
	}
	return nil
}
