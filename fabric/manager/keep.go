package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// What is kept of the past, and how the store is kept small. The leader does all of it,
// now and then:
//
//   - It forgets changes beyond a number and an age, the oldest first. Before, it writes
//     down the state that each snapshot means and that history will not tell any more:
//     snapshots stay. A state that no snapshot means any more goes.
//   - It sweeps chunks that nothing refers to: of changes that were never committed, and
//     of history that is forgotten. It deletes on the condition that no change was made
//     since it looked, and that nobody is putting chunks now (commit.go, the turn), so a
//     chunk that somebody is about to refer to is never taken.
//   - It compacts an etcd cluster that does not compact itself.

// Keep says how much history is kept. Zero is a default.
type Keep struct {
	Changes int `yaml:"changes"` // 10,000
	Days    int `yaml:"days"`    // 365
}

func (k Keep) changes() int64     { return int64(cmp.Or(k.Changes, 10_000)) }
func (k Keep) age() time.Duration { return time.Duration(cmp.Or(k.Days, 365)) * 24 * time.Hour }
func (k Keep) negative() bool     { return k.Changes < 0 || k.Days < 0 }

// tidyEvery is how often a leader tidies up, and how much of the store's own past stays
// for watches when it compacts.
const tidyEvery = time.Hour

// tidy forgets, sweeps and compacts. It ends early, without an error, when changes come
// between: it is done again.
func (l *leader) tidy(ctx context.Context) error {
	var cursor int64
	var err error
	for _, step := range []func(context.Context, *view) (int64, error){l.forgetChanges, l.forgetStates, l.sweepChunks} {
		v, e := l.view(ctx, cursor) // with what the step before did
		if e != nil || v.trouble != nil || v.pending {
			return cmp.Or(e, v.trouble)
		}
		if cursor, err = step(ctx, v); err != nil {
			break
		}
	}
	if err == nil && l.config.Compact != nil {
		before := l.compactAt
		l.compactAt = l.latest().cursor
		if before > 0 {
			err = l.config.Compact(ctx, before)
		}
	}
	if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrCompacted) {
		return nil
	}
	return err
}

// unless is the condition that nothing was changed after v.
func (l *leader) unless(v *view) []store.Compare {
	return []store.Compare{l.fence, store.Absent(store.History(uint64(v.revision + 1)))}
}

// inBatches does ops, some at a time, and returns the store's revision after them.
func (l *leader) inBatches(ctx context.Context, conditions []store.Compare, ops []store.Op) (cursor int64, err error) {
	for _, batch := range store.Batches(ops) {
		if cursor, err = l.store.Txn(ctx, conditions, batch); err != nil {
			return 0, err
		}
	}
	return cursor, nil
}

// forgetChanges deletes history that is too old or too much.
func (l *leader) forgetChanges(ctx context.Context, v *view) (int64, error) {
	first := v.revision - l.config.Keep.changes() + 1 // the first to stay
	for _, e := range v.events {
		if e.Metadata.Revision >= first && l.now().Sub(e.Spec.At) <= l.config.Keep.age() {
			break
		}
		first = max(first, e.Metadata.Revision+1)
	}
	if first <= v.oldest || v.oldest == 0 {
		return 0, nil
	}
	for _, s := range v.snapshots(filter{}) {
		if r := s.Spec.Revision; r < first-1 && v.reaches(r) == nil && !v.states[r] {
			if err := l.keepState(ctx, v, r); err != nil {
				return 0, err
			}
		}
	}
	var ops []store.Op
	for n := v.oldest; n < first; n++ {
		ops = append(ops, store.Delete(store.History(uint64(n))))
	}
	l.log.Info("forgetting history", "before", first, "changes", len(ops))
	return l.inBatches(ctx, l.unless(v), ops)
}

