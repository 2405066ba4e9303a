package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Config says where the manager is and who asks.
type Config struct {
	Server string      // https://HOST:PORT; http:// only to this machine itself
	TLS    *tls.Config // as pki.ClientTLS makes it; nil for http

	// Timeout bounds one request whose context has no deadline, and how long a watch
	// may be silent; 30 s if zero.
	Timeout time.Duration
}

// Client is a user of one manager. All methods may be called by any goroutine.
type Client struct {
	base    string
	http    *http.Client
	tls     *tls.Config // nil for http
	timeout time.Duration
}

// New makes a client. It opens no connection.
func New(c Config) (*Client, error) {
	refuse := func(why, remedy string) (*Client, error) {
		return nil, &flow.Fault{Code: "E_SERVER", What: fmt.Sprintf("server %q", c.Server), Why: why, Remedy: remedy}
	}
	u, err := url.Parse(c.Server)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return refuse("it is not an address of a manager", "write https://HOST:PORT")
	case strings.Trim(u.Path, "/") != "" || u.RawQuery != "" || u.User != nil:
		return refuse("it has more than scheme, host and port", "write https://HOST:PORT")
	case u.Scheme == "https" && c.TLS == nil:
		return refuse("nothing says who you are", "name your certificate")
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return refuse("without TLS everyone in between could read and change what you send", "use https")
	}
	if c.Timeout == 0 {
		c.Timeout = 30 * time.Second
	}
	t := &http.Transport{TLSClientConfig: c.TLS, ForceAttemptHTTP2: true, Proxy: http.ProxyFromEnvironment,
		DialContext: (&net.Dialer{Timeout: min(c.Timeout, 5*time.Second)}).DialContext, MaxIdleConnsPerHost: 4}
	return &Client{base: u.Scheme + "://" + u.Host, http: &http.Client{Transport: t}, tls: c.TLS, timeout: c.Timeout}, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Server is where the manager is.
func (c *Client) Server() string { return c.base }

// request is one call of the API.
type request struct {
	method string
	path   string // below /api/v1/, escaped
	query  url.Values
	header http.Header
	body   any // encoded as JSON; nil for none
}

// do sends a request and decodes the answer into out, unless that is nil.
func (c *Client) do(ctx context.Context, r request, out any) error {
	if _, bounded := ctx.Deadline(); !bounded {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.timeout)
		defer cancel()
	}
	resp, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return c.unanswered(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return c.strange(fmt.Sprintf("%s %s was answered with something else than JSON of version 1: %v", r.method, r.path, err))
	}
	return nil
}

// send returns an answer of success, whose body the caller closes; others are faults.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	at := c.base + "/api/v1/" + r.path
	if len(r.query) > 0 {
		at += "?" + r.query.Encode()
	}
	var body io.Reader
	if r.body != nil {
		text, err := json.Marshal(r.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, at, body)
	if err != nil {
		return nil, err
	}
	if r.header != nil {
		req.Header = r.header
	}
	if r.body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unanswered(ctx, cmp.Or(c.alert(ctx, err), err))
	}
	if resp.StatusCode == http.StatusOK {
		return resp, nil
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, c.unanswered(ctx, err)
	}
	return nil, c.refused(resp, text)
}

// closeIdle lets go of connections that nobody uses.
func (c *Client) closeIdle() { c.http.CloseIdleConnections() }

// asFault reports whether err is a fault already.
func asFault(err error) (*flow.Fault, bool) { return errors.AsType[*flow.Fault](err) }
