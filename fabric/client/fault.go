package client

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// What the manager's faults and this package's own are about, for errors.Is.
var (
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed meanwhile")
	ErrDenied      = errors.New("denied")
	ErrGone        = errors.New("history is gone")
	ErrUnreachable = errors.New("unreachable")

	// ErrLost is an ErrUnreachable after which whoever said so tries again.
	ErrLost = fmt.Errorf("connection lost: %w", ErrUnreachable)
)

// kinds says what an answer's status means.
var kinds = map[int]error{
	http.StatusNotFound:           ErrNotFound,
	http.StatusConflict:           ErrConflict,
	http.StatusPreconditionFailed: ErrConflict,
	http.StatusUnauthorized:       ErrDenied,
	http.StatusForbidden:          ErrDenied,
	http.StatusGone:               ErrGone,
	http.StatusServiceUnavailable: ErrUnreachable,
}

// refused is the fault in an answer that is not one of success.
func (c *Client) refused(resp *http.Response, text []byte) error {
	var p struct{ Code, What, Why, Remedy string }
	if err := json.Unmarshal(text, &p); err != nil || p.Code == "" {
		why := "it answers " + resp.Status
		if said := strings.TrimSpace(string(text)); said != "" && len(said) < 200 && !strings.HasPrefix(said, "<") {
			why += ": " + said
		}
		f := c.strange(why)
		f.Err = kinds[resp.StatusCode]
		return f
	}
	return &flow.Fault{Code: p.Code, What: p.What, Why: p.Why, Remedy: p.Remedy, Err: kinds[resp.StatusCode]}
}

// strange is the fault of a server that does not speak like a manager.
func (c *Client) strange(why string) *flow.Fault {
	return &flow.Fault{Code: "E_API", What: "manager " + c.base, Why: why, Remedy: "see that the address is a manager's, and http or https is right"}
}

// unanswered is the fault of a request that got no answer, or half of one.
func (c *Client) unanswered(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	f := &flow.Fault{Code: "E_UNREACHABLE", What: "manager " + c.base, Why: cause(err), Remedy: "see that it runs and can be reached", Err: ErrUnreachable}
	var untrusted *tls.CertificateVerificationError
	var alert *net.OpError
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		f.Why = "no answer in time"
	case errors.As(err, &untrusted):
		f.Code, f.Remedy, f.Err = "E_UNTRUSTED", "use the CA by which the server's certificate was made", ErrDenied
		if _, wrong := errors.AsType[x509.HostnameError](err); wrong {
			f.Remedy = "use a name or address that the server's certificate has (bladeflow pki init --host)"
		}
	case errors.As(err, &alert) && alert.Op == "remote error":
		f.Code, f.Why, f.Remedy, f.Err = "E_DENIED", "it refuses the certificate: "+cause(err), "use a person's certificate of this fabric's CA that has not ended", ErrDenied
	case strings.Contains(err.Error(), "server gave HTTP response to HTTPS client"):
		return c.strange("it speaks http, not https")
	}
	return f
}

// alert returns why the server ended a connection in the middle of a request, if it
// says so; else nil. With TLS 1.3 a server looks at the client's certificate when the
// client is sending already, and what that sees may be a broken pipe; the reason is
// behind it, for whoever connects and only listens.
func (c *Client) alert(ctx context.Context, broken error) error {
	op, known := errors.AsType[*net.OpError](broken)
	if _, untrusted := errors.AsType[*tls.CertificateVerificationError](broken); c.tls == nil || ctx.Err() != nil || untrusted || known && (op.Op == "dial" || op.Op == "remote error") {
		return nil
	}
	conn, err := (&tls.Dialer{Config: c.tls}).DialContext(ctx, "tcp", strings.TrimPrefix(c.base, "https://"))
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(time.Second))
	_, err = conn.Read(make([]byte, 1))
	if op, known = errors.AsType[*net.OpError](err); known && op.Op == "remote error" {
		return err
	}
	return nil
}

// cause returns what is wrong without the request's address, which the fault names.
func cause(err error) string {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	return strings.TrimPrefix(err.Error(), "remote error: ")
}

// again says that the fault is not the last word: what was lost is being made again.
func again(err error) error {
	f, ok := asFault(err)
	if !ok {
		return err
	}
	g := *f
	g.Err = ErrLost
	return &g
}
