package manager

import (
	"context"
	"net/http"
	"reflect"

	"github.com/danielgtaylor/huma/v2"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// deletion adds the operation that deletes several objects in one change, so that what
// needs each other can go together, in any order.
func (m *Manager) deletion(h huma.API) {
	type doc struct {
		DryRun  string `query:"dryRun" doc:"true to be told what would happen"`
		RawBody []byte `contentType:"application/json"`
	}
	register(m, h, "delete", http.MethodPost, "delete", "Delete several objects in one change: {items: [{kind, metadata: {name}}, …]}; with a revision, only if it is that", reflect.TypeFor[api.List[api.Head]](),
		func(ctx context.Context, in *doc) (*output[api.Preview], error) {
			var list api.List[api.Head]
			if err := api.Decode(in.RawBody, &list); err != nil {
				return nil, err
			}
			return m.answer(ctx, "delete", in.DryRun, func(v *view) ([]edit, error) { return deleteDocs(v, list.Items) })
		})
}

// deleteDocs returns the edits that delete objects.
func deleteDocs(v *view, heads []api.Head) ([]edit, error) {
	var edits []edit
	for _, h := range heads {
		id := docID{h.Kind, h.Metadata.Name}
		if was := v.docs[id]; h.Metadata.Revision != 0 && was != nil && was.head.Metadata.Revision != h.Metadata.Revision {
			return nil, stale(id, was, h.Metadata.Revision)
		}
		some, err := deleteDoc(v, id)
		if err != nil {
			return nil, err
		}
		edits = append(edits, some...)
	}
	return edits, nil
}
