package manager

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// leader is what a manager does while it leads: look, compile, decide, publish, and
// again when something changed.
type leader struct {
	*Manager
	fence    store.Compare
	admitted map[fabric.BladeID]bool
	waiting  string // what was logged of profiles without a place

	compactAt int64 // the store's revision when it was tidied last
}

// publishers is how many blades' records are written at once.
const publishers = 16

// again is how soon a leader looks again without being told to: for blades that fell
// silent, and for what the store refused.
const again = 2 * time.Second

// lead leads until the lease is lost or ctx ends. Each write carries the fence, so what
// a leader does after it was replaced has no effect.
func (m *Manager) lead(ctx context.Context, won *store.Leader) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-won.Lost():
			cancel()
		case <-ctx.Done():
		}
	}()
	l := &leader{Manager: m, fence: won.Fence(), admitted: map[fabric.BladeID]bool{}}
	var beside sync.WaitGroup
	defer beside.Wait()
	defer cancel()
	if m.config.History != nil {
		beside.Go(func() { l.record(ctx) })
	}
	beside.Go(func() {
		for ctx.Err() == nil {
			if err := l.tidy(ctx); err != nil && ctx.Err() == nil {
				m.log.Warn("cannot tidy up", "error", err)
			}
			pause(ctx, tidyEvery)
		}
	})
	cursor := won.Revision() // what earlier leaders published is not to be missed
	for ctx.Err() == nil {
		v, err := m.view(ctx, cursor)
		if err != nil {
			return
		}
		cursor, err = l.round(ctx, v)
		if errors.Is(err, context.Canceled) {
			return
		}
		if err != nil {
			m.log.Warn("round", "error", err)
			if errors.Is(err, store.ErrConflict) && m.fenced(ctx, []store.Compare{l.fence}) {
				return
			}
			pause(ctx, 50*time.Millisecond)
		}
		if cursor > v.cursor {
			continue // our own writes are news, too
		}
		latest, changed := m.look()
		if latest != v {
			continue
		}
		select {
		case <-changed:
			pause(ctx, 2*time.Millisecond) // more comes with it
		case <-time.After(again):
		case <-ctx.Done():
		}
	}
}

// round does what can be done now and returns the store's revision to look at next.
func (l *leader) round(ctx context.Context, v *view) (int64, error) {
	if v.trouble != nil {
		return 0, v.trouble
	}
	if v.pending {
		if err := l.finish(ctx); err != nil {
			return 0, err
		}
	}
	l.admit(ctx, v)
	if err := l.place(ctx, v); err != nil {
		return 0, err
	}
	if now := l.latest(); now.wanted != v.wanted {
		return now.cursor, nil
	}
	s := newSituation(v, l.cache.of(v), l.now())
	orders, held := s.orders()
	l.mu.Lock()
	l.held = held
	l.mu.Unlock()
	cursor, err := l.publishAll(ctx, v, orders)
	return cursor, cmp.Or(l.forget(ctx, v), err)
}

// admit gives blades that are new their rights.
func (l *leader) admit(ctx context.Context, v *view) {
	if l.config.Admit == nil {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(v.spec.Blades)) {
		if l.admitted[id] {
			continue
		}
		if err := l.config.Admit(ctx, string(id)); err != nil {
			l.log.Error("cannot admit blade", "blade", id, "error", err)
			continue
		}
		l.admitted[id] = true
	}
}

// refusals says which profiles without a place cannot be put where they would fit, and
// why: what holds of one state of the fabric and of what its blades reported.
type refusals struct {
	wanted, devices int64
	why             map[string]*flow.Fault // of each profile, by name; replaced, never changed
}

// place gives profiles a place that have none, as many as there is room for now. A
// profile that cannot be wanted where it fits keeps nobody waiting but itself.
func (l *leader) place(ctx context.Context, v *view) error {
	var without, fitting []*doc
	var why error
	known := l.refusedAt(v)
	for _, d := range v.of(api.KindProfile) {
		if d.value.(*api.Profile).Spec.Off || v.doc(api.KindAssignment, d.Name) != nil {
			continue
		}
		without = append(without, d)
		if fault := known[d.Name]; fault != nil {
			why = cmp.Or(why, error(fault))
		} else if _, fits := v.stock().Fit(v.spec.Profiles[d.Name], policyOf(d)); fits {
			fitting = append(fitting, d)
		} else if why == nil {
			_, why = v.stock().Place(v.spec.Profiles[d.Name], policyOf(d))
		}
	}
	refused := maps.Clone(known)
	if refused == nil {
		refused = map[string]*flow.Fault{}
	}
	err := l.placeSome(ctx, fitting, refused)
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		why = cmp.Or(why, error(refused[name]))
	}
	l.logWaiting(len(without)-len(fitting)+len(refused)-len(known), why)
	l.mu.Lock()
	l.unfit = refusals{v.wanted, v.devices(), refused}
	l.mu.Unlock()
	return err
}

