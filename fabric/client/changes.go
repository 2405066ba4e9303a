package client

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// A change is one transaction: all of it or nothing. Each method returns what it did
// or, with dryRun, what it would do. A change that was not answered (ErrUnreachable)
// may have been made: read before you repeat it, though repeating does no harm.

// Apply puts objects, created or changed, in one change. An object with a revision is
// put only if it still has that revision (else ErrConflict).
func (c *Client) Apply(ctx context.Context, objects []json.RawMessage, dryRun bool) (api.Preview, error) {
	return c.change(ctx, request{method: http.MethodPost, path: "apply", body: api.List[json.RawMessage]{APIVersion: api.Version, Kind: "List", Items: objects}}, dryRun)
}

// Delete deletes objects, named by kind and name; one with a revision only if it still
// has that revision. What needs each other can go together, in any order.
func (c *Client) Delete(ctx context.Context, objects []api.Head, dryRun bool) (api.Preview, error) {
	return c.change(ctx, request{method: http.MethodPost, path: "delete", body: api.List[api.Head]{APIVersion: api.Version, Kind: "List", Items: objects}}, dryRun)
}

// Snapshot names the wanted state as it is after a revision, 0 for now. It fails if
// there is a snapshot of this name.
func (c *Client) Snapshot(ctx context.Context, name string, spec api.SnapshotSpec) (api.Preview, error) {
	r := request{method: http.MethodPut, path: Snapshots.path(name), body: api.Snapshot{Head: api.NewHead(api.KindSnapshot, name), Spec: spec}, header: http.Header{}}
	r.header.Set("If-None-Match", "*")
	return c.change(ctx, r, false)
}

// Move brings a profile elsewhere.
func (c *Client) Move(ctx context.Context, profile string, to api.Move, dryRun bool) (api.Preview, error) {
	return c.change(ctx, request{method: http.MethodPost, path: Profiles.path(profile) + "/move", body: to}, dryRun)
}

// Revert brings back what was wanted earlier.
func (c *Client) Revert(ctx context.Context, to api.Revert, dryRun bool) (api.Preview, error) {
	return c.change(ctx, request{method: http.MethodPost, path: "revert", body: to}, dryRun)
}

func (c *Client) change(ctx context.Context, r request, dryRun bool) (api.Preview, error) {
	if dryRun {
		r.query = url.Values{"dryRun": {"true"}}
	}
	var out api.Preview
	err := c.do(ctx, r, &out)
	return out, err
}

// Candidates says where a profile fits, and where not, why.
func (c *Client) Candidates(ctx context.Context, profile string) (api.List[api.Candidate], error) {
	var out api.List[api.Candidate]
	err := c.do(ctx, request{method: http.MethodGet, path: Profiles.path(profile) + "/candidates"}, &out)
	return out, err
}

// Diff says what differs between the wanted state now and as it was: at a snapshot if
// that is named, else after a revision.
func (c *Client) Diff(ctx context.Context, snapshot string, revision int64) (api.List[api.Difference], error) {
	q := url.Values{"revision": {strconv.FormatInt(revision, 10)}}
	if snapshot != "" {
		q = url.Values{"snapshot": {snapshot}}
	}
	var out api.List[api.Difference]
	err := c.do(ctx, request{method: http.MethodGet, path: "diff", query: q}, &out)
	return out, err
}
