package store

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
)

// Memory is a store inside this process that behaves as etcd does: revisions,
// history and its compaction, leases that run out, watches that catch up. It has no
// rights and no size limit of its own. Its clock is package time's, so a test in a
// synctest bubble decides when leases run out.
type Memory struct {
	mu        sync.Mutex // guards all that follows
	keys      map[Key]KV
	revision  int64
	compacted int64         // batches before this revision are gone
	history   []Batch       // one per revision, from compacted on
	changed   chan struct{} // closed and replaced by every revision and by Close
	leases    map[LeaseID]*memoryLease
	lastLease LeaseID
	closed    bool
}

type memoryLease struct {
	lost func() // closes the lease's channel, once
	keys map[Key]bool
}

var _ Store = (*Memory)(nil)

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{keys: map[Key]KV{}, revision: 1, changed: make(chan struct{}), leases: map[LeaseID]*memoryLease{}}
}

// Close ends all watches and makes every later call fail.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil
	}
	m.closed = true
	close(m.changed)
	for id, l := range m.leases {
		l.lost()
		delete(m.leases, id)
	}
	return nil
}

// enter takes the lock if the call may go on.
func (m *Memory) enter(ctx context.Context, what string) error {
	if err := ctx.Err(); err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			return unreachable(what, err)
		}
		return err
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return closed(what)
	}
	return nil
}

// Read implements Store.
func (m *Memory) Read(ctx context.Context, key Key) (KV, error) {
	if err := m.enter(ctx, string(key)); err != nil {
		return KV{}, err
	}
	defer m.mu.Unlock()
	kv, ok := m.keys[key]
	if !ok {
		return KV{}, notFound(key)
	}
	return kv.clone(), nil
}

// List implements Store.
func (m *Memory) List(ctx context.Context, prefix Prefix) ([]KV, int64, error) {
	if err := m.enter(ctx, string(prefix)); err != nil {
		return nil, 0, err
	}
	defer m.mu.Unlock()
	var list []KV
	for key, kv := range m.keys {
		if key.Under(prefix) {
			list = append(list, kv.clone())
		}
	}
	slices.SortFunc(list, func(a, b KV) int { return strings.Compare(string(a.Key), string(b.Key)) })
	return list, m.revision, nil
}

// clone keeps the caller's bytes apart from the store's.
func (kv KV) clone() KV {
	kv.Value = bytes.Clone(kv.Value)
	return kv
}

// Txn implements Store.
func (m *Memory) Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error) {
	if err := checkTxn(compares, ops); err != nil {
		return 0, err
	}
	if err := m.enter(ctx, "a transaction"); err != nil {
		return 0, err
	}
	defer m.mu.Unlock()
	for _, c := range compares {
		if now := m.keys[c.Key]; !c.holds(now) {
			return 0, conflict(c, now)
		}
	}
	for _, o := range ops {
		if o.lease != 0 && m.leases[o.lease] == nil {
			return 0, leaseGone(o.key)
		}
	}
	m.commit(ops)
	return m.revision, nil
}

// commit does the ops as one revision, if they change anything. The lock is held.
func (m *Memory) commit(ops []Op) {
	next := m.revision + 1
	var events []Event
	for _, o := range ops {
		if o.kind == opPut {
			events = append(events, Event{KV: m.put(o, next)})
			continue
		}
		var gone []Event
		for key, kv := range m.keys {
			if o.covers(key) {
				m.detach(kv)
				delete(m.keys, key)
				gone = append(gone, Event{KV: KV{Key: key, Modified: next}, Deleted: true})
			}
		}
		slices.SortFunc(gone, func(a, b Event) int { return strings.Compare(string(a.Key), string(b.Key)) })
		events = append(events, gone...)
	}
	if len(events) == 0 {
		return
	}
	m.revision = next
	m.history = append(m.history, Batch{Revision: next, Events: events})
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *Memory) put(o Op, revision int64) KV {
	old, existed := m.keys[o.key]
	kv := KV{Key: o.key, Value: bytes.Clone(o.value), Created: revision, Modified: revision, Lease: o.lease}
	if existed {
		kv.Created = old.Created
		m.detach(old)
	}
	if o.lease != 0 {
		m.leases[o.lease].keys[o.key] = true
	}
	m.keys[o.key] = kv
	return kv
}

