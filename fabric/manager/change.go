package manager

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Changes of what is wanted are numbered: change n is the record at History(n), written
// with the objects it changes (commit.go), on the condition that it does not exist yet. So
// each change was decided on exactly the state that the change before it left: that a spec
// is valid as a whole, that a VF is given to one vNIC only, needs no locks. Whoever loses
// decides again on the new state.
//
// A record keeps what was there before, so the wanted state of any earlier revision is
// found by undoing changes, and a revert is a change like others.

// actor is who changes something.
type actor struct {
	Name string
	Role string
	From string // address
}

// self is the manager as an actor.
var self = actor{Name: "manager", Role: "manager"}

// edit is one object to be put, or deleted if next is nil.
type edit struct {
	docID
	next *doc
}

// request is a change that somebody wants.
type request struct {
	who    actor
	verb   string
	dryRun bool
	fence  []store.Compare // conditions besides the change's own

	// build decides on a view what to change. It may be called again on a later one.
	build func(v *view) ([]edit, error)
}

// tries is how often a change that others overtook is decided anew.
const tries = 20

// change carries a request out, and returns what it did, or would do.
func (m *Manager) change(ctx context.Context, r request) (api.Preview, error) {
	v, err := m.view(ctx, 0)
	if err != nil {
		return api.Preview{}, err
	}
	for try := 0; ; try++ {
		if v.trouble != nil {
			return api.Preview{}, v.trouble
		}
		edits, err := r.build(v)
		if err != nil {
			return api.Preview{}, err
		}
		p, err := m.prepare(v, r, edits)
		if err != nil || r.dryRun || p.commit == nil {
			return p.preview, err
		}
		m.expect(p.docs)
		cursor, err := m.commit(ctx, p.commit)
		if err == nil {
			m.cache.put(v, cursor, p.after)
			m.log.Info("change", "revision", v.revision+1, "who", r.who.Name, "role", r.who.Role, "from", r.who.From, "verb", r.verb, "objects", len(p.commit.before))
			_, err = m.view(ctx, cursor)
			return p.preview, err
		}
		if !errors.Is(err, store.ErrConflict) || try == tries || m.fenced(ctx, r.fence) {
			return api.Preview{}, err
		}
		if v, err = m.after(ctx, p.commit.number); err != nil {
			return api.Preview{}, err
		}
	}
}

// after returns the view to decide on when change number met another: one that has the
// other change, or one in which nothing is pending any more.
func (m *Manager) after(ctx context.Context, number int64) (*view, error) {
	if err := m.finish(ctx); err != nil {
		return nil, err
	}
	kv, err := m.store.Read(ctx, store.History(uint64(number)))
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return nil, err
	}
	return m.view(ctx, kv.Modified)
}

// fenced reports whether one of the conditions cannot hold any more.
func (m *Manager) fenced(ctx context.Context, fence []store.Compare) bool {
	if len(fence) == 0 {
		return false
	}
	_, err := m.store.Txn(ctx, fence, nil)
	return err != nil
}

// prepared is a change ready to be made.
type prepared struct {
	commit  *commit        // nil if it changes nothing
	docs    map[docID]*doc // that it makes
	preview api.Preview
	after   map[fabric.BladeID]fabric.Compiled
}

func (m *Manager) prepare(v *view, r request, edits []edit) (prepared, error) {
	p := prepared{docs: map[docID]*doc{}, preview: api.Preview{Revision: v.revision, DryRun: r.dryRun, Changes: []api.Touched{}, Steps: []api.Step{}, Held: []api.Held{}, Capacity: []api.CapacityOf{}}}
	number := v.revision + 1
	docs := make(map[docID]*doc, len(v.docs)+len(edits))
	for id, d := range v.docs {
		docs[id] = d
	}
	c := &commit{number: number, chunks: map[store.Sum][]byte{}, fence: r.fence,
		event: api.EventSpec{At: m.now().UTC(), Who: r.who.Name, Role: r.who.Role, From: r.who.From, Verb: r.verb}}
	for _, e := range edits {
		was := docs[e.docID]
		t := api.Touched{Kind: e.Kind, Name: e.Name}
		var next *doc
		switch {
		case was == nil && e.next == nil:
			continue
		case e.next == nil:
			t.Tenant, t.How = was.head.Metadata.Tenant, "deleted"
			delete(docs, e.docID)
		default:
			t.Tenant, t.How = e.next.head.Metadata.Tenant, "created"
			if was != nil {
				if t.How = "changed"; t.Tenant != was.head.Metadata.Tenant {
					return p, &flow.Fault{Code: "E_TENANT", What: e.docID.String(), Why: "it is tenant " + was.head.Metadata.Tenant + "'s", Remedy: "use another name, or delete it first"}
				}
			}
			var same bool
			var err error
			if next, same, err = e.next.after(was, number); err != nil {
				return p, err
			}
			if same {
				continue
			}
			docs[e.docID] = next
		}
		if err := permitted(r.who, was, e.next); err != nil {
			return p, err
		}
		if next != nil {
			p.docs[e.docID] = next
		}
		if err := c.add(t, was, next); err != nil {
			return p, err
		}
	}
	if len(c.before) == 0 {
		if r.dryRun {
			return p, m.capacityEffect(v, v.spec, m.cache.of(v), m.cache.of(v), &p.preview)
		}
		return p, nil
	}
	if err := m.check(v, docs, &p); err != nil {
		return p, err
	}
	p.preview.Changes = c.event.Changes
	if !r.dryRun {
		p.preview.Revision = number
	}
	p.commit = c
	return p, nil
}

