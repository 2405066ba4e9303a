package capacity

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

// Report works everything out. It is pure: the same input gives the same document.
// The error is a [flow.Fault] with code E_CAPACITY_INPUT if the input makes no sense.
// 256 blades with 512 PFs and 30 days of demand take about a tenth of a second.
func Report(in Input) (*Document, error) {
	if err := in.Check(); err != nil {
		return nil, err
	}
	fleet := newTree(in, nil, in.Reference)
	fleet.pack(in.Policy, in.Reference)
	d := &Document{APIVersion: "bladeflow/v1", Kind: "CapacityReport", Metadata: Metadata{fleet.name}, Spec: settings(in)}
	fleet.walk(func(n *node) { d.Status.Scopes = append(d.Status.Scopes, n.scope(in.Policy, in.Reference)) })
	d.Status.Consolidation = consolidate(fleet, in.Policy)
	if in.WhatIf != nil {
		d.Status.WhatIf = add(in, *in.WhatIf)
	}
	d.Status.Quality = quality(in, fleet)
	d.Status.Summary = summary(d)
	d.Status.Method = method(in)
	return d, nil
}

func settings(in Input) Settings {
	s := Settings{At: in.At.UTC().Format(time.RFC3339), Survive: in.Policy.Survive, Buffer: in.Policy.BufferPercent,
		Profile: in.Reference, Digest: digest(in)}
	s.From, s.To = in.window()
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
