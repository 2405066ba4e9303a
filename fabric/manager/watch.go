package manager

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// A watch is one stream of Server-Sent Events: `GET /api/v1/watch?since=CURSOR`, where
// the cursor is a list's. An event's id is a cursor, too, so a browser that lost the
// connection resumes with Last-Event-ID; if the history in between is gone the answer
// is 410, and the client lists again.
//
// Events are named after what changed and carry the object as a GET returns it, or
// {deleted: true}. What changes several times within a beat is sent once, as it is
// then. Each client watches the store for itself: a slow one harms nobody. When nothing
// changes there is a breath now and then, so that a client can tell quiet from gone.

// beat is the shortest time between two sendings to one client, and breath the longest;
// retry is how soon a browser that lost its stream shall ask again.
const (
	beat   = 200 * time.Millisecond
	breath = 10 * time.Second
	retry  = time.Second
)

func (m *Manager) watch(w http.ResponseWriter, r *http.Request) {
	since := r.Header.Get("Last-Event-ID")
	if since == "" {
		since = r.URL.Query().Get("since")
	}
	v, err := m.view(r.Context(), 0)
	if err != nil {
		writeProblem(w, err)
		return
	}
	cursor := v.cursor
	if since != "" {
		if cursor, err = strconv.ParseInt(since, 10, 64); err != nil || cursor < 0 {
			writeProblem(w, &flow.Fault{Code: "E_VALUE", What: "since " + strconv.Quote(since), Why: "not a cursor", Remedy: "use the cursor of a list"})
			return
		}
	}
	s := stream{Manager: m, w: w, flush: http.NewResponseController(w), pending: map[string]item{}}
	if err := s.run(r.Context(), cursor); err != nil {
		if !s.begun {
			writeProblem(w, err)
		} else if errors.Is(err, store.ErrCompacted) {
			fmt.Fprint(w, "event: reload\ndata: {}\n\n")
		}
	}
}

// stream is one client's.
type stream struct {
	*Manager
	w       http.ResponseWriter
	flush   *http.ResponseController
	begun   bool
	wrote   time.Time
	pending map[string]item // by event and name
	order   []string
}

type item struct{ event, name string }

func (s *stream) run(ctx context.Context, cursor int64) error {
	changes := s.store.Watch(ctx, store.Everything, cursor)
	// A watch that cannot be answered says so at once; one that can may be silent.
	next := time.NewTimer(beat)
	for {
		select {
		case b, open := <-changes:
			if !open {
				return nil
			}
			if b.Err != nil {
				return b.Err
			}
			cursor = b.Revision
			for _, e := range b.Events {
				s.note(e)
			}
		case <-next.C:
			if err := s.send(ctx, cursor); err != nil {
				return err
			}
			next.Reset(beat)
		case <-ctx.Done():
			return nil
		}
	}
}

// note remembers which objects an event of the store concerns.
func (s *stream) note(e store.Event) {
	key := e.Key
	add := func(event, name string) {
		at := event + " " + name
		if _, known := s.pending[at]; !known {
			s.order = append(s.order, at)
			s.pending[at] = item{event, name}
		}
	}
	if kind, _, name, ok := key.WantedName(); ok {
		if kind == api.KindAssignment {
			kind = api.KindProfile
		}
		add(strings.ToLower(kind), name)
		return
	}
	if blade, part, ok := key.StatusOf(); ok {
		if part == api.PartRules {
			add("rules", blade)
		} else {
			add("blade", blade)
		}
		return
	}
	if rest, ok := strings.CutPrefix(string(key), string(store.AllHistory)); ok {
		if n, err := strconv.ParseInt(rest, 10, 64); err == nil && !e.Deleted { // that history is forgotten is no news
			add("event", strconv.FormatInt(n, 10))
		}
		return
	}
	if blade, ok := key.Blade(); ok && key == store.Generation(blade) {
		add("blade", blade)
	}
}

// send writes what is pending, or a breath if there was nothing for long.
func (s *stream) send(ctx context.Context, cursor int64) error {
	var text bytes.Buffer
	if !s.begun {
		s.begun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(&text, "retry: %d\nid: %d\nevent: hello\ndata: {}\n\n", retry.Milliseconds(), cursor)
	}
	v, err := s.view(ctx, cursor)
	if err != nil {
		return err
	}
	for i, at := range s.order {
		it := s.pending[at]
		data, err := json.Marshal(s.object(v, it))
		if err != nil {
			return err
		}
		if i == len(s.order)-1 {
			fmt.Fprintf(&text, "id: %d\n", cursor)
		}
		fmt.Fprintf(&text, "event: %s\ndata: %s\n\n", it.event, data)
	}
	clear(s.pending)
	s.order = s.order[:0]
	if text.Len() == 0 {
		if time.Since(s.wrote) < breath {
			return nil
		}
		fmt.Fprintf(&text, "id: %d\nevent: breath\ndata: {}\n\n", cursor)
	}
	s.wrote = time.Now()
	_ = s.flush.SetWriteDeadline(time.Now().Add(breath)) // not all writers have deadlines
	if _, err := s.w.Write(text.Bytes()); err != nil {
		return err
	}
	return s.flush.Flush()
}

// gone is an object that is not there any more.
type gone struct {
	Kind     string       `json:"kind"`
	Metadata api.Metadata `json:"metadata"`
	Deleted  bool         `json:"deleted"`
}

// object returns what a GET would.
func (s *stream) object(v *view, it item) any {
	f := filter{name: it.name}
	switch it.event {
	case "chassis":
		return first(v.chassis(f), it)
	case "blade":
		return first(s.blades(v, f), it)
	case "network":
		return first(v.networks(f), it)
	case "ruleset":
		return first(v.ruleSets(f), it)
	case "profile":
		return first(s.profiles(v, f), it)
	case "snapshot":
		return first(v.snapshots(f), it)
	case "event":
		return first(v.history(f), it)
	case "rules":
		for id, r := range v.blades {
			if string(id) == it.name && r.rules != nil {
				return r.rules
			}
		}
	}
	return first([]none{}, it)
}

func first[T any](found []T, it item) any {
	if len(found) > 0 {
		return found[0]
	}
	return gone{Kind: it.event, Metadata: api.Metadata{Name: it.name}, Deleted: true}
}
