package api

import "time"

// What users want. Spec is theirs; Status is the manager's and ignored when it is
// sent.

// Chassis is an enclosure.
type Chassis struct {
	Head
	Spec   ChassisSpec    `json:"spec"`
	Status *ChassisStatus `json:"status,omitempty"`
}

// ChassisSpec is how large it is.
type ChassisSpec struct {
	Slots int `json:"slots"`
}

// ChassisStatus says which blades are in it.
type ChassisStatus struct {
	Blades []string `json:"blades"` // in the order of slots
}

// Blade is one server.
type Blade struct {
	Head
	Spec   BladeSpec  `json:"spec"`
	Status *BladeView `json:"status,omitempty"`
}

// BladeSpec is where it sits.
type BladeSpec struct {
	Chassis string `json:"chassis,omitempty"`
	Slot    int    `json:"slot,omitempty"`   // from 1
	Uplink  string `json:"uplink,omitempty"` // nicN/pfN to which unknown addresses go; the first PF if absent
}

// BladeView is what is known of a blade.
type BladeView struct {
	State  string `json:"state"` // unseen, silent, held, moving, settled
	Reason *Error `json:"reason,omitempty"`

	Wanted  uint64 `json:"wanted"` // generation published
	Running uint64 `json:"running"`
	Digest  string `json:"digest,omitempty"` // of the content running
	Proved  bool   `json:"proved"`           // that content is, and it is the one wanted; false of a blade that is silent, whatever it said last

	// RulesReported says that the blade has reported where the rules of the generation
	// wanted live. It does so some seconds after it has proved it.
	RulesReported bool `json:"rulesReported"`

	VFs     int       `json:"vfs"`
	Used    int       `json:"used"` // VFs that a vNIC has
	Devices []Device  `json:"devices,omitempty"`
	Rules   *RuleTile `json:"rules,omitempty"`
	Error   *Error    `json:"error,omitempty"` // what its agent says

	Links  []Link       `json:"links,omitempty"`  // of its software datapath
	Events []BladeEvent `json:"events,omitempty"` // the last few that happened to it, the oldest first
}

// RuleTile sums where rules live.
type RuleTile struct {
	Hardware int `json:"hardware"`
	Mixed    int `json:"mixed"`
	Software int `json:"software"`
}

// Network is one layer-2 domain.
type Network struct {
	Head
	Spec NetworkSpec `json:"spec"`
}

// NetworkSpec is its VLAN; 0 is untagged.
type NetworkSpec struct {
	VLAN uint16 `json:"vlan"`
}

// RuleSet is rules of one tier, as in the contract. What its parts look like is for
// package ruleset, which reads the same document from files.
type RuleSet struct {
	Head
	Spec RuleSetSpec `json:"spec"`
}

// RuleSetSpec is the rules.
type RuleSetSpec struct {
	Tier    string `json:"tier,omitempty"`
	Default string `json:"default,omitempty"`
	Rules   []Rule `json:"rules"`
}

// Rule is one rule of a set: fields by their name, and actions, each a word or an
// object with one word.
type Rule struct {
	Name     string         `json:"name"`
	Priority int32          `json:"priority"`
	Match    map[string]any `json:"match,omitempty"`
	Actions  []any          `json:"actions"`
}

// Profile is one workload's I/O.
type Profile struct {
	Head
	Spec   ProfileSpec    `json:"spec"`
	Status *ProfileStatus `json:"status,omitempty"`
}

// ProfileSpec is its vNICs, its rule sets, and where it may live.
type ProfileSpec struct {
	VNICs    []VNICSpec `json:"vnics"`
	RuleSets []string   `json:"ruleSets,omitempty"`
	Where    *Pool      `json:"where,omitempty"` // anywhere if absent
	Policy   string     `json:"policy,omitempty"`
	Off      bool       `json:"off,omitempty"` // saved, but on no blade
}

// VNICSpec is one vNIC.
type VNICSpec struct {
	Name    string `json:"name"`
	MAC     string `json:"mac"`
	Network string `json:"network"`
	QoS     *QoS   `json:"qos,omitempty"`
	Trust   bool   `json:"trust,omitempty"`
	Spoof   bool   `json:"spoof,omitempty"`
	RDMA    bool   `json:"rdma,omitempty"`
}

// QoS is rates in sending direction, a number with K, M, G or T bits a second: 2500M.
type QoS struct {
	Guaranteed string `json:"guaranteed,omitempty"`
	Maximum    string `json:"maximum,omitempty"`
}

// Pool says where a profile may live.
type Pool struct {
	Chassis []string `json:"chassis,omitempty"`
	Blades  []string `json:"blades,omitempty"`
	PF      string   `json:"pf,omitempty"`
}

