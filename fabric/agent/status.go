package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Object is the stable JSON form of a blade's status: `{apiVersion, kind:
// BladeStatus, metadata, status}`. Fields are added, never changed.
type Object struct {
	APIVersion string   `json:"apiVersion"`
	Kind       string   `json:"kind"`
	Metadata   Metadata `json:"metadata"`
	Status     Status   `json:"status"`
}

// Metadata names the blade.
type Metadata struct {
	Name string `json:"name"`
}

// NewObject returns the JSON form of a status of the blade called name.
func NewObject(name string, s *Status) Object {
	return Object{APIVersion: "bladeflow/v1", Kind: "BladeStatus", Metadata: Metadata{Name: name}, Status: *s}
}

// Status is what a blade does, as of Reconciled. Lists are never null. Counters
// of packets never decrease, also when the agent starts anew, if it keeps them.
type Status struct {
	Generation uint64    `json:"generation"`       // of the table in force; 0 before the first
	Digest     string    `json:"digest,omitempty"` // of the files or the content it was made of
	Record     int64     `json:"record,omitempty"` // revision of the store's record acted on last: VFs that leave by it have left
	Since      time.Time `json:"since"`            // when it came into force
	Reconciled time.Time `json:"reconciled"`       // when devices and counters were last read

	// Proved says that at Reconciled the checker found what every device holds to
	// agree with the table in force. A blade without devices has nothing to prove.
	Proved bool `json:"proved"`

	Devices []DeviceStatus `json:"devices"`
	Links   []LinkStatus   `json:"links"` // of the software datapath, by port
	VFs     []VFStatus     `json:"vfs"`   // that are not clean; none if VFs are left alone
	Rules   []RuleStatus   `json:"rules"` // in the order they are asked, the default last
	Packets []TierPackets  `json:"packets"`
	Lost    []Lost         `json:"lost"`            // in software, without a verdict or on the way out
	Cache   *CacheStatus   `json:"cache,omitempty"` // nil without one
	Drift   DriftStatus    `json:"drift"`
	Samples SampleStatus   `json:"samples"` // frames that were judged again since the agent started
	Canary  CanaryStatus   `json:"canary"`
	Peeks   PeekStatus     `json:"peeks"`  // looks under entries, for packets that should have been answered above
	Events  []Event        `json:"events"` // the last, the oldest first

	EventTotals map[string]uint64 `json:"eventTotals"` // by code, since the agent started

	Mismatches uint64       `json:"mismatches"` // times the checker refused a plan or a read-back
	Rejected   uint64       `json:"rejected"`   // times the wanted rules could not be used
	Rounds     uint64       `json:"rounds"`     // reconciliations that went well
	Failures   uint64       `json:"failures"`   // and those that did not
	Error      *ErrorStatus `json:"error,omitempty"`
}

// DeviceStatus is one device's table: what is in it, and for what there is room.
type DeviceStatus struct {
	Name    string `json:"name"`
	Model   string `json:"model"`
	Entries int    `json:"entries"` // that it holds, foreign ones included
	Limit   int    `json:"limit"`   // 0 if it is not known
	Foreign int    `json:"foreign"`

	Learned   bool `json:"learned,omitempty"`   // Limit is where the device said that it was full
	Guards    int  `json:"guards"`              // of the entries
	Masks     int  `json:"masks"`               // distinct, of all entries
	MaskLimit int  `json:"maskLimit,omitempty"` // 0 if it is not known or there is none

	MasksLearned bool `json:"masksLearned,omitempty"` // as Learned, of MaskLimit

	Distrusted bool `json:"distrusted,omitempty"` // it did with packets what no entry says, and gets no entries any more

	// Kinds is of how many kinds (masks) bladeflow's entries are, Met of how many of these
	// packets have shown that the device answers by them, and Unmet what the others look at:
	// of them nothing is known but the device's word.
	Kinds int      `json:"kinds,omitempty"`
	Met   int      `json:"met,omitempty"`
	Unmet []string `json:"unmet,omitempty"` // at most [unmetListed]

	PFs []string `json:"pfs,omitempty"` // whose table it is

	// Claims are what the device can do and how that is known, of a card that was asked.
	Claims []ClaimStatus `json:"claims,omitempty"`

	// Strange lists entries that nobody here put in, or not so: foreign ones, and those
	// with our mark that are orphaned, altered or unsound, as found in the last round.
	// Foreign ones stay, the others are put right. At most [strangeListed].
	Strange []EntryStatus `json:"strange"`
}

// ClaimStatus is one thing that a device can do.
type ClaimStatus struct {
	Name   string `json:"name"` // as in a device model; `refused` is what the model claims and the card does not take
	Value  string `json:"value"`
	Tier   string `json:"tier"` // proven, emulated, expected, vendor, learned or unknown
	Source string `json:"source"`
}

// EntryStatus is one entry of a device that is not as it should be.
type EntryStatus struct {
	ID       string `json:"id"`
	Class    string `json:"class"` // foreign, orphaned, altered or unsound; of [CardEntries] also ours
	Kind     string `json:"kind"`  // rule, guard or piece
	Priority uint64 `json:"priority"`
	Match    string `json:"match"`
	Actions  string `json:"actions"`
}

