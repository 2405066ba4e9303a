package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
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
}

// report is what one blade said last.
type report struct {
	alive     *api.Alive // nil if the agent's lease is gone
	silent    time.Time  // since when; valid iff alive is nil
	inventory *api.Inventory
	status    *api.BladeStatus
	rules     *api.Rules
	ports     *api.Ports
	seen      fabric.Seen // made of inventory and status; Age is not set
	devices   int64       // the store's revision of the inventory
	err       error       // the report cannot be understood
}

// published is a blade's record as it is in the store.
type published struct {
	kv     store.KV // without the value
	record api.Generation
	digest fabric.Digest
}

// keptEvents is how many changes a manager shows; the store has all.
const keptEvents = 1000

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
	v      view
	docs   map[docID]*doc
	bad    map[store.Key]error // wanted documents that cannot be understood
	blades map[fabric.BladeID]*report
	orders map[fabric.BladeID]*published
	events []*api.Event
}

func newFollower(now func() time.Time) *follower {
	return &follower{now: now, docs: map[docID]*doc{}, bad: map[store.Key]error{}, blades: map[fabric.BladeID]*report{}, orders: map[fabric.BladeID]*published{}}
}

// take takes events of one or more whole revisions in, the last of them revision.
func (f *follower) take(revision int64, events ...store.Event) {
	for _, e := range events {
		switch {
		case e.Key.Under(store.AllWanted):
			f.wantedDoc(e)
		case e.Key.Under(store.AllStatus):
			f.reported(e)
		case e.Key.Under(store.AllBlades):
			f.publishedRecord(e)
		case e.Key.Under(store.AllHistory):
			f.happened(e)
		}
	}
	f.v.cursor = revision
}

func (f *follower) wantedDoc(e store.Event) {
	kind, tenant, name, ok := e.Key.WantedName()
	if !ok {
		return
	}
	f.v.wanted = max(f.v.wanted, e.Modified)
	delete(f.bad, e.Key)
	id := docID{kind, name}
	if e.Deleted {
		if d := f.docs[id]; d != nil && d.head.Metadata.Tenant == tenant {
			delete(f.docs, id)
		}
		return
	}
	d, err := decodeDoc(kind, e.Value, lenient)
	if err != nil {
		f.bad[e.Key] = err
		return
	}
	f.docs[id] = d
}

func (f *follower) reported(e store.Event) {
	name, part, ok := e.Key.StatusOf()
	if !ok {
		return
	}
	id := fabric.BladeID(name)
	r := report{silent: f.now()}
	if was := f.blades[id]; was != nil {
		r = *was
	}
	r.err = nil
	switch part {
	case api.PartAlive:
		r.alive = decodePart[api.Alive](e, &r.err)
		if r.alive == nil {
			r.silent = f.now()
		}
	case api.PartInventory:
		r.inventory = decodePart[api.Inventory](e, &r.err)
		r.devices = e.Modified
	case api.PartGeneration:
		r.status = decodePart[api.BladeStatus](e, &r.err)
		if r.status != nil && r.status.Status.Record > e.Modified {
			r.status.Status.Record = 0 // of the store that this one was restored from
		}
	case api.PartRules:
		r.rules = decodePart[api.Rules](e, &r.err)
	case api.PartPorts:
		r.ports = decodePart[api.Ports](e, &r.err)
	}
	if r.inventory != nil && r.err == nil && (part == api.PartInventory || part == api.PartGeneration) {
		var inv fabric.Inventory
		if inv, r.err = modelInventory(r.inventory); r.err == nil {
			r.seen, r.err = modelSeen(name, inv, r.status)
		}
	}
	f.blades[id] = &r
	if r.alive == nil && r.inventory == nil && r.status == nil && r.rules == nil && r.ports == nil {
		delete(f.blades, id)
	}
}

// decodePart decodes one part of a report; nil if it was deleted.
func decodePart[T any](e store.Event, err *error) *T {
	if e.Deleted {
		return nil
	}
	v := new(T)
	if *err = json.Unmarshal(e.Value, v); *err != nil {
		return nil
	}
	return v
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

func (f *follower) happened(e store.Event) {
	var h api.History
	if e.Deleted || json.Unmarshal(e.Value, &h) != nil {
		return
	}
	event := &api.Event{Head: h.Head, Spec: h.Spec.EventSpec}
	event.Kind = api.KindEvent
	f.v.revision = max(f.v.revision, h.Metadata.Revision)
	f.events = append(f.events, event)
	if n := len(f.events); n > 2*keptEvents {
		f.events = slices.Clone(f.events[n-keptEvents:])
	}
}

// view returns what is known now.
func (f *follower) view(before *view) *view {
	v := f.v
	v.blades, v.orders, v.events = maps.Clone(f.blades), maps.Clone(f.orders), slices.Clone(f.events)
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
func (m *Manager) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		all, revision, err := m.store.List(ctx, store.Everything)
		if err != nil {
			m.log.Warn("cannot read the store", "error", err)
			select {
			case <-time.After(time.Second):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		f := newFollower(m.now)
		for _, kv := range all {
			f.take(revision, store.Event{KV: kv})
		}
		f.take(revision)
		m.publish(f.view(nil))
		for b := range m.store.Watch(ctx, store.Everything, revision) {
			if b.Err != nil {
				m.log.Warn("the store's history is gone; reading everything", "error", b.Err)
				break
			}
			f.take(b.Revision, b.Events...)
			m.publish(f.view(m.latest()))
		}
	}
	return nil
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