// check refuses what cannot be wanted, and says what a change that can be means.
func (m *Manager) check(v *view, docs map[docID]*doc, p *prepared) error {
	spec, err := buildSpec(docs)
	if err != nil {
		return err
	}
	if err := spec.Valid(); err != nil {
		return err
	}
	for id := range spec.Blades {
		if id == store.ManagerUser || id == store.RootUser {
			return &flow.Fault{Code: "E_NAME", What: "blade " + string(id), Why: "the name is reserved", Remedy: "use another"}
		}
	}
	seen := v.snapshot(m.now())
	before, after := m.cache.of(v), fabric.CompileAll(spec, seen)
	p.after = after
	var concerned []fabric.BladeID
	for id, c := range after {
		was, had := before[id]
		if c.Err != nil && (!had || was.Err == nil || was.Err.Error() != c.Err.Error()) {
			return c.Err
		}
		if !had || was.Digest != c.Digest {
			concerned = append(concerned, id)
		}
	}
	slices.Sort(concerned)
	for _, id := range concerned {
		p.preview.Capacity = append(p.preview.Capacity, api.CapacityOf{Blade: string(id),
			Before: free(seen, before[id], id), After: free(seen, after[id], id)})
	}
	if !p.preview.DryRun {
		return nil
	}
	if err := m.capacityEffect(v, spec, before, after, &p.preview); err != nil {
		return err
	}
	plan := fabric.NewPlan(spec, seen)
	for _, s := range plan.Steps {
		p.preview.Steps = append(p.preview.Steps, api.Step{Blade: string(s.Blade), Kind: s.Kind.String(), Text: s.String()})
	}
	for _, h := range plan.Held {
		held := api.Held{Blade: string(h.Blade), Error: *api.NewError(h.Why)}
		if h.VNIC != (fabric.VNICName{}) {
			held.VNIC = h.VNIC.String()
		}
		p.preview.Held = append(p.preview.Held, held)
	}
	return nil
}

// free returns what a content leaves of its blade.
func free(seen fabric.Snapshot, c fabric.Compiled, id fabric.BladeID) api.Free {
	f := api.Free{Rules: len(c.Table.Rules)}
	for _, n := range seen.Blades[id].Inventory.NICs {
		for _, p := range n.PFs {
			f.VFs += len(p.VFs)
		}
	}
	var sum fabric.BitsPerSecond
	for _, b := range c.VNICs {
		f.VFs--
		sum += b.Setting.QoS.Guaranteed
	}
	f.Guaranteed = sum.String()
	return f
}

// permitted says whether an actor may do this: the tiers above all others, and what
// the fabric is made of, are the administrators'.
func permitted(who actor, was, next *doc) error {
	for _, d := range []*doc{was, next} {
		if d == nil || who.Role == "admin" || who == self {
			continue
		}
		above := d.rules != nil && d.rules.Tier <= flow.TierAdmin
		if above || d.Kind == api.KindBlade || d.Kind == api.KindChassis {
			return &flow.Fault{Code: "E_DENIED", What: d.docID.String(), Why: fmt.Sprintf("%s is %s, and this is for admin", who.Name, who.Role),
				Remedy: "ask an administrator", Err: store.ErrDenied}
		}
	}
	return nil
}

