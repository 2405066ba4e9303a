package manager

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// The API, /api/v1. Reading is by kind (collections.go shapes what is read); every
// change is a request of change.go, and answers with what it did or, with dryRun, would
// do. Bodies are decoded by package api, not by huma, so that errors name the field as
// everywhere else; huma routes and writes the OpenAPI document.

const root = "/api/v1/"

// maxBody is the largest request: a change of 300,000 rules.
const maxBody = 64 << 20

type none struct{}

type output[T any] struct {
	ETag string `header:"ETag"`
	Body T
}

func (m *Manager) routes(mux *http.ServeMux) {
	config := huma.Config{OpenAPI: &huma.OpenAPI{OpenAPI: "3.1.0", Info: &huma.Info{Title: "bladeflow", Version: "v1"},
		Components: &huma.Components{Schemas: huma.NewMapRegistry("#/components/schemas/", huma.DefaultSchemaNamer)}},
		OpenAPIPath: "/openapi", Formats: map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat}, DefaultFormat: "application/json"}
	h := humago.New(mux, config)
	wanted[api.Chassis](m, h, "chassis", api.KindChassis, (*view).chassis)
	wanted[api.Blade](m, h, "blades", api.KindBlade, m.blades)
	wanted[api.Network](m, h, "networks", api.KindNetwork, (*view).networks)
	wanted[api.RuleSet](m, h, "rulesets", api.KindRuleSet, (*view).ruleSets)
	wanted[api.Profile](m, h, "profiles", api.KindProfile, m.profiles)
	wanted[api.Snapshot](m, h, "snapshots", api.KindSnapshot, (*view).snapshots)
	readable[api.NICView](m, h, "nics", (*view).nics)
	readable[api.PFView](m, h, "pfs", (*view).pfs)
	readable[api.VFView](m, h, "vfs", (*view).vfs)
	readable[api.VNICView](m, h, "vnics", (*view).vnics)
	readable[api.RuleView](m, h, "rules", m.rules, m.unlisted)
	readable[api.PolicyView](m, h, "policies", m.policies)
	readable[api.GenerationView](m, h, "generations", (*view).generations)
	readable[api.Event](m, h, "events", (*view).history)
	m.reports(h)
	m.busiest(h)

	type Doc struct {
		DryRun  string `query:"dryRun" doc:"true to be told what would happen"`
		RawBody []byte `contentType:"application/json"`
	}
	register(m, h, "apply", http.MethodPost, "apply", "Put several objects in one change: {items: [OBJECT, …]}", reflect.TypeFor[api.List[json.RawMessage]](),
		func(ctx context.Context, in *Doc) (*output[api.Preview], error) {
			var list api.List[json.RawMessage]
			if err := api.Decode(in.RawBody, &list); err != nil {
				return nil, err
			}
			var docs []*doc
			for i, raw := range list.Items {
				var head struct{ Kind string }
				if err := json.Unmarshal(raw, &head); err != nil {
					return nil, fmt.Errorf("items[%d]: %w", i, err)
				}
				d, err := decodeDoc(head.Kind, raw, api.Decode)
				if err != nil {
					return nil, err
				}
				docs = append(docs, d)
			}
			return m.answer(ctx, "apply", in.DryRun, func(v *view) ([]edit, error) { return applyDocs(v, m.now(), docs...) })
		})
	m.deletion(h)
	type named struct {
		Name string `path:"name"`
		Doc
	}
	register(m, h, "move-profile", http.MethodPost, "profiles/{name}/move", "Bring a profile to another place", reflect.TypeFor[api.Move](),
		func(ctx context.Context, in *named) (*output[api.Preview], error) {
			var to api.Move
			if err := api.Decode(in.RawBody, &to); err != nil {
				return nil, err
			}
			return m.answer(ctx, "move", in.DryRun, func(v *view) ([]edit, error) { return moveProfile(v, m.now(), in.Name, to) })
		})
	register(m, h, "list-candidates", http.MethodGet, "profiles/{name}/candidates", "Where a profile fits, and where not, why", nil,
		func(ctx context.Context, in *struct {
			Name string `path:"name"`
		}) (*output[api.List[api.Candidate]], error) {
			v, err := m.view(ctx, 0)
			if err != nil {
				return nil, err
			}
			p, known := v.spec.Profiles[in.Name]
			if !known {
				return nil, notFound(docID{api.KindProfile, in.Name})
			}
			_, all, _ := fabric.Place(v.spec, v.snapshot(m.now()), p, fabric.Spread)
			return &output[api.List[api.Candidate]]{Body: candidates(v, all)}, nil
		})
	register(m, h, "revert", http.MethodPost, "revert", "Bring back what was wanted earlier: everything, or one profile", reflect.TypeFor[api.Revert](),
		func(ctx context.Context, in *Doc) (*output[api.Preview], error) {
			var to api.Revert
			if err := api.Decode(in.RawBody, &to); err != nil {
				return nil, err
			}
			return m.answer(ctx, "revert", in.DryRun, func(v *view) ([]edit, error) {
				revision, err := v.revisionOf(to.Snapshot, to.Revision)
				if err != nil {
					return nil, err
				}
				then, err := m.wantedAt(ctx, v, revision)
				return revertTo(v, then, to.Profile), err
			})
		})
	register(m, h, "diff", http.MethodGet, "diff", "What differs between the wanted state now and at a revision or snapshot", nil,
		func(ctx context.Context, in *struct {
			Revision string `query:"revision"`
			Snapshot string `query:"snapshot"`
		}) (*output[api.List[api.Difference]], error) {
			v, err := m.view(ctx, 0)
			if err != nil {
				return nil, err
			}
			given, err := number("revision", in.Revision)
			if err != nil {
				return nil, err
			}
			revision, err := v.revisionOf(in.Snapshot, given)
			if err != nil {
				return nil, err
			}
			then, err := m.wantedAt(ctx, v, revision)
			if err != nil {
				return nil, err
			}
			return &output[api.List[api.Difference]]{Body: listOf(v, differences(v, then))}, nil
		})
}

