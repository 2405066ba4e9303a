package manager

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// wantedAt returns the documents as they were after change revision, by undoing what
// came later.
func (m *Manager) wantedAt(ctx context.Context, v *view, revision int64) (map[docID]*doc, error) {
	if revision < 0 || revision > v.revision {
		return nil, &flow.Fault{Code: "E_NOT_FOUND", What: fmt.Sprintf("revision %d", revision), Why: fmt.Sprintf("the last is %d", v.revision), Remedy: "see the events", Err: store.ErrNotFound}
	}
	docs := make(map[docID]*doc, len(v.docs))
	for id, d := range v.docs {
		docs[id] = d
	}
	for n := v.revision; n > revision; n-- {
		kv, err := m.store.Read(ctx, store.History(uint64(n)))
		if err != nil {
			return nil, err
		}
		var h api.History
		if err := json.Unmarshal(kv.Value, &h); err != nil {
			return nil, fmt.Errorf("change %d: %w", n, err)
		}
		for i, t := range h.Spec.Changes {
			id := docID{t.Kind, t.Name}
			if h.Spec.Before[i] == nil {
				delete(docs, id)
				continue
			}
			d, err := decodeDoc(t.Kind, h.Spec.Before[i], lenient)
			if err != nil {
				return nil, fmt.Errorf("change %d: %s: %w", n, id, err)
			}
			docs[id] = d
		}
	}
	return docs, nil
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