// LinkStatus is one port's link of the software datapath.
type LinkStatus struct {
	Port   string `json:"port"`
	Netdev string `json:"netdev"`         // its representor
	Mode   string `json:"mode"`           // how frames come and go: afxdp (an XDP program and a socket of it) or afpacket
	XDP    string `json:"xdp,omitempty"`  // where the program is: native, in the driver, or generic, behind it; "… (in only)" where the netdev takes no XDP frames, so that flows leave by it from Go; empty without one
	Fail   string `json:"fail,omitempty"` // what unknown flows get while no agent listens: closed or kernel, which all frames get without pins; empty without a flow cache
	Queues int    `json:"queues"`         // receive queues, each with a socket

	// Open says that frames do come and go. A link whose netdev was removed is not open
	// until it is back, nor is one whose netdev is down; Reason then says so.
	Open   bool      `json:"open"`
	Since  time.Time `json:"since"`
	Reason string    `json:"reason,omitempty"`

	Received uint64 `json:"received"` // frames
	Sent     uint64 `json:"sent"`
	Dropped  uint64 `json:"dropped"` // by the link, before anybody saw them
}

// CacheStatus is how the flow cache in front of software is filled.
type CacheStatus struct {
	Pins      string `json:"pins,omitempty"` // where it outlives the agent; empty if it does not
	Flows     int    `json:"flows"`          // that it answers
	Limit     int    `json:"limit"`
	Adopted   int    `json:"adopted"`   // flows that it knew already when this agent's first table came into force
	Installed uint64 `json:"installed"` // flows, since the agent started
	Evicted   uint64 `json:"evicted"`   // of them, for others
}

// VFStatus is one VF that is not clean, as read back. PCI is its PF's; rates are in
// bits per second.
type VFStatus struct {
	PCI        string `json:"pci"`
	Serial     string `json:"serial,omitempty"`
	Index      int    `json:"index"`
	MAC        string `json:"mac"`
	VLAN       uint16 `json:"vlan"`
	Guaranteed uint64 `json:"guaranteed,omitempty"`
	Maximum    uint64 `json:"maximum,omitempty"`
	Trust      bool   `json:"trust,omitempty"`
	Spoof      bool   `json:"spoof,omitempty"`
	Link       bool   `json:"link"`
	Ours       bool   `json:"ours,omitempty"`
}

// RuleStatus is where one rule lives and what it has seen.
type RuleStatus struct {
	Name    string `json:"name"`
	ID      string `json:"id"`
	Place   string `json:"place"`   // hardware if it has an entry in a device, else software
	Whole   bool   `json:"whole"`   // software has nothing left to answer of it
	Entries int    `json:"entries"` // of its own, guards not counted

	// Code, Reason and Fix say why software answers it, or the rest of it.
	Code   string `json:"code,omitempty"`
	Reason string `json:"reason,omitempty"`
	Fix    string `json:"fix,omitempty"`

	Hardware Count `json:"hardware"`
	Cache    Count `json:"cache"`    // the flow cache, in the kernel
	Software Count `json:"software"` // Go: what neither of them answered
	Policed  Count `json:"policed"`  // of software's: came faster than the rule lets pass
}

// Count is the JSON form of [flow.Counter].
type Count struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

// TierPackets counts packets by where they were answered (hardware, cache or software)
// and how; `punt` is what a guard in hardware handed to software, where it is counted again.
type TierPackets struct {
	Tier    string `json:"tier"`
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
}

// Lost counts frames or copies of frames that software could not deal with.
type Lost struct {
	Reason  string `json:"reason"`
	Packets uint64 `json:"packets"`
}

// DriftStatus counts entries that changed behind the agent's back.
type DriftStatus struct {
	Missing uint64 `json:"missing"`
	Altered uint64 `json:"altered"`
	Added   uint64 `json:"added"` // with our mark
	Healed  uint64 `json:"healed"`
}

// ErrorStatus is what is wrong now.
type ErrorStatus struct {
	Code  string    `json:"code"`
	Text  string    `json:"text"`
	Since time.Time `json:"since"`
}

// Rule returns the status of the rule called name, `set/rule`.
func (s *Status) Rule(name string) (RuleStatus, bool) {
	for _, r := range s.Rules {
		if r.Name == name {
			return r, true
		}
	}
	return RuleStatus{}, false
}

// WriteObject writes the JSON form to a file, whole or not at all.
func WriteObject(path string, o Object) error {
	data, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	if err := replace(path, append(data, '\n'), 0o644, false); err != nil {
		return fmt.Errorf("status file: %w", err)
	}
	return nil
}

// replace writes a file whole or not at all; durable says that it shall outlive a
// loss of power, which costs a few milliseconds.
func replace(path string, data []byte, mode os.FileMode, durable bool) error {
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // fails when all went well: the name is gone
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil && durable {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil || !durable {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// LastGeneration returns the generation and digest that a status file tells of, and
// zero if there is none or it cannot be read: numbers then start again.
func LastGeneration(path string) (flow.Generation, string) {
	var o Object
	data, err := os.ReadFile(path)
	if err != nil || json.Unmarshal(data, &o) != nil {
		return 0, ""
	}
	return flow.Generation(o.Status.Generation), o.Status.Digest
}
