package capacity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Report works everything out. It is pure: the same input gives the same document.
// The error is a [flow.Fault] with code E_CAPACITY_INPUT if the input makes no sense.
// A scope that is not there is code E_NOT_FOUND. 256 blades with 512 PFs and 30 days of
// demand take about a tenth of a second; forecasts of 90 days, 6 ms for each figure more.
func Report(in Input) (*Document, error) { return report(in, PortLevel) }

// Overview is the same of the fleet and its chassis alone, so that forecasts cost 6 ms for
// each chassis and dimension, however many blades there are.
func Overview(in Input) (*Document, error) { return report(in, ChassisLevel) }

// report says nothing of scopes that are deeper than a level.
func report(in Input, deepest Level) (*Document, error) {
	if err := in.Check(); err != nil {
		return nil, err
	}
	fleet := newTree(in, nil, in.Reference)
	fleet.pack(in.Policy, in.Reference)
	top, err := fleet.scopeOf(in.Scope)
	if err != nil {
		return nil, err
	}
	d := &Document{APIVersion: "bladeflow/v1", Kind: "CapacityReport", Metadata: Metadata{fleet.name}, Spec: settings(in)}
	top.walk(func(n *node) {
		if n.level.depth() > deepest.depth() {
			return
		}
		s := n.scope(in.Policy, in.Reference)
		if narrow := n.level == PFLevel || n.level == PortLevel; in.Horizon > 0 && (!narrow || top != fleet) {
			s.foretell(n, DateOf(in.At), in.Horizon)
		}
		d.Status.Scopes = append(d.Status.Scopes, s)
	})
	d.Status.Consolidation = consolidate(top, in.Policy)
	if in.WhatIf != nil {
		d.Status.WhatIf = add(in, *in.WhatIf)
	}
	d.Status.Quality = quality(in, top)
	d.Status.Summary = summary(d)
	d.Status.Method = method(in)
	return d, nil
}

func settings(in Input) Settings {
	s := Settings{At: in.At.UTC().Format(time.RFC3339), Survive: in.Policy.Survive, Buffer: in.Policy.BufferPercent,
		Profile: in.Reference, Digest: digest(in)}
	s.From, s.To = in.window()
	s.Horizon = in.Horizon
	if in.Scope != string(FleetLevel) {
		s.Scope = in.Scope
	}
	for _, d := range dimensions {
		s.Over = append(s.Over, Over{d, in.Policy.overcommit(d)})
	}
	return s
}

// digest identifies an input by its values: its JSON has the maps sorted.
func digest(in Input) string {
	in.At = in.At.UTC().Truncate(time.Second)
	b, err := json.Marshal(in)
	if err != nil {
		panic("capacity: an input of plain values has no JSON form: " + err.Error())
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// scopeOf returns the scope named LEVEL/NAME in n; the fleet has no name.
func (n *node) scopeOf(scope string) (found *node, err error) {
	level, name, named := strings.Cut(scope, "/")
	if scope == "" || scope == string(FleetLevel) {
		return n, nil
	}
	n.walk(func(m *node) {
		if named && string(m.level) == level && m.name == name && found == nil {
			found = m
		}
	})
	if found == nil {
		return nil, &flow.Fault{Code: "E_NOT_FOUND", What: fmt.Sprintf("scope %q", scope), Why: "there is none", Remedy: "use fleet, chassis/NAME, blade/NAME, pf/BLADE/NIC/PF or port/BLADE/NIC/PF"}
	}
	return found, nil
}
