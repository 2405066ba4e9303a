package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Problem. A transaction takes 128 steps and one megabyte, so that any etcd cluster takes
// it; a change may be a whole fabric: 2,000 profiles with their rule sets and places, 15
// megabytes. It must be seen as a whole or not at all, by every manager, whoever dies in
// the middle; and values must not be written twice that are there already.
//
// Idea. Most changes fit: objects and history record are one transaction. One that does
// not is made in four steps:
//
//  1. Take the turn: WritingKey, on a lease. One at a time makes large changes.
//  2. Put the history record in chunks (package store, chunks.go). It says what each
//     object is before and after. Nothing refers to the chunks yet.
//  3. Commit, in one small transaction: the reference to the record at History(n), and n
//     at PendingKey. From this revision on the change is made.
//  4. Finish: put the objects in their places, a transaction's worth at a time, and
//     delete PendingKey with the last. Whoever sees PendingKey may do it, in any number.
//
// A reader takes the objects of a pending change out of its record the moment it is
// committed, and what is then put in the places is no news. One that begins in the middle
// reads the places and lays the record of PendingKey over them. Every change demands that
// nothing is pending, so places are never put back to an older object.
//
// A crash in 1 or 2 leaves chunks that nothing refers to: keep.go sweeps them. A crash in
// 4 leaves a pending change: the leader finishes it, or the next who changes something.
//
// Invariant. At every revision of the store the places, under the pending record if there
// is one, are the state after the last history record.

// commit is a change that was decided on.
type commit struct {
	number int64
	event  api.EventSpec
	before []json.RawMessage // of the event's changes, as stored; nil for none
	after  []json.RawMessage // as they shall be stored
	chunks map[store.Sum][]byte
	fence  []store.Compare
}

// add adds one object, as it was and as it shall be. Chunks that the object had before are
// there, since history refers to them.
func (c *commit) add(t api.Touched, was, next *doc) error {
	c.event.Changes = append(c.event.Changes, t)
	var before, after json.RawMessage
	if next != nil {
		after = next.packed.Value
		maps.Copy(c.chunks, next.packed.Chunks)
		next.packed.Chunks = nil
	}
	if was != nil {
		before = was.packed.Value
		there, err := store.Refers(before)
		if err != nil {
			return err
		}
		for _, sum := range there {
			delete(c.chunks, sum)
		}
	}
	c.before, c.after = append(c.before, before), append(c.after, after)
	return nil
}

// turnTime is how long a manager that died may keep others from large changes.
const turnTime = 5 * time.Second

// record is the history record; whole says that it tells the objects after the change.
func (c *commit) record(whole bool) (store.Packed, error) {
	h := api.History{Head: api.NewHead("History", fmt.Sprint(c.number)), Spec: api.HistorySpec{EventSpec: c.event, Before: c.before}}
	h.Metadata.Revision = c.number
	if whole {
		h.Spec.After = c.after
	}
	text, err := json.Marshal(h)
	return store.Pack(text), err
}

// places are the steps that put the objects of a change where they belong.
func places(changes []api.Touched, after []json.RawMessage) []store.Op {
	var ops []store.Op
	for i, t := range changes {
		key := store.Wanted(t.Kind, t.Tenant, t.Name)
		if after[i] == nil {
			ops = append(ops, store.Delete(key))
		} else {
			ops = append(ops, store.Put(key, after[i]))
		}
	}
	return ops
}

func putChunks(chunks map[store.Sum][]byte) []store.Op {
	var ops []store.Op
	for sum, chunk := range chunks {
		ops = append(ops, store.Put(store.Chunk(sum), chunk))
	}
	return ops
}

