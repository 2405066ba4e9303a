package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// TestWatch plays a manager whose connections break: each connection serves one script,
// and what the client asks to go on from is noted.
func TestWatch(t *testing.T) {
	scripts := []string{
		"id: 5\nevent: hello\ndata: {}\n\n" + ":\n\n" + "event: blade\ndata: {\"n\":1}\n\nid: 6\nevent: profile\ndata: {\"n\":2}\n\n",
		"id: 6\nevent: hello\ndata: {}\n\nevent: blade\ndata: {\"n\":3}\n\nid: 8\nevent: bla", // cut off in the middle
		"event: blade\ndata: {\"n\":3}\n\nid: 8\nevent: blade\ndata: {\"n\":4}\n\n",
		"event: reload\ndata: {}\n\n",
	}
	var mu sync.Mutex
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.Header.Get("Last-Event-Id"))
		fmt.Fprint(w, scripts[len(asked)-1])
	}))
	defer server.Close()
	c, err := New(Config{Server: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	lost := 0
	for e, err := range c.Watch(t.Context(), 4) {
		switch {
		case errors.Is(err, ErrLost):
			lost++
		case err != nil:
			faulty(t, err, "E_COMPACTED", ErrGone)
			got = append(got, "gone")
		default:
			got = append(got, e.Name+string(e.Object))
		}
	}
	if want := []string{`blade{"n":1}`, `profile{"n":2}`, `blade{"n":3}`, `blade{"n":3}`, `blade{"n":4}`, "gone"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if want := []string{"4", "6", "6", "8"}; !slices.Equal(asked, want) || lost != 3 {
		t.Errorf("asked from %v, want %v; lost %d times", asked, want, lost)
	}
}

// TestWatchSilent: a connection on which nothing comes counts as broken.
func TestWatchSilent(t *testing.T) {
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, "id: 5\nevent: hello\ndata: {}\n\n")
		_ = http.NewResponseController(w).Flush()
		<-ended
	}))
	defer server.Close()
	defer close(ended)
	c, err := New(Config{Server: server.URL, Timeout: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	for e, err := range c.Watch(t.Context(), 4) {
		if !errors.Is(err, ErrLost) {
			t.Errorf("got %v %v", e, err)
		}
		break
	}
}

// TestFollow: what changes while somebody follows comes once each, in its last form.
func TestFollow(t *testing.T) {
	r := newRig(t)
	c := r.as(r.dir, "ann")
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	apply := func(objects ...json.RawMessage) {
		if _, err := c.Apply(ctx, objects, false); err != nil {
			t.Fatal(err)
		}
	}
	apply(network("a", 1, 0), network("b", 2, 0))
	var got []string
	for n, err := range Networks.Follow(ctx, c, Query{}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprintf("%s %d %t", n.Name, n.Object.Spec.VLAN, n.Deleted))
		switch len(got) {
		case 2:
			apply(network("c", 3, 0))
			apply(network("b", 4, 0))
		case 4:
			if _, err := c.Delete(ctx, []api.Head{api.NewHead(api.KindNetwork, "a")}, false); err != nil {
				t.Fatal(err)
			}
		case 5:
			stop()
		}
	}
	if want := []string{"a 1 false", "b 2 false", "b 4 false", "c 3 false", "a 0 true"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	short, stop := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer stop()
	for f, err := range VFs.Follow(short, r.as(r.dir, "vic"), Query{}) {
		t.Errorf("there are no VFs, got %v %v", f, err)
	}
}
