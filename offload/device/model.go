// Package device says what a family of NICs can do, as plain data: which fields
// and masks its match table takes, how it orders entries, which actions it has,
// how many entries fit, and which packets it never answers. Planner, checker,
// drivers and the capacity report read the same [Model]. What cards show of limits that
// nobody tells is kept as [Lessons]. The package does no I/O beyond the files it embeds
// and those it is asked to read or write.
//
// Start reading with [Model] and [Model.Admit]; the shipped models are in models/.
package device

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Order says which of several matching entries a device lets answer.
type Order string

// What devices do with priorities.
const (
	Honoured  Order = "honoured"  // the highest priority answers; among equals any
	Constant  Order = "constant"  // all entries have one priority: any that matches may answer
	Undefined Order = "undefined" // priorities are lost on the way, or what becomes of them is not known
)

// Model is what one kind of device can do. A number that is zero means no limit
// that is known, unless its comment says otherwise.
type Model struct {
	Name    string
	Version int    // of the model; raised whenever a limit changes
	About   string // one sentence for people

	Order      Order
	Priorities int // distinct priorities among the entries
	Entries    int // entries that fit
	Masks      int // distinct masks ([MaskOf]) among the entries
	// MasksPer are parts for each combination of whose values there are Masks masks: a
	// device may have one mask for each kind of flow. Empty means that all count
	// together.
	MasksPer []Part
	Counted  int // entries that count; guards need not

	Fields Fields // what an entry can match, part by part
	Needs  []Part // what every entry has to pin wholly
	Typed  bool   // an entry that answers has to pin one eth_type, or ip, and tags as far as actions depend on them; guards need not
	// Protocols are those whose ports an entry can match, if it pins one of them.
	// Empty means that ports can be matched of all.
	Protocols []uint8
	Ranges    bool // port ranges are native; otherwise they take prefixes

	// What the device does not look at though an entry says it; see unseen.go.
	Tags        Tags   // what becomes of frames with tags
	NonZero     []Part // looked at only where something else than zeros is wanted
	ProtoByPort bool   // the protocol is looked at only by entries that match a port
	// EthTypes are those that are looked at where an entry pins one of them. Empty means
	// that all are.
	EthTypes []uint16

	// Actions are the ones an entry may have. Normal is never among them: it
	// reaches a device only as the output it resolves to. Nor is Pass.
	Actions []flow.Op
	Punt    bool // an entry can send its packets to software unchanged: guards are possible
	Outputs int  // copies one entry makes at most, mirrors included
	Copies  int  // copies one entry sends to one and the same port at most
	VLANOps int  // VLAN actions a copy passes at most

	Counters   bool          // every entry counts packets and bytes
	CounterLag time.Duration // how old a counter may be when it is read
	// PacketBits and ByteBits are how wide the device's counters are; 0 is wide enough
	// never to wrap, or not known.
	PacketBits, ByteBits int
	InsertCost           time.Duration // what one operation takes; 0 is not known

	// Missed are packets the device never answers whatever entries it holds: they
	// reach software unchanged. It is the device's denotation: an entry really
	// matches Entry.Match minus Missed.
	Missed []flow.Match
	// MissFalls says that software sees what no entry answers. Where it is false,
	// nothing may be offloaded: software cannot hold the rest of the table.
	MissFalls bool

	// Barred is why nothing at all may be put into the device now, and in no file; nil if
	// nothing speaks against it. Its driver says so, or it was learned ([Trust]).
	Barred *Refusal

	// Evidence says where each limit is from, by its name in the YAML form.
	Evidence map[string]Evidence

	// Ports are those of this device, filled in by its driver and in no file.
	// Empty means that every port is. Packets to or from other ports are software's.
	Ports []flow.Port
}

// Tier is how well a limit is known.
type Tier string

// The tiers of evidence, best first. HARDWARE.md prints them.
const (
	Proven   Tier = "proven"   // hwtests passed on a real card
	Emulated Tier = "emulated" // hwtests passed in emulation
	Expected Tier = "expected" // read in the driver's source
	Vendor   Tier = "vendor"   // the vendor's word
	Learned  Tier = "learned"  // found out on a card that is in use, by its first refusal
	Unknown  Tier = "unknown"  // nobody says; the limit is learned
)

// Evidence is why a limit is believed.
type Evidence struct {
	Tier   Tier   `yaml:"tier"`
	Source string `yaml:"source"`
}

// Mask is the shape of a match without its values. Devices with few mask slots
// count these.
type Mask struct {
	Key      flow.Key
	Src, Dst bool // the port has a range
}

// MaskOf returns the mask of m. A range that is a prefix counts as its mask.
func MaskOf(m *flow.Match) Mask {
	k := Mask{Key: m.Mask}
	k.Src = maskPort(&k.Key, flow.SrcPort, m.SrcPort)
	k.Dst = maskPort(&k.Key, flow.DstPort, m.DstPort)
	return k
}

// String lists the parts that the mask looks at, with the bits where these are not all.
func (k Mask) String() string {
	var out []string
	for i := range parts {
		p := &parts[i]
		lo, all := k.Key.Get(p.field)&p.bits, p.bits
		if p.wide {
			hi := lo
			if lo, all = k.Key.Get(p.lower), p.lower.Max(); hi == all && lo == all || hi == 0 && lo == 1<<32-1 {
				hi, lo = 0, all
			}
			if hi != 0 {
				out = append(out, fmt.Sprintf("%s/%016x%016x", Part(i), hi, lo))
				continue
			}
		}
		switch ranged := Part(i) == SrcPort && k.Src || Part(i) == DstPort && k.Dst; {
		case ranged:
			out = append(out, Part(i).String()+" by a range")
		case lo == all:
			out = append(out, Part(i).String())
		case lo != 0:
			out = append(out, fmt.Sprintf("%s/%#x", Part(i), lo))
		case k.Key.Get(p.field)&p.presence() != 0:
			out = append(out, Part(i).String()+" there or not")
		}
	}
	if len(out) == 0 {
		return "nothing"
	}
	return strings.Join(out, ", ")
}

// MaskSet returns what tells the sets of masks apart that m has Masks of each: the
// match's values of MasksPer.
func (m *Model) MaskSet(match *flow.Match) flow.Key {
	var set flow.Key
	for _, i := range m.MasksPer {
		p := &parts[i]
		set.Set(p.field, set.Get(p.field)|match.Value.Get(p.field)&(p.bits|p.presence()))
		if p.wide {
			set.Set(p.lower, match.Value.Get(p.lower))
		}
	}
	return set
}

// maskPort puts the mask of a prefix into k; it reports whether r is another range.
func maskPort(k *flow.Key, f flow.Field, r flow.PortRange) bool {
	switch {
	case r.Any():
		return false
	case !prefix(r):
		return true
	}
	k.Set(f, uint64(^(r.Hi - r.Lo)))
	return false
}

// Has reports whether port p is one of the device's.
func (m *Model) Has(p flow.Port) bool { return len(m.Ports) == 0 || slices.Contains(m.Ports, p) }

// Does reports whether an entry may have the action.
func (m *Model) Does(op flow.Op) bool { return slices.Contains(m.Actions, op) }