// keepState writes down what was wanted after a change.
func (l *leader) keepState(ctx context.Context, v *view, revision int64) error {
	values, err := l.valuesAt(ctx, v, revision)
	if err != nil {
		return err
	}
	s := api.State{Head: api.NewHead("State", fmt.Sprint(revision)), Spec: api.StateSpec{Objects: []api.Touched{}, Values: []json.RawMessage{}}}
	for _, o := range slices.SortedFunc(maps.Keys(values), func(a, b wantedID) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Tenant, b.Tenant), strings.Compare(a.Name, b.Name))
	}) {
		s.Spec.Objects = append(s.Spec.Objects, api.Touched{Kind: o.Kind, Tenant: o.Tenant, Name: o.Name, How: "kept"})
		s.Spec.Values = append(s.Spec.Values, values[o])
	}
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	packed := store.Pack(text)
	return l.withTurn(ctx, func(turn store.Compare) error {
		for _, batch := range store.Batches(putChunks(packed.Chunks)) {
			if _, err := l.store.Txn(ctx, []store.Compare{turn, l.fence}, batch); err != nil {
				return err
			}
		}
		_, err := l.store.Txn(ctx, append(l.unless(v), turn), []store.Op{store.Put(store.State(uint64(revision)), packed.Value)})
		return err
	})
}

// forgetStates deletes states that no snapshot means.
func (l *leader) forgetStates(ctx context.Context, v *view) (int64, error) {
	meant := map[int64]bool{}
	for _, s := range v.snapshots(filter{}) {
		meant[s.Spec.Revision] = true
	}
	var ops []store.Op
	for revision := range v.states {
		if !meant[revision] {
			ops = append(ops, store.Delete(store.State(uint64(revision))))
		}
	}
	return l.inBatches(ctx, l.unless(v), ops)
}

// sweepChunks deletes chunks that nothing refers to.
func (l *leader) sweepChunks(ctx context.Context, v *view) (int64, error) {
	chunks, _, err := l.store.List(ctx, store.AllChunks)
	if err != nil || len(chunks) == 0 {
		return 0, err
	}
	used, err := l.referred(ctx, v)
	if err != nil {
		return 0, err
	}
	var ops []store.Op
	for _, kv := range chunks {
		if sum, ok := kv.Key.ChunkOf(); ok && !used[sum] {
			ops = append(ops, store.Delete(kv.Key))
		}
	}
	if len(ops) > 0 {
		l.log.Info("sweeping chunks", "chunks", len(ops), "of", len(chunks))
	}
	return l.inBatches(ctx, append(l.unless(v), store.Absent(store.WritingKey)), ops)
}

// referred returns every chunk that objects, history and states refer to.
func (l *leader) referred(ctx context.Context, v *view) (map[store.Sum]bool, error) {
	used := map[store.Sum]bool{}
	mark := func(value []byte) error {
		sums, err := store.Refers(value)
		for _, sum := range sums {
			used[sum] = true
		}
		return err
	}
	for _, d := range v.docs {
		if err := mark(d.packed.Value); err != nil {
			return nil, err
		}
	}
	for n := max(v.oldest, 1); n <= v.revision; n++ {
		kv, err := l.store.Read(ctx, store.History(uint64(n)))
		if err != nil {
			return nil, err
		}
		if err := mark(kv.Value); err != nil {
			return nil, err
		}
		h, err := decodeHistory(kv.Value, l.chunk(ctx))
		if err != nil {
			return nil, err
		}
		for _, list := range [][]json.RawMessage{h.Spec.Before, h.Spec.After} {
			for _, value := range list {
				if err := mark(value); err != nil {
					return nil, err
				}
			}
		}
	}
	for revision := range v.states {
		kv, err := l.store.Read(ctx, store.State(uint64(revision)))
		if err != nil {
			return nil, err
		}
		if err := mark(kv.Value); err != nil {
			return nil, err
		}
		s, err := l.stateAt(ctx, revision)
		if err != nil {
			return nil, err
		}
		for _, value := range s.Spec.Values {
			if err := mark(value); err != nil {
				return nil, err
			}
		}
	}
	return used, nil
}
