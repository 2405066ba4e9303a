package client

import (
	"context"
	"net/http"
	"net/url"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// Collection is the objects of one kind, under the name by which the API serves them.
// T is what they are read as; with json.RawMessage they come as they are, with fields
// that this program may not know.
type Collection[T any] string

// The collections. Users write the first six; the others are made of those and of
// what blades report.
const (
	Chassis     Collection[api.Chassis]        = "chassis"
	Blades      Collection[api.Blade]          = "blades"
	Networks    Collection[api.Network]        = "networks"
	RuleSets    Collection[api.RuleSet]        = "rulesets"
	Profiles    Collection[api.Profile]        = "profiles"
	Snapshots   Collection[api.Snapshot]       = "snapshots"
	NICs        Collection[api.NICView]        = "nics"
	PFs         Collection[api.PFView]         = "pfs"
	VFs         Collection[api.VFView]         = "vfs"
	VNICs       Collection[api.VNICView]       = "vnics"
	Rules       Collection[api.RuleView]       = "rules"
	Policies    Collection[api.PolicyView]     = "policies"
	Generations Collection[api.GenerationView] = "generations"
	Events      Collection[api.Event]          = "events"
)

// Query narrows a list; the zero Query asks for all.
type Query struct {
	Blade  string // only what is on this blade
	Tenant string // only this tenant's
	Labels string // only what has these, see api.ParseSelector
}

func (q Query) values() url.Values {
	v := url.Values{}
	for name, value := range map[string]string{"blade": q.Blade, "tenant": q.Tenant, "labels": q.Labels} {
		if value != "" {
			v.Set(name, value)
		}
	}
	return v
}

// List returns the objects in the order of their names, all of them.
func (k Collection[T]) List(ctx context.Context, c *Client, q Query) (api.List[T], error) {
	var out api.List[T]
	err := c.do(ctx, request{method: http.MethodGet, path: string(k), query: q.values()}, &out)
	return out, err
}

// Get returns one object, ErrNotFound if there is none.
func (k Collection[T]) Get(ctx context.Context, c *Client, name string) (T, error) {
	var out T
	err := c.do(ctx, request{method: http.MethodGet, path: k.path(name)}, &out)
	return out, err
}

func (k Collection[T]) path(name string) string { return string(k) + "/" + url.PathEscape(name) }
