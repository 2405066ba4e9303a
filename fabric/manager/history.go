package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// wantedAt returns the documents as they were after change revision: from a state that
// was kept, or by undoing what came later.
func (m *Manager) wantedAt(ctx context.Context, v *view, revision int64) (map[docID]*doc, error) {
	if err := v.reaches(revision); err != nil {
		return nil, err
	}
	values, err := m.valuesAt(ctx, v, revision)
	if err != nil {
		return nil, err
	}
	docs := make(map[docID]*doc, len(values))
	for t, value := range values {
		id := docID{t.Kind, t.Name}
		if now := v.docs[id]; now != nil && bytes.Equal(now.packed.Value, value) {
			docs[id] = now
			continue
		}
		d, err := storedDoc(t.Kind, value, m.chunk(ctx))
		if err != nil {
			return nil, fmt.Errorf("change %d: %s: %w", revision, id, err)
		}
		docs[id] = d
	}
	return docs, nil
}

// reaches returns nil iff what was wanted after a change is known still.
func (v *view) reaches(revision int64) error {
	switch {
	case revision < 0 || revision > v.revision:
		return &flow.Fault{Code: "E_NOT_FOUND", What: fmt.Sprintf("revision %d", revision), Why: fmt.Sprintf("the last is %d", v.revision), Remedy: "see the events", Err: store.ErrNotFound}
	case revision < v.oldest-1 && !v.states[revision]:
		return &flow.Fault{Code: "E_HISTORY_GONE", What: fmt.Sprintf("revision %d", revision), Why: fmt.Sprintf("history goes back to revision %d, and no snapshot keeps this one", v.oldest-1),
			Remedy: "use a later one, or a snapshot", Err: store.ErrCompacted}
	}
	return nil
}

// wantedID is which object a stored value is.
type wantedID struct{ Kind, Tenant, Name string }

// valuesAt returns the stored values after a change that v reaches.
func (m *Manager) valuesAt(ctx context.Context, v *view, revision int64) (map[wantedID]json.RawMessage, error) {
	values := map[wantedID]json.RawMessage{}
	if v.states[revision] {
		s, err := m.stateAt(ctx, revision)
		if err != nil {
			return nil, err
		}
		for i, t := range s.Spec.Objects {
			values[wantedID{t.Kind, t.Tenant, t.Name}] = s.Spec.Values[i]
		}
		return values, nil
	}
	for _, d := range v.docs {
		values[wantedID{d.Kind, d.head.Metadata.Tenant, d.Name}] = d.packed.Value
	}
	for n := v.revision; n > revision; n-- {
		h, err := m.recorded(ctx, uint64(n))
		if err != nil {
			return nil, err
		}
		for i, t := range h.Spec.Changes {
			at := wantedID{t.Kind, t.Tenant, t.Name}
			if values[at] = h.Spec.Before[i]; h.Spec.Before[i] == nil {
				delete(values, at)
			}
		}
	}
	return values, nil
}

// stateAt reads a state that was kept.
func (m *Manager) stateAt(ctx context.Context, revision int64) (*api.State, error) {
	kv, err := m.store.Read(ctx, store.State(uint64(revision)))
	if err != nil {
		return nil, err
	}
	text, err := store.Unpack(kv.Value, m.chunk(ctx))
	if err != nil {
		return nil, err
	}
	s := &api.State{}
	if err := json.Unmarshal(text, s); err != nil {
		return nil, fmt.Errorf("state %d: %w", revision, err)
	}
	if len(s.Spec.Objects) != len(s.Spec.Values) {
		return nil, fmt.Errorf("state %d: %d objects and %d values", revision, len(s.Spec.Objects), len(s.Spec.Values))
	}
	return s, nil
}

// revertTo returns the edits that bring back an earlier state, of everything or of one
// profile. Snapshots stay.
func revertTo(v *view, then map[docID]*doc, profile string) []edit {
	var edits []edit
	concerns := func(id docID) bool {
		if id.Kind == api.KindSnapshot {
			return false
		}
		return profile == "" || id.Name == profile && (id.Kind == api.KindProfile || id.Kind == api.KindAssignment)
	}
	for id, d := range then {
		if concerns(id) && (v.docs[id] == nil || !d.equal(v.docs[id])) {
			edits = append(edits, edit{id, d})
		}
	}
	for id := range v.docs {
		if concerns(id) && then[id] == nil {
			edits = append(edits, edit{id, nil})
		}
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.compare(b.docID) })
	return edits
}

// equal reports whether two documents say the same, whenever they came to say it.
func (d *doc) equal(o *doc) bool {
	_, same, err := d.after(o, o.head.Metadata.Revision)
	return err == nil && same
}
