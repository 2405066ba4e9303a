package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// Event is one change that a watch tells of.
type Event struct {
	Name   string          // what changed: blade, profile, rules, …
	Object json.RawMessage // as it is now, or {"kind", "metadata", "deleted": true}
}

// pauses between attempts to connect again.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
)

// Watch yields every change after a cursor, which a list has, until ctx ends. When the
// connection breaks it yields an error around ErrLost, connects again and goes on where
// it was: nothing is missed, but what was under way may come twice. Whoever does not
// want to wait stops there. Any other error is the last thing it yields;
// ErrGone says that the history in between is gone, so list again.
func (c *Client) Watch(ctx context.Context, cursor int64) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		s := stream{Client: c, cursor: cursor, yield: yield}
		pause := firstPause
		for ctx.Err() == nil {
			before := s.cursor
			err := s.once(ctx)
			switch {
			case s.stopped || ctx.Err() != nil:
				return
			case !errors.Is(err, ErrUnreachable):
				yield(Event{}, err)
				return
			case !yield(Event{}, again(err)):
				return
			}
			if s.cursor != before {
				pause = firstPause
			}
			wait(ctx, pause)
			pause = min(2*pause, lastPause)
		}
	}
}

// stream is a watch; it outlives its connections.
type stream struct {
	*Client
	cursor  int64 // nothing at or before it is to come
	yield   func(Event, error) bool
	stopped bool // the reader wants no more
}

// once watches over one connection, until that breaks.
func (s *stream) once(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	quiet := time.AfterFunc(s.timeout, cancel) // a manager breathes every 10 s
	defer quiet.Stop()
	lost := func(err error) error {
		s.closeIdle()
		if ctx.Err() != nil { // by us: the reader's own context is looked at by the caller
			ctx, err = context.Background(), context.DeadlineExceeded
		}
		return s.unanswered(ctx, err)
	}
	r := request{method: http.MethodGet, path: "watch", header: http.Header{"Last-Event-Id": {strconv.FormatInt(s.cursor, 10)}, "Accept": {"text/event-stream"}}}
	resp, err := s.send(ctx, r)
	if err != nil {
		if _, is := asFault(err); is {
			return err
		}
		return lost(err)
	}
	defer resp.Body.Close()
	in := bufio.NewReader(resp.Body)
	for {
		m, err := readMessage(in)
		if err != nil {
			return lost(err)
		}
		quiet.Reset(s.timeout)
		switch m.event {
		case "", "hello":
		case "reload":
			return s.gone()
		default:
			if !s.yield(Event{m.event, m.data}, nil) {
				s.stopped = true
				return nil
			}
		}
		if m.id != "" {
			if s.cursor, err = strconv.ParseInt(m.id, 10, 64); err != nil {
				return s.strange("the id of an event is " + strconv.Quote(m.id))
			}
		}
	}
}

func (s *stream) gone() error {
	f := s.strange("the history that the watch needs is gone")
	f.Code, f.Remedy, f.Err = "E_COMPACTED", "list again and watch from there", ErrGone
	return f
}

// message is one message of an event stream.
type message struct {
	event, id string
	data      []byte
}

// readMessage reads up to the next empty line.
func readMessage(in *bufio.Reader) (message, error) {
	var m message
	for {
		line, err := in.ReadString('\n')
		if err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF // streams never end by themselves
			}
			return m, err
		}
		line = strings.TrimRightFunc(line, unicode.IsSpace)
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch {
		case line == "":
			return m, nil
		case name == "event":
			m.event = value
		case name == "id":
			m.id = value
		case name == "data":
			m.data = append(m.data, value...)
		}
	}
}

// Change is an object as it is now, or the name of one that is there no more.
type Change[T any] struct {
	Name    string
	Object  T // the zero value if Deleted
	Deleted bool
}

// settling is how long Follow waits after an event, for more come with it.
const settling = 200 * time.Millisecond

// Follow yields every object of a list, and again whenever it is not as it was, until
// ctx ends. Errors are as those of [Client.Watch], but lost history is caught up with.
//
// What an object shows depends on others (a profile is active when its blade has
// reported), so a change of anything makes Follow list again, and what it yields is
// what differs. That costs one list every 200 ms at most.
func (k Collection[T]) Follow(ctx context.Context, c *Client, q Query) iter.Seq2[Change[T], error] {
	return func(yield func(Change[T], error) bool) {
		f := follower[T]{yield: yield}
		raw := Collection[json.RawMessage](k)
		for ctx.Err() == nil {
			list, err := raw.List(ctx, c, q)
			switch {
			case ctx.Err() != nil:
				return
			case errors.Is(err, ErrUnreachable) && f.known != nil:
				if !yield(Change[T]{}, again(err)) {
					return
				}
				wait(ctx, lastPause)
				continue
			case err != nil:
				yield(Change[T]{}, err)
				return
			}
			if !f.take(list.Items) || !f.await(ctx, c, list.Metadata.Cursor, string(k) == string(Rules) || string(k) == string(Blades) || string(k) == string(Policies)) {
				return
			}
		}
	}
}

// wait returns after d, or when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

type follower[T any] struct {
	known map[string][]byte // by name; nil before the first list
	yield func(Change[T], error) bool
}

// take yields what is not as it was.
func (f *follower[T]) take(items []json.RawMessage) bool {
	if f.known == nil {
		f.known = map[string][]byte{}
	}
	there := make(map[string]bool, len(items))
	for _, raw := range items {
		var head api.Head
		var object T
		if err := errors.Join(json.Unmarshal(raw, &head), json.Unmarshal(raw, &object)); err != nil {
			f.yield(Change[T]{}, err)
			return false
		}
		name := head.Metadata.Name
		there[name] = true
		if bytes.Equal(f.known[name], raw) {
			continue
		}
		f.known[name] = raw
		if !f.yield(Change[T]{Name: name, Object: object}, nil) {
			return false
		}
	}
	for name := range f.known {
		if there[name] {
			continue
		}
		delete(f.known, name)
		if !f.yield(Change[T]{Name: name, Deleted: true}, nil) {
			return false
		}
	}
	return true
}

// await returns when something may have changed after cursor, with false if there is
// nothing more to do.
func (f *follower[T]) await(ctx context.Context, c *Client, cursor int64, counters bool) bool {
	for e, err := range c.Watch(ctx, cursor) {
		switch {
		case errors.Is(err, ErrGone):
			return true
		case errors.Is(err, ErrLost):
			if !f.yield(Change[T]{}, err) {
				return false
			}
			continue
		case err != nil:
			f.yield(Change[T]{}, err)
			return false
		case e.Name == "rules" && !counters:
			continue
		}
		wait(ctx, settling)
		return true
	}
	return false
}
