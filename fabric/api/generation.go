package api

import "time"

// What a blade is told. The manager writes one record a blade, at the store's
// Generation(blade), and the rules beside it in shards, at Shard(blade, sum); new shards
// in one transaction with the record, so whoever sees a record finds its shards. (If the
// shards are gone, the record was replaced meanwhile: read it again.) A record is whole:
// it says how its rules differ from those of its shards, whatever went before it.
//
// What an agent does with a record, in this order; it may be interrupted anywhere and
// then starts again with the newest record:
//
//  1. Refuse a Number lower than one it has had: that record is a stale manager's.
//  2. Rebuild the content, shards and edits, and compare its digest with Digest; refuse
//     what differs.
//  3. Make clean every VF of ours that VNICs does not name, and quiet (its link off)
//     every VF that VNICs names with another address (MAC, VLAN) than it has. Set up
//     new VFs with the link off; change rates, trust and spoof check in place.
//  4. Put the table in force and prove it.
//  5. Switch the link on for the vNICs with Connect, and off for those without it.
//  6. Report, with Record the store's revision of the record (its key's last change).
//     Record may be reported from step 3 on, and means: what the blade had set up for
//     older records and this one does not name is clean or quiet, and will stay so.
//
// Digest and Number speak of the content. Connect is not in it: the manager may write
// the same Number again with another Connect, when what a vNIC waited for elsewhere is
// done. An agent that is cut off goes on with what it was told last.

// Generation is the record of one blade.
type Generation struct {
	Head
	Spec GenerationSpec `json:"spec"`
}

// GenerationSpec is what one blade shall do.
type GenerationSpec struct {
	Number   uint64    `json:"number"`   // counted per blade, from 1
	Digest   string    `json:"digest"`   // fabric.Content.Sum of the content below
	Revision int64     `json:"revision"` // of the wanted state it was compiled from
	Made     time.Time `json:"made"`

	Uplink   string    `json:"uplink,omitempty"`  // port to which unknown addresses go
	Default  string    `json:"default,omitempty"` // actions, as text, for what no rule matches; drop if absent
	Stations []Station `json:"stations"`          // of the switch
	VNICs    []Order   `json:"vnics"`             // VFs the blade shall have set up; all others it has set up, it clears

	// Leaving is what earlier records let the blade answer for and this one does not.
	// Until the blade has reported this record, nobody else may be told to answer for
	// these addresses. It is the managers' note to themselves; agents ignore it.
	Leaving []Answer `json:"leaving,omitempty"`

	// The rules are those of the shards with some edits: shards are written anew only
	// when there are too many edits, so that a small change is a small record. Edited
	// puts the two together.
	Shards []string    `json:"shards"`         // SHA-256 of each shard's value, 64 hexadecimal digits
	Put    []TableRule `json:"put,omitempty"`  // new rules, and those that differ from the shards' of the same ID
	Drop   []string    `json:"drop,omitempty"` // IDs of rules that are in the shards and no more
	Rules  int         `json:"rules"`          // in all
}

// Edited returns the rules of a record, in no particular order, from those of its shards.
func (g *GenerationSpec) Edited(shards []TableRule) []TableRule {
	gone := map[string]bool{}
	for _, id := range g.Drop {
		gone[id] = true
	}
	for i := range g.Put {
		gone[g.Put[i].ID] = true
	}
	out := make([]TableRule, 0, len(shards)+len(g.Put))
	for i := range shards {
		if !gone[shards[i].ID] {
			out = append(out, shards[i])
		}
	}
	return append(out, g.Put...)
}

// Station is the wire form of flow.Station.
type Station struct {
	VLAN uint16 `json:"vlan"`
	MAC  string `json:"mac"`
	Port string `json:"port"`
}

// Order is one vNIC on its VF, as it shall be set up.
type Order struct {
	Profile string `json:"profile"`
	VNIC    string `json:"vnic"`
	Port    string `json:"port"`
	VFID
	Setting

	// Connect says that the VF's link may be on as soon as the content is in force and
	// proved. Without it the vNIC waits, its VF set up and quiet.
	Connect bool `json:"connect"`
}

// Answer is a VF and the address it may answer for.
type Answer struct {
	VFID
	MAC  string `json:"mac"`
	VLAN uint16 `json:"vlan"`
}

// VFID is the identity of a VF on its blade.
type VFID struct {
	PCI    string `json:"pci"`              // of its PF
	Serial string `json:"serial,omitempty"` // of the card
	Index  int    `json:"index"`
}

// Setting is what a PF's driver is told about a VF. Rates are in bits per second, 0
// for none.
type Setting struct {
	MAC        string `json:"mac"`
	VLAN       uint16 `json:"vlan"`
	Guaranteed uint64 `json:"guaranteed,omitempty"`
	Maximum    uint64 `json:"maximum,omitempty"`
	Trust      bool   `json:"trust,omitempty"`
	Spoof      bool   `json:"spoof,omitempty"` // may send from other addresses: no spoof check
}

// Shard is a part of a generation's rules, in no particular order.
type Shard struct {
	Rules []TableRule `json:"rules"`
}

// TableRule is one rule of a blade's table. Match and actions are the contract's
// text, with the blade's full port names.
type TableRule struct {
	ID       string `json:"id"` // 16 hexadecimal digits
	Name     string `json:"name"`
	Tier     string `json:"tier"`
	Priority int32  `json:"priority"`
	Match    string `json:"match,omitempty"`
	Actions  string `json:"actions"`
}