// ProfileStatus is where a profile is and how far.
type ProfileStatus struct {
	State  string      `json:"state"` // off, waiting (no place yet), refused (it cannot be put where it fits), moving, active
	Reason *Error      `json:"reason,omitempty"`
	Blade  string      `json:"blade,omitempty"`
	VNICs  []VNICPlace `json:"vnics,omitempty"`
}

// VNICPlace is where a vNIC is.
type VNICPlace struct {
	Name string `json:"name"`
	Port string `json:"port,omitempty"` // nicN/pfN/vfN, if the blade has such a VF
	VFID
	Link bool `json:"link"` // its VF's link is on
}

// Assignment is where a profile is; it has the profile's name.
type Assignment struct {
	Head
	Spec AssignmentSpec `json:"spec"`
}

// AssignmentSpec is a VF for each vNIC, all on one blade.
type AssignmentSpec struct {
	Blade string   `json:"blade"`
	VNICs []Placed `json:"vnics"`
}

// Placed is the VF of one vNIC.
type Placed struct {
	Name string `json:"name"` // of the vNIC
	VFID
}

// Snapshot is a name for the wanted state as it was after a change.
type Snapshot struct {
	Head
	Spec SnapshotSpec `json:"spec"`
}

// SnapshotSpec is what a snapshot means.
type SnapshotSpec struct {
	Revision int64     `json:"revision"`
	Note     string    `json:"note,omitempty"`
	Made     time.Time `json:"made,omitzero"`
}

// What is made of inventories and reports. These are read only.

// NICView is a card of some blade; its name is BLADE/nicN.
type NICView struct {
	Head
	Status NICStatus `json:"status"`
}

// NICStatus is a card and its blade.
type NICStatus struct {
	Blade string `json:"blade"`
	NIC
}

// PFView is a physical function of some blade; its name is BLADE/nicN/pfN.
type PFView struct {
	Head
	Status PFStatus `json:"status"`
}

// PFStatus is a physical function, its blade, and how many of its VFs are free.
type PFStatus struct {
	Blade string `json:"blade"`
	Used  int    `json:"used"`
	Free  int    `json:"free"`
	PF
}

// VFView is a virtual function of some blade; its name is BLADE/nicN/pfN/vfN.
type VFView struct {
	Head
	Status VFStatus `json:"status"`
}

// VFStatus is a virtual function, its blade, and who has it.
type VFStatus struct {
	Blade   string   `json:"blade"`
	VNIC    string   `json:"vnic,omitempty"`  // profile/vnic
	State   *VFState `json:"state,omitempty"` // as set up; absent if clean
	Foreign bool     `json:"foreign,omitempty"`
	VF
}

// VNICView is a vNIC of some profile; its name is PROFILE/VNIC.
type VNICView struct {
	Head
	Spec   VNICSpec   `json:"spec"`
	Status VNICStatus `json:"status"`
}

// VNICStatus is where a vNIC is.
type VNICStatus struct {
	Profile string `json:"profile"`
	Blade   string `json:"blade,omitempty"`
	VNICPlace
}

// RuleView is a rule on a blade; its name is BLADE/SET/RULE.
type RuleView struct {
	Head
	Status RuleStatus `json:"status"`
}

// RuleStatus is a rule's place and counters on one blade. A rule that the blade shall have
// and has not reported yet is there with the place [Unreported]: blades report where rules
// live some seconds after a change. One that its report is too long for is there with the
// place [Unlisted] if it is asked for by its name or its blade, and counted in
// [ListMetadata] else.
type RuleStatus struct {
	Blade string `json:"blade"`
	RuleState

	// Reported is when the blade reported rules last; zero if it never did. Valid iff
	// Place is Unreported or Unlisted.
	Reported time.Time `json:"reported,omitzero"`
}

// Unreported is the place of a rule whose blade has not said yet where it lives, and
// Unlisted of one that counted too little to be in its blade's report.
const (
	Unreported = "unreported"
	Unlisted   = "unlisted"
)

// GenerationView is what a blade shall do and does; its name is the blade's.
type GenerationView struct {
	Head
	Spec   GenerationSpec    `json:"spec"`
	Status *GenerationStatus `json:"status,omitempty"`
}

// List is some objects of a kind.
type List[T any] struct {
	APIVersion string       `json:"apiVersion"`
	Kind       string       `json:"kind"` // List
	Metadata   ListMetadata `json:"metadata"`
	Items      []T          `json:"items"`
}

// ListMetadata says what the list shows. A list that was cut says how much is left
// and from where to go on.
type ListMetadata struct {
	Revision  int64  `json:"revision"`           // of the wanted state
	Cursor    int64  `json:"cursor"`             // watch from here to miss nothing
	Continue  string `json:"continue,omitempty"` // name after which the next page begins
	Remaining int    `json:"remaining,omitempty"`
	Unlisted  int    `json:"unlisted,omitempty"` // rules that are in no blade's report, and in this list only if one blade's are asked for
}
