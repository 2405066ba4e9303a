package manager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// view is what a manager knows: the store at one revision, decoded. It is never
// changed once it is published.
type view struct {
	cursor   int64 // the store's revision
	revision int64 // number of the last change of what is wanted

	docs   map[docID]*doc
	spec   fabric.Spec
	wanted int64 // cursor at which docs last changed

	blades  map[fabric.BladeID]*report
	orders  map[fabric.BladeID]*published
	events  []*api.Event // the newest, oldest first
	trouble error        // what in the store cannot be understood; then nothing is compiled or changed

	pending bool                 // the objects of the last change are not all in their places yet
	oldest  int64                // number of the first change that history has; 0 if it has none
	states  map[int64]bool       // changes whose state is kept without history; replaced, never changed
	stock   func() *fabric.Stock // what is free, worked out when it is asked for
}

// published is a blade's record as it is in the store.
type published struct {
	kv     store.KV // without the value
	record api.Generation
	digest fabric.Digest
}

// snapshot returns what is seen, as the model has it.
func (v *view) snapshot(now time.Time) fabric.Snapshot {
	s := fabric.Snapshot{Blades: make(map[fabric.BladeID]fabric.Seen, len(v.blades))}
	for id, r := range v.blades {
		if r.inventory == nil || r.err != nil {
			continue
		}
		seen := r.seen
		if r.alive == nil {
			seen.Age = max(now.Sub(r.silent), fabric.Silence+time.Second)
		}
		s.Blades[id] = seen
	}
	return s
}

func (v *view) doc(kind, name string) *doc { return v.docs[docID{kind, name}] }