// after returns d as it is stored in the place of was, by change number; same if that
// changes nothing. Nothing is decoded again: what d means is known.
func (d *doc) after(was *doc, number int64) (next *doc, same bool, err error) {
	if was != nil {
		text, _, err := d.encode(was, was.head.Metadata.Revision)
		if err != nil || was == d || sameJSON(text, was.raw) {
			return was, err == nil, err
		}
	}
	text, value, err := d.encode(was, number)
	if err != nil {
		return nil, false, err
	}
	return &doc{docID: d.docID, head: *headOf(value), raw: text, packed: store.Pack(text), value: value, rules: d.rules}, false, nil
}

// encode returns the text of d in the place of was, if that is not nil, and its value.
func (d *doc) encode(was *doc, revision int64) ([]byte, any, error) {
	m := d.head.Metadata
	m.Revision = revision
	switch v := d.value.(type) {
	case *api.Chassis:
		return edited(was, v, func(v *api.Chassis) { v.Status, v.Metadata = nil, m })
	case *api.Blade:
		return edited(was, v, func(v *api.Blade) { v.Status, v.Metadata = nil, m })
	case *api.Profile:
		return edited(was, v, func(v *api.Profile) { v.Status, v.Metadata = nil, m })
	case *api.Network:
		return edited(was, v, func(v *api.Network) { v.Metadata = m })
	case *api.RuleSet: // read strictly from the store, too: it has no fields that we do not know
		return edited(nil, v, func(v *api.RuleSet) { v.Metadata = m })
	case *api.Assignment:
		return edited(was, v, func(v *api.Assignment) { v.Metadata = m })
	case *api.Snapshot:
		return edited(was, v, func(v *api.Snapshot) { v.Metadata = m })
	}
	return nil, nil, fmt.Errorf("%s: a document of type %T", d.docID, d.value)
}

// edited returns v, finished, as it is stored in the place of was, see [store.Edit].
func edited[T any](was *doc, v *T, finish func(*T)) ([]byte, any, error) {
	next := *v
	finish(&next)
	var old []byte
	if was != nil {
		old = was.raw
	}
	text, err := store.Edit(old, func(stored *T) error {
		*stored = next
		return nil
	})
	return text, &next, err
}

// sameJSON reports whether two documents say the same. Large ones are the same only to
// the byte, as all are that this program wrote: to compare what they say takes seconds.
func sameJSON(a, b []byte) bool {
	var x, y any
	return bytes.Equal(a, b) || len(a) <= store.Whole && json.Unmarshal(a, &x) == nil && json.Unmarshal(b, &y) == nil && reflect.DeepEqual(x, y)
}

// applyDocs returns the edits that put documents, and the places that profiles get or
// lose by that.
func applyDocs(v *view, now time.Time, docs ...*doc) ([]edit, error) {
	var edits []edit
	after := make(map[docID]*doc, len(v.docs)+len(docs))
	for id, d := range v.docs {
		after[id] = d
	}
	var profiles []*doc
	for _, d := range docs {
		if was := v.docs[d.docID]; d.head.Metadata.Revision != 0 && (was == nil || was.head.Metadata.Revision != d.head.Metadata.Revision) {
			return nil, stale(d.docID, was, d.head.Metadata.Revision)
		}
		if d.Kind == api.KindAssignment {
			return nil, &flow.Fault{Code: "E_KIND", What: d.docID.String(), Why: "where a profile is, is decided by placing and moving it", Remedy: "move the profile"}
		}
		if err := validHead(d.head); err != nil {
			return nil, err
		}
		edits = append(edits, edit{d.docID, d})
		after[d.docID] = d
		if d.Kind == api.KindProfile {
			profiles = append(profiles, d)
		}
	}
	spec, err := buildSpec(after)
	if err != nil {
		return nil, err
	}
	places, err := settle(spec, v.snapshot(now), profiles)
	return append(edits, places...), err
}

func stale(id docID, was *doc, revision int64) error {
	why := "it was deleted"
	if was != nil {
		why = fmt.Sprintf("it was changed by revision %d, after revision %d was read", was.head.Metadata.Revision, revision)
	}
	return &flow.Fault{Code: "E_CONFLICT", What: id.String(), Why: why, Remedy: "read it again and repeat the change", Err: store.ErrConflict}
}

