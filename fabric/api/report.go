package api

import "time"

// What a blade answers, in parts that change at different paces, each at the store's
// Status(blade, part). Only PartAlive hangs on the agent's lease: when a blade falls
// silent its last words stay, because it goes on as it was told, and the addresses its
// VFs answer for are not free.
const (
	PartAlive      = "alive"      // Alive, leased; written once a start
	PartInventory  = "inventory"  // Inventory; when it changes
	PartGeneration = "generation" // BladeStatus; at once when it changes
	PartRules      = "rules"      // Rules; at most once a second, a long list less often, and only if something counted
	PartPorts      = "ports"      // Ports; likewise
)

// Alive says that a blade's agent runs.
type Alive struct {
	Head
	Status AliveStatus `json:"status"`
}

// AliveStatus is who runs.
type AliveStatus struct {
	Version string    `json:"version,omitempty"` // of the program
	Since   time.Time `json:"since"`
}

// BladeStatus is what is in force on a blade, as read back.
type BladeStatus struct {
	Head
	Status GenerationStatus `json:"status"`
}

// GenerationStatus is how far a blade has come. Lists are never null.
type GenerationStatus struct {
	Record     int64     `json:"record"`           // the store's revision of the newest record acted on; see generation.go
	Generation uint64    `json:"generation"`       // of the table in force; 0 before the first
	Digest     string    `json:"digest,omitempty"` // of the content in force
	Since      time.Time `json:"since"`            // when it came into force

	// Proved says that the checker found what every device holds to agree with the
	// table in force, since it came into force.
	Proved bool `json:"proved"`

	VFs     []VFState    `json:"vfs"`     // that are not clean
	Devices []Device     `json:"devices"` // match tables
	Links   []Link       `json:"links"`   // of the software datapath, by port
	Events  []BladeEvent `json:"events"`  // the last that happened to the blade, the oldest first

	Mismatches uint64 `json:"mismatches"` // times the checker refused a plan or a read-back
	Error      *Error `json:"error,omitempty"`
}

// VFState is a VF that is not clean.
type VFState struct {
	VFID
	Setting
	Link bool `json:"link"`           // it is on
	Ours bool `json:"ours,omitempty"` // bladeflow set it up
}

// Device is how full one device's table is, and what is odd in it.
type Device struct {
	Name      string   `json:"name"`
	Model     string   `json:"model"`
	PFs       []string `json:"pfs,omitempty"` // nicN/pfN that share it
	Entries   int      `json:"entries"`       // that it holds, foreign ones included
	Limit     int      `json:"limit"`         // 0 if it is not known
	Learned   bool     `json:"learned,omitempty"`
	Foreign   int      `json:"foreign"`
	Guards    int      `json:"guards"`              // of the entries
	Masks     int      `json:"masks"`               // distinct, of all entries
	MaskLimit int      `json:"maskLimit,omitempty"` // 0 if it is not known or there is none

	MasksLearned bool `json:"masksLearned,omitempty"` // as Learned, of MaskLimit

	Claims []Claim `json:"claims,omitempty"` // what a card that was asked can do

	Strange []Entry `json:"strange,omitempty"` // some of those that nobody of bladeflow put in, or not so
}

// Claim is one thing that a device can do, and how that is known.
type Claim struct {
	Name   string `json:"name"` // as in a device model; `refused` is what the model claims and the card does not take
	Value  string `json:"value"`
	Tier   string `json:"tier"` // proven, emulated, expected, vendor, learned or unknown
	Source string `json:"source"`
}

// Entry is an entry of a device that is not as it should be. Match and actions are the
// contract's text.
type Entry struct {
	ID       string `json:"id"`
	Class    string `json:"class"` // foreign, orphaned, altered or unsound
	Kind     string `json:"kind"`  // rule, guard or piece
	Priority uint64 `json:"priority"`
	Match    string `json:"match"`
	Actions  string `json:"actions"`
}

// Link is one port's link of the software datapath.
type Link struct {
	Port   string    `json:"port"`
	Netdev string    `json:"netdev"`         // its representor
	Mode   string    `json:"mode"`           // afxdp (an XDP program and a socket of it) or afpacket
	XDP    string    `json:"xdp,omitempty"`  // where the program is: native, in the driver, or generic, behind it; "… (in only)" if flows leave from Go
	Fail   string    `json:"fail,omitempty"` // what unknown flows get while no agent listens: closed or kernel
	Open   bool      `json:"open"`           // frames come and go
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"` // why it is not open
}

// BladeEvent is something that happened to a blade.
type BladeEvent struct {
	At     time.Time `json:"at"`
	Code   string    `json:"code"`   // stable
	Object string    `json:"object"` // what it happened to
	Text   string    `json:"text"`
}

// Rules is where rules live and what they have counted.
type Rules struct {
	Head
	Status RulesStatus `json:"status"`
}

// RulesStatus sums a blade's rules by place. Counters never decrease while the agent
// runs.
type RulesStatus struct {
	Generation uint64        `json:"generation"`
	At         time.Time     `json:"at"` // when it was counted
	Hardware   int           `json:"hardware"`
	Mixed      int           `json:"mixed"` // an entry in hardware, the rest in software
	Software   int           `json:"software"`
	Packets    []TierPackets `json:"packets"`
	Rules      []RuleState   `json:"rules"`   // in the order they are asked, the default last; those that counted most if there are too many
	Omitted    int           `json:"omitted"` // rules that are not in the list
}

// RuleState is where one rule lives and what it has seen.
type RuleState struct {
	Name     string `json:"name"`
	ID       string `json:"id"`
	Place    string `json:"place"`   // hardware, mixed or software; in a RuleView also unreported
	Entries  int    `json:"entries"` // of its own, guards not counted
	Code     string `json:"code,omitempty"`
	Reason   string `json:"reason,omitempty"` // why software answers it, or the rest of it
	Fix      string `json:"fix,omitempty"`
	Hardware Count  `json:"hardware"`
	Cache    Count  `json:"cache"` // software's flow cache
	Software Count  `json:"software"`
}

// Count is the wire form of flow.Counter.
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// TierPackets counts packets by where they were answered and how.
type TierPackets struct {
	Tier    string `json:"tier"`
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
}

// Ports is what has passed a blade's functions.
type Ports struct {
	Head
	Status PortsStatus `json:"status"`
}

// PortsStatus counts by port, whoever answered the packets. Counters begin anew when a
// function is made anew, and never decrease else.
type PortsStatus struct {
	At    time.Time   `json:"at"`    // when it was counted
	Ports []PortCount `json:"ports"` // by name; those that can be counted
}

// PortCount is one function's traffic: of a PF what its link carried, of a VF what its
// workload received and sent.
type PortCount struct {
	Port     string `json:"port"` // nicN/pfN or nicN/pfN/vfN
	Received Count  `json:"received"`
	Sent     Count  `json:"sent"`
}
