// Package offloadtest is for testing what is built on package offload, and
// drivers: [NIC] is a device in memory that behaves as a [device.Model] says, in
// good and in bad ways, and [Run] is the suite every driver must pass, NIC first.
//
// NIC decides nothing about packets by itself: it says which entries may answer a
// key, straight from the definition of an entry, by linear search. It is no
// performance model.
package offloadtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Effect is what becomes of one operation.
type Effect uint8

// What can go wrong with an operation, and with the device.
const (
	Works     Effect = iota // as the model says
	Refuses                 // refused, without reason
	LostReply               // it has its effect, the outcome is unknown
	LostOp                  // it has no effect, the outcome is unknown
	Lies                    // it has no effect and is said to be done
	Resets                  // the device loses all entries and is silent until it is read back
	Dies                    // as LostOp, and so is all that follows, until Revive
)

// NIC is a device in memory. Its methods may be called from several goroutines.
type NIC struct {
	// Fault says what becomes of the n-th operation ever applied, from 0. Nil means
	// that everything works. Set it before use.
	Fault func(n int, op *offload.Op) Effect
	// After is called after each operation, and may look at the device. Set it before
	// use.
	After func(n int, op *offload.Op)
	// Stale makes Counters repeat what it said last. Set it between uses.
	Stale bool

	mu      sync.Mutex // guards what follows
	model   device.Model
	entries []line
	ids     []flow.EntryID // of entries, to find one fast
	stale   []offload.Count
	ops     int
	dead    bool
	resets  bool
}

type line struct {
	flow.Entry
	count flow.Counter
}

var _ offload.Driver = (*NIC)(nil)

// New returns an empty device of the given model.
func New(m device.Model) *NIC { return &NIC{model: m} }

var errDead = errors.New("fake NIC: no answer")

// Model returns the model given to New.
func (n *NIC) Model(context.Context) (device.Model, error) { return n.model, nil }

// Installed returns all entries, in the order they were added.
func (n *NIC) Installed(context.Context) ([]flow.Entry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return nil, errDead
	}
	n.resets = false
	return n.held(), nil
}

func (n *NIC) held() []flow.Entry {
	out := make([]flow.Entry, len(n.entries))
	for i := range n.entries {
		out[i] = n.entries[i].Entry
		out[i].Actions = slices.Clone(out[i].Actions)
	}
	return out
}

// Apply carries out ops, each with the effect Fault gives it.
func (n *NIC) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := make([]offload.Outcome, len(ops))
	for i := range ops {
		out[i] = n.apply(ctx, &ops[i])
	}
	return out
}

func (n *NIC) apply(ctx context.Context, op *offload.Op) offload.Outcome {
	n.mu.Lock()
	at := n.ops
	n.ops++
	effect := Works
	if n.Fault != nil {
		effect = n.Fault(at, op)
	}
	if effect == Dies {
		n.dead = true
	}
	out := n.carryOut(ctx, op, effect)
	n.mu.Unlock()
	if n.After != nil {
		n.After(at, op)
	}
	return out
}

func (n *NIC) carryOut(ctx context.Context, op *offload.Op, effect Effect) offload.Outcome {
	unknown := offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: errDead.Error()}
	switch {
	case n.dead || n.resets || ctx.Err() != nil || effect == LostOp:
		return unknown
	case effect == Refuses:
		return refuse(offload.CodeDevice, "injected")
	case effect == Lies:
		return offload.Outcome{}
	case effect == Resets:
		n.entries, n.ids, n.resets = nil, nil, true
		return unknown
	}
	var out offload.Outcome
	if op.Kind == offload.Add {
		out = n.add(&op.Entry)
	} else {
		out = n.remove(op.Entry.ID)
	}
	if effect == LostReply {
		return unknown
	}
	return out
}

func refuse(code, text string) offload.Outcome {
	return offload.Outcome{Status: offload.Refused, Code: code, Text: "fake NIC: " + text}
}

func (n *NIC) find(id flow.EntryID) int {
	return slices.Index(n.ids, id)
}

