package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// query is how a look is written in a request.
func (l *Look) query() string {
	q := url.Values{"port": l.Ports, "rule": l.Rules, "verdict": l.Verdicts, "tier": l.Tiers}
	if l.Rate != 0 {
		q.Set("rate", strconv.Itoa(l.Rate))
	}
	if l.Frames {
		q.Set("frames", "true")
	}
	return q.Encode()
}

// maxNames is how many ports, and how many rules, a look may name: a worker compares each
// frame with all of them.
const maxNames = 64

// lookOf reads the look of a request. What it names twice it has once.
func lookOf(q url.Values) (Look, error) {
	l := Look{Rate: DefaultRate, Frames: q.Get("frames") == "true"}
	for what, into := range map[string]*[]string{"port": &l.Ports, "rule": &l.Rules, "verdict": &l.Verdicts, "tier": &l.Tiers} {
		had := map[string]bool{}
		for _, name := range q[what] {
			if !had[name] {
				had[name], *into = true, append(*into, name)
			}
		}
		if len(had) > maxNames {
			return l, &flow.Fault{Code: "E_VALUE", What: "observe", Why: fmt.Sprintf("%d names of a %s, and a worker compares each frame with all: %d may be named", len(had), what, maxNames), Remedy: "name fewer, or none and choose among what is shown"}
		}
	}
	if text := q.Get("rate"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > MaxRate {
			return l, &flow.Fault{Code: "E_VALUE", What: "rate " + text, Why: fmt.Sprintf("not a number of lines a second from 1 to %d", MaxRate), Remedy: fmt.Sprintf("use %d", DefaultRate)}
		}
		l.Rate = n
	}
	return l, nil
}

// Observe asks the agent that listens on a socket ([File.Observe]) for what becomes of
// packets. It calls began when the agent looks, and each for every line, until ctx ends,
// each fails, or the agent does. Errors: E_UNREACHABLE, E_DENIED, and what the agent says
// of the look.
func Observe(ctx context.Context, socket string, l Look, began func(), each func(*Observed) error) error {
	gone := func(why string) error {
		return &flow.Fault{Code: "E_UNREACHABLE", What: "agent at " + socket, Why: why, Remedy: "see that it runs; the socket is spec.observe.socket of its configuration", Err: store.ErrUnreachable}
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent/observe?"+l.query(), nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	var dialing *net.OpError
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, fs.ErrPermission):
		return &flow.Fault{Code: "E_DENIED", What: "agent at " + socket, Why: "only its own user and the group of spec.observe.group may look", Remedy: "run this as root, or as one of the group", Err: fs.ErrPermission}
	case errors.As(err, &dialing):
		return gone(dialing.Err.Error())
	case err != nil:
		return gone(err.Error())
	}
	defer answer.Body.Close()
	lines := json.NewDecoder(answer.Body)
	if answer.StatusCode != http.StatusOK {
		var said api.Error
		if err := lines.Decode(&said); err != nil || said.Code == "" {
			return &flow.Fault{Code: "E_API", What: "agent at " + socket, Why: "it answers " + answer.Status, Remedy: "name the socket of an agent of this version"}
		}
		fault := said.Fault()
		if fault.Code == "E_NOT_FOUND" {
			fault.Err = store.ErrNotFound
		}
		return fault
	}
	began()
	for {
		var o Observed
		if err := lines.Decode(&o); ctx.Err() != nil {
			return ctx.Err()
		} else if errors.Is(err, io.EOF) {
			return gone("it has ended")
		} else if err != nil {
			return gone(err.Error())
		}
		if err := each(&o); err != nil {
			return err
		}
	}
}
