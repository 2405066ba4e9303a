package flow

// EntryID is the cookie under which one entry sits in a device.
type EntryID uint64

// EntryKind says why an entry is in a device.
type EntryKind uint8

const (
	// RuleEntry is a rule put into hardware whole. It may need guards above it.
	RuleEntry EntryKind = iota
	// GuardEntry punts packets that must be asked in software although a rule
	// below it is in hardware.
	GuardEntry
	// PieceEntry is a box in which the table's answer is one rule's. It needs no
	// guards, no priority and no order.
	PieceEntry
)

// String returns the contract's word for k.
func (k EntryKind) String() string { return [...]string{"rule", "guard", "piece"}[k] }

// Entry is one line of a device's match table, as it is put in and as it is read
// back. Higher Priority is asked first where the device honours priority.
type Entry struct {
	ID       EntryID
	Kind     EntryKind
	Rule     RuleID // whose packets it answers; for a guard, the rule it protects
	Priority uint64
	Match    Match
	Actions  Actions // empty for a guard, which punts
}

// Punt reports whether the entry sends its packets to software unchanged.
func (e *Entry) Punt() bool { return e.Kind == GuardEntry }

// Equal reports whether two entries are the same in every respect.
func (e *Entry) Equal(o *Entry) bool {
	return e.ID == o.ID && e.Kind == o.Kind && e.Rule == o.Rule && e.Priority == o.Priority &&
		e.Match == o.Match && e.Actions.Equal(o.Actions)
}

// Counter is what a rule or an entry has seen: frames as they came in, before any action.
type Counter struct{ Packets, Bytes uint64 }