// detach takes a key off its lease.
func (m *Memory) detach(kv KV) {
	if l := m.leases[kv.Lease]; l != nil {
		delete(l.keys, kv.Key)
	}
}

// Compact forgets the history before revision.
func (m *Memory) Compact(ctx context.Context, revision int64) error {
	if err := m.enter(ctx, "compaction"); err != nil {
		return err
	}
	defer m.mu.Unlock()
	if revision <= m.compacted || revision > m.revision {
		return compacted(Everything, revision, "only revisions later than the last compaction and not in the future can be compacted")
	}
	m.compacted = revision
	m.history = slices.DeleteFunc(m.history, func(b Batch) bool { return b.Revision < revision })
	return nil
}

// Watch implements Store.
func (m *Memory) Watch(ctx context.Context, prefix Prefix, after int64) <-chan Batch {
	out := make(chan Batch)
	go func() {
		defer close(out)
		first := true
		for {
			batch, changed := m.since(prefix, after, first)
			first = false
			if batch.Err != nil || len(batch.Events) > 0 {
				select {
				case out <- batch:
				case <-ctx.Done():
					return
				}
				if batch.Err != nil {
					return
				}
			}
			after = max(after, batch.Revision)
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// since returns what happened under prefix after a revision, and a channel that is
// closed when there may be more.
func (m *Memory) since(prefix Prefix, after int64, first bool) (Batch, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.closed:
		return Batch{Err: closed(string(prefix))}, nil
	case first && after > m.revision:
		return Batch{Err: compacted(prefix, after, storeIsOlder)}, nil
	case after+1 < m.compacted:
		return Batch{Err: compacted(prefix, after, historyGone)}, nil
	}
	b := Batch{Revision: m.revision}
	from := sort.Search(len(m.history), func(i int) bool { return m.history[i].Revision > after })
	for _, old := range m.history[from:] {
		for _, e := range old.Events {
			if e.Key.Under(prefix) {
				e.KV = e.clone()
				b.Events = append(b.Events, e)
			}
		}
	}
	return b, m.changed
}

// Lease implements Store.
func (m *Memory) Lease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	if err := m.enter(ctx, "a lease"); err != nil {
		return nil, err
	}
	defer m.mu.Unlock()
	lost := make(chan struct{})
	m.lastLease++
	id := m.lastLease
	m.leases[id] = &memoryLease{lost: sync.OnceFunc(func() { close(lost) }), keys: map[Key]bool{}}
	ttl = time.Duration(seconds(ttl)) * time.Second
	context.AfterFunc(ctx, func() {
		m.mu.Lock()
		if l := m.leases[id]; l != nil {
			l.lost()
		}
		m.mu.Unlock()
		time.AfterFunc(ttl, func() { m.expire(id) })
	})
	return &Lease{ID: id, TTL: ttl, lost: lost, revoke: func(ctx context.Context) error {
		if err := m.enter(ctx, "a lease"); err != nil {
			return err
		}
		m.mu.Unlock()
		m.expire(id)
		return nil
	}}, nil
}

// expire ends a lease and deletes its keys in one revision; it may be gone already.
func (m *Memory) expire(id LeaseID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.leases[id]
	if l == nil {
		return
	}
	var ops []Op
	for key := range l.keys {
		ops = append(ops, Delete(key))
	}
	slices.SortFunc(ops, func(a, b Op) int { return strings.Compare(string(a.key), string(b.key)) })
	m.commit(ops)
	delete(m.leases, id)
	l.lost()
}