// placeSome places profiles in one change, and if that is refused, each half of them,
// so that one bad profile among n costs 2 log n changes that are looked at. Why one is
// refused by itself, it notes in refused. An error is the store's.
func (l *leader) placeSome(ctx context.Context, profiles []*doc, refused map[string]*flow.Fault) error {
	if len(profiles) == 0 {
		return nil
	}
	_, err := l.change(ctx, request{who: self, verb: "place", fence: []store.Compare{l.fence}, build: func(v *view) ([]edit, error) {
		var now []*doc
		for _, d := range profiles {
			if p := v.doc(api.KindProfile, d.Name); p != nil && v.doc(api.KindAssignment, d.Name) == nil {
				now = append(now, p)
			}
		}
		return settle(v.spec, v.snapshot(l.now()), now)
	}})
	fault, ok := errors.AsType[*flow.Fault](err)
	switch {
	case err == nil:
		return nil
	case !ok || fleeting(err) || errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrDenied):
		return err
	case len(profiles) == 1:
		refused[profiles[0].Name] = fault
		return nil
	}
	half := len(profiles) / 2
	return cmp.Or(l.placeSome(ctx, profiles[:half], refused), l.placeSome(ctx, profiles[half:], refused))
}

// refusedAt returns why profiles without a place cannot be put where they would fit, by
// name, as far as that is known of v. Only a leader knows.
func (m *Manager) refusedAt(v *view) map[string]*flow.Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.unfit.wanted != v.wanted || m.unfit.devices != v.devices() {
		return nil
	}
	return m.unfit.why
}

// devices is the revision of the store at which a blade's inventory changed last.
func (v *view) devices() int64 {
	var last int64
	for _, r := range v.blades {
		last = max(last, r.devices)
	}
	return last
}

// logWaiting says that profiles wait, and of the first one why, when that is news.
func (l *leader) logWaiting(n int, why error) {
	text := ""
	if why != nil {
		text = why.Error()
	}
	if text != "" && text != l.waiting {
		l.log.Warn("profiles wait for a place", "profiles", n, "error", why)
	}
	l.waiting = text
}

// publishAll writes the records of blades, each in its own transaction.
func (l *leader) publishAll(ctx context.Context, v *view, orders map[fabric.BladeID]order) (int64, error) {
	var mu sync.Mutex
	var cursor int64
	var failed error
	work := make(chan fabric.BladeID)
	var workers sync.WaitGroup
	for range min(publishers, len(orders)) {
		workers.Go(func() {
			for id := range work {
				at, err := l.publishOne(ctx, v, id, orders[id])
				mu.Lock()
				cursor, failed = max(cursor, at), cmp.Or(failed, err)
				mu.Unlock()
			}
		})
	}
	for _, id := range slices.Sorted(maps.Keys(orders)) {
		work <- id
	}
	close(work)
	workers.Wait()
	return cursor, failed
}

// publishOne writes one blade's record and the shards it needs. If those are too much
// for one transaction, shards go ahead: nobody reads them before the record names them.
// Shards of the record before are left, for the blade may be reading them.
func (l *leader) publishOne(ctx context.Context, v *view, id fabric.BladeID, o order) (int64, error) {
	told := v.orders[id]
	var before *api.GenerationSpec
	if told != nil {
		before = &told.record.Spec
	}
	spec, shards, err := l.cache.bases.record(o.content, before)
	if err != nil {
		return 0, err
	}
	unchanged := store.Absent(store.Generation(string(id)))
	had := map[string]bool{}
	g := api.Generation{Head: api.NewHead(api.KindGeneration, string(id)), Spec: spec}
	if told != nil {
		unchanged = store.Unchanged(told.kv)
		g.Spec.Number = told.record.Spec.Number
		for _, sum := range told.record.Spec.Shards {
			had[sum] = true
		}
	}
	if told == nil || told.digest != o.content.Digest {
		if r := v.blades[id]; r.status != nil {
			g.Spec.Number = max(g.Spec.Number, r.status.Status.Generation) // another store's numbers, if ours were lost
		}
		g.Spec.Number++
	}
	g.Spec.Made, g.Spec.Revision, g.Spec.Leaving = l.now().UTC(), v.revision, o.leaving
	g.Metadata.Revision = v.revision
	for i := range g.Spec.VNICs {
		g.Spec.VNICs[i].Connect = o.connect[o.content.VNICs[i].VNIC]
	}
	text, err := json.Marshal(g)
	if err != nil {
		return 0, err
	}
	record := store.Put(store.Generation(string(id)), text)
	compares := []store.Compare{l.fence, unchanged}
	var ops []store.Op
	size := len(text)
	for sum, part := range shards {
		if had[hex.EncodeToString(sum[:])] {
			continue
		}
		if size += len(part) + 256; size > store.MaxBytes || len(ops) == store.MaxOps-1 {
			if _, err := l.store.Txn(ctx, compares, ops); err != nil {
				return 0, err
			}
			ops, size = nil, len(text)+len(part)+256
		}
		ops = append(ops, store.Put(store.Shard(string(id), sum), part))
	}
	cursor, err := l.store.Txn(ctx, compares, append(ops, record))
	if err != nil {
		return 0, err
	}
	if told != nil && told.digest != o.content.Digest {
		if err := l.sweep(ctx, id, g.Spec.Shards, told.record.Spec.Shards); err != nil {
			return cursor, err
		}
	}
	return cursor, nil
}