// settle gives profiles of the spec a place, lets them keep the one they have if it still
// fits, or takes it away if they are off. A profile that fits nowhere now waits. It costs
// one look at what is free, however many profiles there are.
func settle(spec fabric.Spec, seen fabric.Snapshot, profiles []*doc) ([]edit, error) {
	if len(profiles) == 0 {
		return nil, nil
	}
	var edits []edit
	var homeless []*doc
	leave := func(d *doc) { spec = spec.Moved(d.Name, nil) }
	for _, d := range profiles {
		p := spec.Profiles[d.Name]
		switch n := len(spec.Place(d.Name)); {
		case d.value.(*api.Profile).Spec.Off:
			if n > 0 {
				leave(d)
			}
			edits = append(edits, edit{docID{api.KindAssignment, d.Name}, nil})
		case n != len(p.VNICs):
			if n > 0 {
				leave(d)
			}
			homeless = append(homeless, d)
		}
	}
	for _, d := range profiles { // whose places do not fit, in their order, until the rest do
		if spec.Valid() == nil && spec.Fits(seen) == nil {
			break
		}
		if len(spec.Place(d.Name)) > 0 {
			leave(d)
			homeless = append(homeless, d)
		}
	}
	if err := spec.Valid(); err != nil {
		return nil, err
	}
	stock := fabric.NewStock(spec, seen)
	for _, d := range homeless {
		p := spec.Profiles[d.Name]
		at, fits := stock.Fit(p, policyOf(d))
		if !fits {
			edits = append(edits, edit{docID{api.KindAssignment, d.Name}, nil})
			continue
		}
		stock.Take(p, at)
		edits = append(edits, placed(p, at))
	}
	return edits, nil
}

func policyOf(profile *doc) fabric.Policy {
	return cmp.Or(fabric.Policy(profile.value.(*api.Profile).Spec.Policy), fabric.Spread)
}

// placed is the edit that puts a profile's place.
func placed(p fabric.Profile, at fabric.Placement) edit {
	a := wireAssignment(p, at)
	return edit{docID{api.KindAssignment, p.Name}, &doc{docID: docID{api.KindAssignment, p.Name}, head: a.Head, value: a}}
}

// deleteDoc returns the edits that delete an object, with its place if it is a profile.
// What others need cannot be deleted: the spec without it would not be valid.
func deleteDoc(v *view, id docID) ([]edit, error) {
	if v.docs[id] == nil {
		return nil, notFound(id)
	}
	edits := []edit{{id, nil}}
	if id.Kind == api.KindProfile {
		edits = append(edits, edit{docID{api.KindAssignment, id.Name}, nil})
	}
	return edits, nil
}

func notFound(id docID) error {
	return &flow.Fault{Code: "E_NOT_FOUND", What: id.String(), Why: "there is none", Remedy: "see the list of its kind", Err: store.ErrNotFound}
}

// moveProfile returns the edits that bring a profile elsewhere.
func moveProfile(v *view, now time.Time, name string, to api.Move) ([]edit, error) {
	d := v.doc(api.KindProfile, name)
	if d == nil {
		return nil, notFound(docID{api.KindProfile, name})
	}
	p := v.spec.Profiles[name]
	target := p
	if to.Blade != "" {
		b, known := v.spec.Blades[fabric.BladeID(to.Blade)]
		if !known {
			return nil, notFound(docID{api.KindBlade, to.Blade})
		}
		if !p.Where.Holds(b) {
			return nil, &flow.Fault{Code: "E_POOL", What: "profile " + name, Why: "it may not live on blade " + to.Blade, Remedy: "widen its pool"}
		}
		target.Where = fabric.Pool{Blades: []fabric.BladeID{b.ID}, PF: cmp.Or(to.PF, p.Where.PF)}
	} else {
		target.Where = fabric.Pool{PF: cmp.Or(to.PF, p.Where.PF)}
		for _, b := range v.spec.Blades {
			if here := v.spec.Assignments[fabric.VNICName{Profile: name, VNIC: p.VNICs[0].Name}].Blade; p.Where.Holds(b) && b.ID != here {
				target.Where.Blades = append(target.Where.Blades, b.ID)
			}
		}
		if len(target.Where.Blades) == 0 {
			return nil, &flow.Fault{Code: "E_POOL", What: "profile " + name, Why: "there is no other blade where it may live", Remedy: "widen its pool, or add a blade"}
		}
	}
	if here := v.spec.Place(name); len(here) > 0 && to.Blade != "" && to.PF == "" {
		for _, vf := range here {
			if vf.Blade == fabric.BladeID(to.Blade) {
				return nil, nil // it is there
			}
		}
	}
	at, _, err := fabric.Place(v.spec, v.snapshot(now), target, policyOf(d))
	if err != nil {
		return nil, err
	}
	return []edit{placed(p, at)}, nil
}