// register adds one operation. Its errors become problems; what was denied is logged.
func register[I, O any](m *Manager, h huma.API, id, method, path, summary string, body reflect.Type, do func(context.Context, *I) (*O, error)) {
	op := huma.Operation{OperationID: id, Method: method, Path: root + path, Summary: summary, SkipValidateBody: true, MaxBodyBytes: maxBody}
	if body != nil {
		schema := h.OpenAPI().Components.Schemas.Schema(body, true, id)
		op.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{"application/json": {Schema: schema}}}
	}
	huma.Register(h, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := do(ctx, in)
		if err != nil {
			p := newProblem(err)
			if p.Status == http.StatusForbidden {
				m.refused(actorOf(ctx), method, root+path, err)
			}
			return nil, p
		}
		return out, nil
	})
}

// answer carries out a change for whoever asks.
func (m *Manager) answer(ctx context.Context, verb, dryRun string, build func(*view) ([]edit, error)) (*output[api.Preview], error) {
	if dryRun != "" && dryRun != "true" && dryRun != "false" {
		return nil, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("dryRun %q", dryRun), Why: "unknown", Remedy: "use true or false"}
	}
	p, err := m.change(ctx, request{who: actorOf(ctx), verb: verb, dryRun: dryRun == "true", build: build})
	if err != nil {
		return nil, err
	}
	return &output[api.Preview]{Body: p, ETag: etag(p.Revision)}, nil
}

// number reads a query's number; absent is 0. Huma would refuse others without a code.
func number(name, text string) (int64, error) {
	n, err := strconv.ParseInt(cmp.Or(text, "0"), 10, 64)
	if err != nil || n < 0 {
		return 0, &flow.Fault{Code: "E_VALUE", What: fmt.Sprintf("%s %q", name, text), Why: "not a number", Remedy: "use a whole number"}
	}
	return n, nil
}

func etag(revision int64) string { return strconv.Quote(strconv.FormatInt(revision, 10)) }

type listInput struct {
	Limit  string `query:"limit" doc:"at most so many; 0 for all"`
	After  string `query:"after" doc:"name after which to begin: the continue of the page before"`
	Blade  string `query:"blade" doc:"only what is on this blade"`
	Tenant string `query:"tenant" doc:"only this tenant's"`
	Labels string `query:"labels" doc:"only what has these: NAME=VALUE, NAME!=VALUE, NAME, !NAME, with commas between"`
}

// readable adds the two operations that read a kind. all returns the objects in the
// order of their names; unlisted how many are left out of a list, of a kind of which any are.
func readable[T any](m *Manager, h huma.API, plural string, all func(*view, filter) []T, unlisted ...func(*view, filter) int) {
	register(m, h, "list-"+plural, http.MethodGet, plural, "List "+plural, nil, func(ctx context.Context, in *listInput) (*output[api.List[T]], error) {
		v, err := m.view(ctx, 0)
		if err != nil {
			return nil, err
		}
		limit, err := number("limit", in.Limit)
		if err != nil {
			return nil, err
		}
		labels, err := api.ParseSelector(in.Labels)
		if err != nil {
			return nil, err
		}
		asked := filter{blade: in.Blade, tenant: in.Tenant}
		page := listOf(v, all(v, asked))
		for _, count := range unlisted {
			page.Metadata.Unlisted += count(v, asked)
		}
		page.Items = slices.DeleteFunc(page.Items, func(o T) bool { return !labels.Selects(headOf(&o).Metadata.Labels) })
		if in.After != "" {
			i := slices.IndexFunc(page.Items, func(o T) bool { return headOf(&o).Metadata.Name == in.After })
			if i < 0 {
				return nil, &flow.Fault{Code: "E_COMPACTED", What: "page after " + strconv.Quote(in.After), Why: "that object is gone", Remedy: "list from the beginning", Err: store.ErrCompacted}
			}
			page.Items = page.Items[i+1:]
		}
		if n := int(limit); n > 0 && len(page.Items) > n {
			page.Metadata.Remaining = len(page.Items) - n
			page.Items = page.Items[:n]
			page.Metadata.Continue = headOf(&page.Items[n-1]).Metadata.Name
		}
		return &output[api.List[T]]{Body: page, ETag: etag(v.revision)}, nil
	})
	register(m, h, "get-"+plural, http.MethodGet, plural+"/{name}", "Read one of "+plural+"; / in its name is written %2F", nil, func(ctx context.Context, in *struct {
		Name string `path:"name"`
	}) (*output[T], error) {
		v, err := m.view(ctx, 0)
		if err != nil {
			return nil, err
		}
		found := all(v, filter{name: in.Name})
		if len(found) == 0 {
			return nil, notFound(docID{singular(plural), in.Name})
		}
		return &output[T]{Body: found[0], ETag: etag(headOf(&found[0]).Metadata.Revision)}, nil
	})
}

