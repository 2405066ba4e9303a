package offload

import (
	"context"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Driver is one device's match table. Package offloadtest has the suite that every
// implementation must pass.
//
// A driver decides nothing: it carries out single operations, says truthfully what
// became of each, and decodes what the device itself says it holds. It remembers no
// entries; a driver that was just opened on a device that has been running for
// months behaves as one that put every entry in. It touches only the entries it is
// told to. One goroutine at a time uses a Driver, except for Counters and
// Installed, which may run beside Apply.
type Driver interface {
	// Model returns what this device can do. Nothing of it but its ports changes while
	// the driver is open: those come and go with VFs. The planner asks nothing of the
	// device that the model refuses.
	Model(ctx context.Context) (device.Model, error)

	// Installed returns every entry in the device's table, foreign ones too (see
	// [Ours]), decoded from the device's own dump. What was added comes back equal
	// in every field ([flow.Entry.Equal]). The order is of no meaning. It is an
	// error if any entry cannot be decoded: half a dump must not look whole.
	Installed(ctx context.Context) ([]flow.Entry, error)

	// Apply carries out ops one after another, in order, and returns one outcome
	// for each: len(result) == len(ops). It does not stop at a failure; whoever
	// needs that passes fewer ops. Each op is atomic for packets: an entry answers
	// with all of its actions or not at all. When ctx ends, the rest is Unknown.
	Apply(ctx context.Context, ops []Op) []Outcome

	// Barrier returns once no packet is still being answered by the table as it
	// was before the last Apply returned.
	Barrier(ctx context.Context) error

	// Counters returns the packets each installed entry has answered (for a guard:
	// punted) since it was added. A counter of an entry never decreases; it may be
	// late by what the model says.
	Counters(ctx context.Context) ([]Count, error)
}

// PortCounter is a [Driver] whose device counts what leaves by its ports, and what of that
// software sent: the only witness against a device that does something else than its
// entries say.
type PortCounter interface {
	// Delivered returns the counters of the ports that have them, which may be as late as
	// the model says of entries'.
	Delivered(ctx context.Context) ([]PortCount, error)
}

// PortCount is how many packets have left by a port since its netdev is there.
type PortCount struct {
	Port     flow.Port
	All      uint64
	Software uint64 // of them, sent by software; read after All, and never late
}

// OpKind is what an [Op] does.
type OpKind uint8

const (
	// Add puts the entry in. An entry with this ID that is already there, equal or
	// not, refuses it with [CodeExists].
	Add OpKind = iota
	// Remove takes out the entry with this ID; the other fields say what the
	// planner believes it to be, for drivers whose devices want the match as a
	// handle. If no entry has the ID it is refused with [CodeMissing].
	Remove
)

// String returns `add` or `remove`.
func (k OpKind) String() string { return [...]string{"add", "remove"}[k] }

// Op is one change of a device's table. There is no change in place: it would mix
// two generations.
type Op struct {
	Kind  OpKind
	Entry flow.Entry
}

// Status is what a driver knows about an [Op] after it was tried.
type Status uint8

const (
	// Done: the device confirmed it.
	Done Status = iota
	// Refused: it certainly had no effect. Code and Text say why.
	Refused
	// Unknown: it may have had its effect or not, or may still have it: a lost
	// answer, a time-out. Only a read-back tells. Code and Text say what happened.
	Unknown
)

// String returns the word for s.
func (s Status) String() string { return [...]string{"done", "refused", "unknown"}[s] }

// Codes that every driver uses for the same thing. Further ones are a driver's own.
const (
	CodeFull    = "E_TABLE_FULL"    // Refused: no room for one more entry
	CodeMask    = "E_MASKS_FULL"    // Refused: no room for one more distinct mask
	CodeExists  = "E_ENTRY_EXISTS"  // Refused: an entry with this ID is there
	CodeMissing = "E_ENTRY_MISSING" // Refused: no entry has this ID
	CodeDevice  = "E_DEVICE"        // Refused: for a reason only Text has
	CodeTimeout = "E_DEVICE_SILENT" // Unknown: the device's answer did not come
)

// Outcome is what became of one [Op].
type Outcome struct {
	Status Status
	Code   string // stable, E_…; empty iff Status is Done
	Text   string // the driver's or device's own words; empty iff Status is Done
	// Final is what the entry had counted when it went; valid iff a Remove is
	// Done. Nothing is counted after it, so per-rule sums stay exact.
	Final flow.Counter
}

// Count is the counter of one installed entry.
type Count struct {
	Entry flow.EntryID
	flow.Counter
}

// mark is the upper 16 bits of the ID of every entry that bladeflow puts into a
// device: how it knows its own.
const (
	mark     flow.EntryID = 0xb1ad << 48
	markMask flow.EntryID = 0xffff << 48
)

// Ours reports whether an entry was put in by bladeflow. Every other entry is
// foreign: it takes room and part in the proof, and is never touched.
func Ours(id flow.EntryID) bool { return id&markMask == mark }
