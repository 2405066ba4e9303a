package client

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
)

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