// commit makes the change and returns the store's revision that has it. ErrConflict says
// that another change was made, or is pending.
func (m *Manager) commit(ctx context.Context, c *commit) (int64, error) {
	conditions := append([]store.Compare{store.Absent(store.History(uint64(c.number))), store.Absent(store.PendingKey)}, c.fence...)
	record, err := c.record(false)
	if err != nil {
		return 0, err
	}
	ops := append(putChunks(c.chunks), putChunks(record.Chunks)...)
	ops = append(ops, places(c.event.Changes, c.after)...)
	ops = append(ops, store.Put(store.History(uint64(c.number)), record.Value))
	if batches := store.Batches(ops); len(batches) == 1 {
		return m.store.Txn(ctx, conditions, ops)
	}
	if record, err = c.record(true); err != nil {
		return 0, err
	}
	var cursor int64
	err = m.withTurn(ctx, func(turn store.Compare) error {
		for _, batch := range store.Batches(append(putChunks(c.chunks), putChunks(record.Chunks)...)) {
			if _, err := m.store.Txn(ctx, []store.Compare{turn}, batch); err != nil {
				return err
			}
		}
		cursor, err = m.store.Txn(ctx, append(conditions, turn), []store.Op{
			store.Put(store.History(uint64(c.number)), record.Value),
			store.Put(store.PendingKey, strconv.AppendInt(nil, c.number, 10)),
		})
		return err
	})
	if err != nil {
		return 0, err
	}
	if err := m.finish(ctx); err != nil {
		m.log.Warn("a change is made, and not finished yet", "revision", c.number, "error", err)
	}
	return cursor, nil
}

// withTurn does what puts chunks that nothing refers to yet, when it is our turn. The
// condition holds as long as it is.
func (m *Manager) withTurn(ctx context.Context, do func(store.Compare) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease, err := m.store.Lease(ctx, turnTime)
	if err != nil {
		return err
	}
	defer func() {
		stopping, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer stop()
		_ = lease.Revoke(stopping) // else it runs out
	}()
	for deadline := time.Now().Add(2 * turnTime); ; pause(ctx, 20*time.Millisecond) {
		at, err := m.store.Txn(ctx, []store.Compare{store.Absent(store.WritingKey)}, []store.Op{store.PutLeased(store.WritingKey, []byte(m.config.Name), lease)})
		if err == nil {
			return do(store.CreatedAt(store.WritingKey, at))
		}
		if !errors.Is(err, store.ErrConflict) || time.Now().After(deadline) || ctx.Err() != nil {
			return err
		}
	}
}

// finish puts the objects of a pending change in their places. It may be done by several
// at once, and ends well if there is nothing to do.
func (m *Manager) finish(ctx context.Context) error {
	pending, err := m.store.Read(ctx, store.PendingKey)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(string(pending.Value), 10, 63)
	if err != nil {
		return &flow.Fault{Code: "E_STORED", What: string(store.PendingKey), Why: err.Error(), Remedy: "restore a backup", Err: err}
	}
	h, err := m.recorded(ctx, number)
	if err != nil {
		return err
	}
	for _, batch := range store.Batches(append(places(h.Spec.Changes, h.Spec.After), store.Delete(store.PendingKey))) {
		_, err := m.store.Txn(ctx, []store.Compare{store.Unchanged(pending)}, batch)
		if errors.Is(err, store.ErrConflict) {
			return nil // somebody else has finished it
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// recorded reads one history record.
func (m *Manager) recorded(ctx context.Context, number uint64) (*api.History, error) {
	kv, err := m.store.Read(ctx, store.History(number))
	if err != nil {
		return nil, err
	}
	return decodeHistory(kv.Value, m.chunk(ctx))
}

// chunk reads chunks from the store.
func (m *Manager) chunk(ctx context.Context) func(store.Sum) ([]byte, error) {
	return func(sum store.Sum) ([]byte, error) {
		kv, err := m.store.Read(ctx, store.Chunk(sum))
		return kv.Value, err
	}
}

// decodeHistory decodes a history record as it is stored. What was or is not there
// becomes nil.
func decodeHistory(value []byte, chunk func(store.Sum) ([]byte, error)) (*api.History, error) {
	text, err := store.Unpack(value, chunk)
	if err != nil {
		return nil, err
	}
	h := &api.History{}
	if err := json.Unmarshal(text, h); err != nil {
		return nil, fmt.Errorf("history record: %w", err)
	}
	s := &h.Spec
	if len(s.Before) != len(s.Changes) || s.After != nil && len(s.After) != len(s.Changes) {
		return nil, fmt.Errorf("history record %s: %d changes, %d objects before and %d after", h.Metadata.Name, len(s.Changes), len(s.Before), len(s.After))
	}
	for _, list := range [][]json.RawMessage{s.Before, s.After} {
		for i := range list {
			if string(list[i]) == "null" {
				list[i] = nil
			}
		}
	}
	return h, nil
}