// of returns the documents of a kind by name.
func (v *view) of(kind string) []*doc {
	var out []*doc
	for id, d := range v.docs {
		if id.Kind == kind {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b *doc) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// follower turns the store's events into views.
type follower struct {
	now    func() time.Time
	read   func(store.Sum) ([]byte, error) // a chunk, from the store
	made   func(docID) *doc                // what this manager's last change made of an object, or nil
	chunks map[store.Sum][]byte            // that came by since the last change
	v      view
	docs   map[docID]*doc
	bad    map[store.Key]error // wanted documents that cannot be understood
	blades map[fabric.BladeID]*report
	orders map[fabric.BladeID]*published
	events []*api.Event
}

func newFollower(now func() time.Time, read func(store.Sum) ([]byte, error)) *follower {
	return &follower{now: now, read: read, made: func(docID) *doc { return nil }, chunks: map[store.Sum][]byte{}, docs: map[docID]*doc{}, bad: map[store.Key]error{},
		blades: map[fabric.BladeID]*report{}, orders: map[fabric.BladeID]*published{}}
}

// load takes everything in that is there at a revision: the objects as they are in their
// places, and over them the change that is pending.
func (f *follower) load(all []store.KV, revision int64) error {
	var pending uint64
	var last *api.History
	var at int64
	for _, kv := range all {
		if sum, ok := kv.Key.ChunkOf(); ok {
			f.chunks[sum] = kv.Value
		} else if kv.Key == store.PendingKey {
			pending, _ = strconv.ParseUint(string(kv.Value), 10, 63) // finish says what is wrong with it
		}
	}
	for _, kv := range all {
		e := store.Event{KV: kv}
		if !kv.Key.Under(store.AllHistory) {
			if err := f.event(e); err != nil {
				return err
			}
			continue
		}
		h, err := f.happened(e)
		if err != nil {
			return err
		}
		if number, _ := kv.Key.Number(); h != nil && number == pending {
			last, at = h, kv.Modified
		}
	}
	if last != nil {
		if err := f.apply(last, at); err != nil {
			return err
		}
	}
	clear(f.chunks)
	f.v.cursor = revision
	return nil
}

// take takes events of one or more whole revisions in, the last of them revision. An
// error says that the store must be read anew.
func (f *follower) take(revision int64, events ...store.Event) error {
	for _, e := range events {
		if sum, ok := e.Key.ChunkOf(); ok && !e.Deleted {
			f.chunks[sum] = e.Value
		}
	}
	for _, e := range events {
		if !e.Key.Under(store.AllHistory) {
			if err := f.event(e); err != nil {
				return err
			}
			continue
		}
		h, err := f.happened(e)
		if err == nil && h != nil && h.Spec.After != nil {
			err = f.apply(h, e.Modified)
		}
		if err != nil {
			return err
		}
		defer clear(f.chunks) // the events behind it may need them still
	}
	f.v.cursor = revision
	return nil
}

// event takes one event in that is not of history.
func (f *follower) event(e store.Event) error {
	switch {
	case e.Key == store.PendingKey:
		f.v.pending = !e.Deleted
	case e.Key.Under(store.AllWanted):
		return f.wantedDoc(e)
	case e.Key.Under(store.AllStatus):
		f.reported(e)
	case e.Key.Under(store.AllBlades):
		f.publishedRecord(e)
	case e.Key.Under(store.AllStates):
		if n, ok := e.Key.Number(); ok {
			f.v.states = maps.Clone(f.v.states)
			if f.v.states == nil {
				f.v.states = map[int64]bool{}
			}
			if f.v.states[int64(n)] = true; e.Deleted {
				delete(f.v.states, int64(n))
			}
		}
	}
	return nil
}

// chunk returns a chunk that came by, or the store's.
func (f *follower) chunk(sum store.Sum) ([]byte, error) {
	if p := f.chunks[sum]; p != nil {
		return p, nil
	}
	return f.read(sum)
}

func (f *follower) wantedDoc(e store.Event) error {
	kind, tenant, name, ok := e.Key.WantedName()
	if !ok {
		return nil
	}
	if e.Deleted {
		return f.object(e.Key, docID{kind, name}, tenant, nil, e.Modified)
	}
	return f.object(e.Key, docID{kind, name}, tenant, e.Value, e.Modified)
}

// fleeting reports whether an error is the store's, or of a chunk that is gone: then what
// needed it is gone, too, and reading everything shows it.
func fleeting(err error) bool {
	return errors.Is(err, store.ErrUnreachable) || errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrClosed) || errors.Is(err, context.Canceled)
}

// apply takes over the objects of a change from its record.
func (f *follower) apply(h *api.History, modified int64) error {
	for i, t := range h.Spec.Changes {
		if err := f.object(store.Wanted(t.Kind, t.Tenant, t.Name), docID{t.Kind, t.Name}, t.Tenant, h.Spec.After[i], modified); err != nil {
			return err
		}
	}
	return nil
}

// object takes one object in, as it is stored; nil if it was deleted. What is known
// already is no news: the places of a change that was pending.
func (f *follower) object(key store.Key, id docID, tenant string, value []byte, modified int64) error {
	was := f.docs[id]
	if was != nil && was.head.Metadata.Tenant != tenant {
		if value == nil {
			return nil
		}
		was = nil
	}
	if was == nil && value == nil && f.bad[key] == nil || was != nil && value != nil && bytes.Equal(was.packed.Value, value) {
		return nil
	}
	f.v.wanted = max(f.v.wanted, modified)
	delete(f.bad, key)
	if value == nil {
		delete(f.docs, id)
		return nil
	}
	if d := f.made(id); d != nil && bytes.Equal(d.packed.Value, value) {
		f.docs[id] = d
		return nil
	}
	d, err := storedDoc(id.Kind, value, f.chunk)
	switch {
	case fleeting(err):
		return err
	case err != nil:
		f.bad[key] = err
	default:
		f.docs[id] = d
	}
	return nil
}

func (f *follower) publishedRecord(e store.Event) {
	name, ok := e.Key.Blade()
	if !ok || e.Key != store.Generation(name) {
		return // a shard: only its blade reads it
	}
	id := fabric.BladeID(name)
	if e.Deleted {
		delete(f.orders, id)
		return
	}
	p := &published{kv: e.KV}
	p.kv.Value = nil
	if json.Unmarshal(e.Value, &p.record) == nil {
		p.digest, _ = fabric.ParseDigest(p.record.Spec.Digest) // the zero digest is no content's: it is published anew
	}
	f.orders[id] = p
}

// happened takes one history record in and returns it; nil if there is nothing to know.
func (f *follower) happened(e store.Event) (*api.History, error) {
	number, ok := e.Key.Number()
	if !ok {
		return nil, nil
	}
	if e.Deleted { // from the oldest on
		f.v.oldest = max(f.v.oldest, int64(number)+1)
		for len(f.events) > 0 && f.events[0].Metadata.Revision <= int64(number) {
			f.events = f.events[1:]
		}
		return nil, nil
	}
	if f.v.oldest == 0 {
		f.v.oldest = int64(number)
	}
	f.v.revision = max(f.v.revision, int64(number))
	h, err := decodeHistory(e.Value, f.chunk)
	if fleeting(err) {
		return nil, err
	}
	if err != nil {
		f.bad[e.Key], f.v.wanted = err, max(f.v.wanted, e.Modified)
		return nil, nil
	}
	event := &api.Event{Head: h.Head, Spec: h.Spec.EventSpec}
	event.Kind = api.KindEvent
	f.events = append(f.events, event)
	return h, nil
}

// view returns what is known now.
func (f *follower) view(before *view) *view {
	v := f.v
	v.blades, v.orders, v.events = maps.Clone(f.blades), maps.Clone(f.orders), f.events // which only grows behind what v has
	now := f.now
	v.stock = sync.OnceValue(func() *fabric.Stock { return fabric.NewStock(v.spec, v.snapshot(now())) })
	if before != nil && before.wanted == v.wanted {
		v.docs, v.spec, v.trouble = before.docs, before.spec, before.trouble
		return &v
	}
	v.docs = maps.Clone(f.docs)
	v.spec, v.trouble = buildSpec(v.docs)
	for _, key := range slices.Sorted(maps.Keys(f.bad)) {
		v.trouble = &flow.Fault{Code: "E_STORED", What: string(key), Why: f.bad[key].Error(), Remedy: "upgrade this manager, or restore the object", Err: f.bad[key]}
	}
	return &v
}

// buildSpec makes the spec of documents.
func buildSpec(docs map[docID]*doc) (fabric.Spec, error) {
	s := newSpec()
	var err error
	for _, id := range slices.SortedFunc(maps.Keys(docs), docID.compare) {
		err = cmp.Or(err, docs[id].add(&s))
	}
	return s, err
}

func (id docID) compare(o docID) int {
	return cmp.Or(strings.Compare(id.Kind, o.Kind), strings.Compare(id.Name, o.Name))
}

// follow keeps m's view up to date until ctx ends. When the history it needs is gone
// it reads everything again.
func (m *Manager) follow(ctx context.Context) {
	for ctx.Err() == nil {
		if err := m.followOnce(ctx); err != nil && ctx.Err() == nil {
			m.log.Warn("reading the store anew", "error", err)
			pause(ctx, time.Second)
		}
	}
}

// followOnce reads everything and then what changes, until that cannot go on.
func (m *Manager) followOnce(ctx context.Context) error {
	all, revision, err := m.store.List(ctx, store.Everything)
	if err != nil {
		return err
	}
	f := newFollower(m.now, m.chunk(ctx))
	f.made = m.expected
	if err := f.load(all, revision); err != nil {
		return err
	}
	m.publish(f.view(nil))
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b := range m.store.Watch(ctx, store.Everything, revision) {
		if b.Err != nil {
			return b.Err
		}
		if err := f.take(b.Revision, b.Events...); err != nil {
			return err
		}
		m.publish(f.view(m.latest()))
	}
	return nil
}

// expect remembers what a change makes, so that it need not be decoded when the store
// tells of it.
func (m *Manager) expect(docs map[docID]*doc) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.expecting = docs
}

// expected returns what the last change makes of an object, nil if nothing.
func (m *Manager) expected(id docID) *doc {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.expecting[id]
}

// publish makes v what m knows and wakes who waits for it.
func (m *Manager) publish(v *view) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.current = v
	close(m.changed)
	m.changed = make(chan struct{})
}

// latest returns the view there is, nil before the first.
func (m *Manager) latest() *view {
	v, _ := m.look()
	return v
}

// look returns the view there is and a channel that is closed when there is another.
func (m *Manager) look() (*view, <-chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.current, m.changed
}

// view returns a view that is at least of that revision of the store.
func (m *Manager) view(ctx context.Context, cursor int64) (*view, error) {
	for {
		v, changed := m.look()
		if v != nil && v.cursor >= cursor {
			return v, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, &flow.Fault{Code: "E_UNREACHABLE", What: "manager", Why: fmt.Sprintf("it has not read the store as far as revision %d", cursor),
				Remedy: "check the store", Err: store.ErrUnreachable}
		}
	}
}
