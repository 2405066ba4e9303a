// Package api is the wire form of the fabric, version 1: what the manager's API
// gives and takes, and what passes through the store between the manager and the
// agents. It is plain data with JSON names; it decides nothing and imports nothing of
// bladeflow but the vocabulary. Each side converts it in one file of its own, so that
// wire types never enter the model. Fields are added, never changed; golden files in
// testdata say how every kind looks.
//
// Users' documents are decoded strictly ([Decode]); what is in the store is decoded
// leniently, with encoding/json, since the writer may be newer than the reader.
//
// Start reading with [Head], then object.go for what users want, generation.go for
// what a blade is told, and report.go for what it answers.
package api

// Version is the apiVersion of every document.
const Version = "bladeflow/v1"

// Head is what all objects begin with.
type Head struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
}

// Header returns the head, of whatever object it is part of.
func (h *Head) Header() *Head { return h }

// Metadata names an object.
type Metadata struct {
	Name   string            `json:"name"`
	UID    string            `json:"uid,omitempty"`    // of a rule set, in its rules' IDs; its name if absent
	Tenant string            `json:"tenant,omitempty"` // "default" if absent
	Labels map[string]string `json:"labels,omitempty"`

	// Revision is the number of the change that made the object what it is. Changes
	// of the whole wanted state are numbered from 1; a backup keeps the numbers.
	Revision int64 `json:"revision,omitempty"`
}

// NewHead returns the head of an object of this version.
func NewHead(kind, name string) Head {
	return Head{APIVersion: Version, Kind: kind, Metadata: Metadata{Name: name}}
}

// The kinds. The first six are what users want and are stored under their name; the
// others are made of those and of what blades report.
const (
	KindChassis    = "Chassis"
	KindBlade      = "Blade"
	KindNetwork    = "Network"
	KindRuleSet    = "RuleSet"
	KindProfile    = "Profile"
	KindAssignment = "Assignment" // where a profile is; made by the manager and by moves
	KindSnapshot   = "Snapshot"

	KindNIC         = "NIC"
	KindPF          = "PF"
	KindVF          = "VF"
	KindVNIC        = "VNIC"
	KindRule        = "Rule"
	KindPolicy      = "Policy"
	KindGeneration  = "Generation"
	KindBladeStatus = "BladeStatus"
	KindInventory   = "Inventory"
	KindRules       = "Rules"
	KindPorts       = "Ports"
	KindAlive       = "Alive"
	KindEvent       = "Event"
	KindBusy        = "Busy"
)