func (n *NIC) add(e *flow.Entry) offload.Outcome {
	if n.find(e.ID) >= 0 {
		return refuse(offload.CodeExists, fmt.Sprintf("entry %016x is there already", uint64(e.ID)))
	}
	if err := n.model.Admit(&e.Match, e.Actions, e.Kind); err != nil {
		r := err.(*device.Refusal)
		return refuse(r.Code, r.Error())
	}
	m := &n.model
	masks, priorities, counted := map[device.Mask]bool{device.MaskOf(&e.Match): true}, map[uint64]bool{e.Priority: true}, 0
	if m.Masks > 0 || m.Priorities > 0 || m.Counted > 0 { // counting them takes most of the time of a large device
		set := m.MaskSet(&e.Match)
		for i := range n.entries {
			o := &n.entries[i].Entry
			if m.MaskSet(&o.Match) == set {
				masks[device.MaskOf(&o.Match)] = true
			}
			priorities[o.Priority] = true
			if !o.Punt() {
				counted++
			}
		}
	}
	switch {
	case m.Entries > 0 && len(n.entries) >= m.Entries:
		return refuse(offload.CodeFull, fmt.Sprintf("all %d entries are in use", m.Entries))
	case m.Masks > 0 && len(masks) > m.Masks:
		return refuse(offload.CodeMask, fmt.Sprintf("all %d masks are in use", m.Masks))
	case m.Priorities > 0 && len(priorities) > m.Priorities:
		return refuse("E_PRIORITIES_FULL", fmt.Sprintf("all %d priorities are in use", m.Priorities))
	case m.Counted > 0 && !e.Punt() && counted >= m.Counted:
		return refuse("E_COUNTERS_FULL", fmt.Sprintf("all %d counters are in use", m.Counted))
	}
	held := *e
	held.Actions = slices.Clone(e.Actions)
	n.entries, n.ids = append(n.entries, line{Entry: held}), append(n.ids, held.ID)
	return offload.Outcome{}
}

func (n *NIC) remove(id flow.EntryID) offload.Outcome {
	i := n.find(id)
	if i < 0 {
		return refuse(offload.CodeMissing, fmt.Sprintf("no entry %016x", uint64(id)))
	}
	final := n.entries[i].count
	n.entries, n.ids = slices.Delete(n.entries, i, i+1), slices.Delete(n.ids, i, i+1)
	return offload.Outcome{Final: final}
}

// Barrier returns at once: every operation takes effect before it is answered.
func (n *NIC) Barrier(context.Context) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return errDead
	}
	return nil
}

// Counters returns what every entry has counted.
func (n *NIC) Counters(context.Context) ([]offload.Count, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.dead {
		return nil, errDead
	}
	if n.Stale {
		return slices.Clone(n.stale), nil
	}
	n.stale = nil
	for i := range n.entries {
		n.stale = append(n.stale, offload.Count{Entry: n.entries[i].ID, Counter: n.entries[i].count})
	}
	return slices.Clone(n.stale), nil
}

// Answers returns the entries that may answer a packet of key k: none if the
// device misses it, several if it is free to choose.
func (n *NIC) Answers(k *flow.Key) []flow.Entry {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []flow.Entry
	for _, i := range n.answers(k) {
		out = append(out, n.entries[i].Entry)
	}
	return out
}

func (n *NIC) answers(k *flow.Key) []int {
	for i := range n.model.Missed {
		if n.model.Missed[i].Matches(k) {
			return nil
		}
	}
	var out []int
	for i := range n.entries {
		e := &n.entries[i]
		if !e.Match.Matches(k) {
			continue
		}
		if n.model.Order == device.Honoured && len(out) > 0 {
			if best := n.entries[out[0]].Priority; e.Priority < best {
				continue
			} else if e.Priority > best {
				out = out[:0]
			}
		}
		out = append(out, i)
	}
	return out
}

// Receive lets the device handle a frame of key k and of this many bytes, and
// returns the entry that answered; ok is false for a miss. Where it is free to
// choose, the entry that was added last answers.
func (n *NIC) Receive(k *flow.Key, bytes int) (e flow.Entry, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	may := n.answers(k)
	if len(may) == 0 {
		return flow.Entry{}, false
	}
	l := &n.entries[may[len(may)-1]]
	l.count.Packets++
	l.count.Bytes += uint64(bytes)
	return l.Entry, true
}

// Put puts an entry in behind everybody's back, or in place of the one with its ID:
// what another program, or a fault of the device, would do.
func (n *NIC) Put(e flow.Entry) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if i := n.find(e.ID); i >= 0 {
		n.entries[i].Entry = e
		return
	}
	n.entries, n.ids = append(n.entries, line{Entry: e}), append(n.ids, e.ID)
}

// Take takes an entry out behind everybody's back.
func (n *NIC) Take(id flow.EntryID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.remove(id)
}

// Revive ends what Dies began. The entries are still there.
func (n *NIC) Revive() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead = false
}

// Ops returns how many operations were applied so far.
func (n *NIC) Ops() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ops
}
