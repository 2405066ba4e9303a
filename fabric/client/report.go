package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// Busiest returns the things of a kind (see api.BusyKinds) that have most to do: by the
// column sort, or the kind's first; at most limit, or all if that is 0. How many are left
// is in the list's metadata.
func (c *Client) Busiest(ctx context.Context, kind, blade, sort string, limit int) (api.List[api.Busy], error) {
	q := url.Values{}
	for name, value := range map[string]string{"blade": blade, "sort": sort} {
		if value != "" {
			q.Set(name, value)
		}
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var out api.List[api.Busy]
	err := c.do(ctx, request{method: http.MethodGet, path: "busy/" + url.PathEscape(kind), query: q}, &out)
	return out, err
}

// CapacityInput returns what the manager's capacity report is made of, as a document of
// kind CapacityInput, with the demand of so many days; 0 is the manager's own choice.
func (c *Client) CapacityInput(ctx context.Context, days int) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	r := request{method: http.MethodGet, path: "reports/capacity/input", query: url.Values{}}
	if days > 0 {
		r.query.Set("window", strconv.Itoa(days))
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	return text, nil
}