// sweep deletes shards that neither of two records names, once there are many.
func (l *leader) sweep(ctx context.Context, id fabric.BladeID, keep ...[]string) error {
	const many = 4
	if l.cache.wrote(id)%many != 0 {
		return nil
	}
	there, _, err := l.store.List(ctx, store.Shards(string(id)))
	if err != nil {
		return err
	}
	kept := map[store.Key]bool{}
	for _, sums := range keep {
		for _, sum := range sums {
			var key [32]byte
			if _, err := hex.Decode(key[:], []byte(sum)); err == nil && len(sum) == 64 {
				kept[store.Shard(string(id), key)] = true
			}
		}
	}
	var ops []store.Op
	for _, kv := range there {
		if !kept[kv.Key] && len(ops) < store.MaxOps {
			ops = append(ops, store.Delete(kv.Key))
		}
	}
	if len(ops) == 0 {
		return nil
	}
	_, err = l.store.Txn(ctx, []store.Compare{l.fence}, ops)
	return err
}

// forget deletes what was published for blades that are wanted no more, and what they
// reported, and takes their rights.
func (l *leader) forget(ctx context.Context, v *view) error {
	for id := range v.orders {
		if _, wanted := v.spec.Blades[id]; wanted {
			continue
		}
		if l.config.Expel != nil {
			if err := l.config.Expel(ctx, string(id)); err != nil {
				return err
			}
		}
		delete(l.admitted, id)
		l.cache.bases.forget(id)
		_, err := l.store.Txn(ctx, []store.Compare{l.fence}, []store.Op{store.DeleteAll(store.BladeWanted(string(id))), store.DeleteAll(store.BladeStatus(string(id)))})
		if err != nil {
			return err
		}
	}
	return nil
}

// contents keeps what was compiled for as long as nothing it depends on changed. It is
// shared: what a change was checked with is what the leader publishes.
type contents struct {
	mu     sync.Mutex
	wanted int64                              // of the view it is for
	seen   map[fabric.BladeID]int64           // revision of the inventory it is for
	made   map[fabric.BladeID]fabric.Compiled // replaced, never changed
	writes map[fabric.BladeID]int             // records written
	bases  bases                              // what is in the shards that were written
}

// of returns the contents of all blades of a view. When what is wanted changed, all are
// made anew; when an inventory changed, that blade's.
func (c *contents) of(v *view) map[fabric.BladeID]fabric.Compiled {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.made == nil || c.wanted != v.wanted {
		c.wanted, c.seen, c.made = v.wanted, map[fabric.BladeID]int64{}, map[fabric.BladeID]fabric.Compiled{}
	}
	missing := fabric.Snapshot{Blades: map[fabric.BladeID]fabric.Seen{}}
	for id, r := range v.blades {
		if r.inventory != nil && r.err == nil && c.seen[id] != r.devices {
			c.seen[id] = r.devices
			missing.Blades[id] = r.seen
		}
	}
	if len(missing.Blades) > 0 {
		made := maps.Clone(c.made)
		maps.Copy(made, fabric.CompileAll(v.spec, missing))
		c.made = made
	}
	return c.made
}

// put takes over what was compiled from the blades of v for what is wanted since then.
func (c *contents) put(v *view, wanted int64, made map[fabric.BladeID]fabric.Compiled) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if wanted < c.wanted {
		return
	}
	c.wanted, c.made, c.seen = wanted, made, map[fabric.BladeID]int64{}
	for id, r := range v.blades {
		if r.inventory != nil && r.err == nil {
			c.seen[id] = r.devices
		}
	}
}

// wrote counts a record written and returns how many there were.
func (c *contents) wrote(id fabric.BladeID) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.writes == nil {
		c.writes = map[fabric.BladeID]int{}
	}
	c.writes[id]++
	return c.writes[id]
}

// why returns why a blade is held, nil if it is not. Only a leader knows.
func (m *Manager) why(id fabric.BladeID) *flow.Fault {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held[id]
}