// singular is a kind's name for one of it.
func singular(plural string) string {
	if stem, ends := strings.CutSuffix(plural, "ies"); ends {
		return stem + "y"
	}
	if plural == "chassis" {
		return plural
	}
	return strings.TrimSuffix(plural, "s")
}

// wanted adds the operations of a kind that users write.
func wanted[T any](m *Manager, h huma.API, plural, kind string, all func(*view, filter) []T) {
	readable(m, h, plural, all)
	type One struct {
		Name    string `path:"name"`
		DryRun  string `query:"dryRun" doc:"true to be told what would happen"`
		IfMatch string `header:"If-Match" doc:"revision that the object must have"`
		IfNone  string `header:"If-None-Match" doc:"* if it must not exist"`
	}
	type put struct {
		One
		RawBody []byte `contentType:"application/json"`
	}
	precondition := func(v *view, in One) error {
		was := v.docs[docID{kind, in.Name}]
		if in.IfNone == "*" && was != nil {
			return failed(docID{kind, in.Name}, "it exists already")
		}
		if in.IfMatch != "" && (was == nil || etag(was.head.Metadata.Revision) != etagOf(in.IfMatch)) {
			return failed(docID{kind, in.Name}, "its revision is not "+in.IfMatch)
		}
		return nil
	}
	register(m, h, "put-"+plural, http.MethodPut, plural+"/{name}", "Create or change one of "+plural+"; the same again changes nothing", reflect.TypeFor[T](),
		func(ctx context.Context, in *put) (*output[api.Preview], error) {
			d, err := decodeDoc(kind, in.RawBody, api.Decode)
			if err != nil {
				return nil, err
			}
			if d.Name != in.Name {
				return nil, &flow.Fault{Code: "E_NAME", What: "field metadata.name", Why: fmt.Sprintf("it is %q and the path says %q", d.Name, in.Name), Remedy: "make them agree"}
			}
			verb := "apply"
			if s, ok := d.value.(*api.Snapshot); ok {
				verb, s.Spec.Made = "snapshot", m.now().UTC()
			}
			return m.answer(ctx, verb, in.DryRun, func(v *view) ([]edit, error) {
				if err := precondition(v, in.One); err != nil {
					return nil, err
				}
				if s, ok := d.value.(*api.Snapshot); ok {
					if s.Spec.Revision == 0 {
						s.Spec.Revision = v.revision
					}
					if err := v.reaches(s.Spec.Revision); err != nil {
						return nil, &flow.Fault{Code: "E_VALUE", What: "field spec.revision", Why: err.Error(), Remedy: "use one that there is"}
					}
				}
				return applyDocs(v, m.now(), d)
			})
		})
	register(m, h, "delete-"+plural, http.MethodDelete, plural+"/{name}", "Delete one of "+plural, nil, func(ctx context.Context, in *One) (*output[api.Preview], error) {
		return m.answer(ctx, "delete", in.DryRun, func(v *view) ([]edit, error) {
			if err := precondition(v, *in); err != nil {
				return nil, err
			}
			return deleteDoc(v, docID{kind, in.Name})
		})
	})
}

// etagOf returns an If-Match header with quotes, which some clients leave out.
func etagOf(s string) string { return strconv.Quote(strings.Trim(strings.TrimPrefix(s, "W/"), `"`)) }

// failed is the problem of a precondition that does not hold.
func failed(id docID, why string) error {
	return &problem{Status: http.StatusPreconditionFailed, Title: http.StatusText(http.StatusPreconditionFailed), Code: "E_CONFLICT", What: id.String(), Why: why, Remedy: "read it again and repeat the change"}
}

// revisionOf returns the revision that a snapshot names, or the one given.
func (v *view) revisionOf(snapshot string, revision int64) (int64, error) {
	if snapshot == "" {
		return revision, nil
	}
	d := v.doc(api.KindSnapshot, snapshot)
	if d == nil {
		return 0, notFound(docID{api.KindSnapshot, snapshot})
	}
	return d.value.(*api.Snapshot).Spec.Revision, nil
}
