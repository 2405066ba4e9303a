package store

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// collect reads batches until n events came, and checks what every batch promises.
func collect(t *testing.T, changes <-chan Batch, n int) []Event {
	t.Helper()
	var events []Event
	var last int64
	timeout := time.After(15 * time.Second)
	for len(events) < n {
		select {
		case b, open := <-changes:
			if !open || b.Err != nil {
				t.Fatalf("after %d of %d events: open %v, %v", len(events), n, open, b.Err)
			}
			for _, e := range b.Events {
				if e.Modified <= last && (len(events) == 0 || events[len(events)-1].Modified != e.Modified) || e.Modified > b.Revision {
					t.Fatalf("event of revision %d in a batch up to %d, after %d", e.Modified, b.Revision, last)
				}
				events = append(events, e)
			}
			last = b.Revision
		case <-timeout:
			t.Fatalf("%d of %d events came", len(events), n)
		}
	}
	return events
}

// listThenWatch lists while others write, and continues the list by a watch: together
// they are the state in the end.
func listThenWatch(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	const n = 60
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range n {
			sure(t)(s.Txn(ctx, nil, []Op{Put(key(fmt.Sprint(i%7)), fmt.Append(nil, i))}))
		}
		sure(t)(s.Txn(ctx, nil, []Op{Delete(key("3")), Put(key("end"), nil)}))
	})
	list, at, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	state := values(list)
	for b := range s.Watch(ctx, prefix, at) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, e := range b.Events {
			if e.Deleted {
				delete(state, e.Key)
			} else {
				state[e.Key] = string(e.Value)
			}
		}
		if _, ended := state[key("end")]; ended {
			break
		}
	}
	wg.Wait()
	list, _, err = s.List(ctx, prefix)
	if diff := cmp.Diff(values(list), state); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func watchSeesAll(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	r1 := sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	r2 := sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("2")), Put(key("b"), []byte("2"))}))
	sure(t)(s.Txn(ctx, nil, []Op{Put(Wanted("test", t.Name()+"-other", "a"), []byte("elsewhere"))}))

	late := s.Watch(ctx, prefix, r1)  // from the past
	all := s.Watch(ctx, prefix, r1-1) // with the first
	live := s.Watch(ctx, prefix, r2)  // from now
	one := s.Watch(ctx, Prefix(key("b")), r1)
	r3 := sure(t)(s.Txn(ctx, nil, []Op{Delete(key("a"))}))

	put := func(name, value string, created, modified int64) Event {
		return Event{KV: KV{Key: key(name), Value: []byte(value), Created: created, Modified: modified}}
	}
	gone := Event{KV: KV{Key: key("a"), Modified: r3}, Deleted: true}
	want := []Event{put("a", "1", r1, r1), put("a", "2", r1, r2), put("b", "2", r2, r2), gone}
	for _, w := range []struct {
		name    string
		changes <-chan Batch
		want    []Event
	}{{"all", all, want}, {"late", late, want[1:]}, {"live", live, want[3:]}, {"one key", one, want[2:3]}} {
		if diff := cmp.Diff(w.want, collect(t, w.changes, len(w.want))); diff != "" {
			t.Errorf("%s: %s", w.name, diff)
		}
	}

	b := <-s.Watch(ctx, prefix, r3+1000)
	wantFault(t, b.Err, "E_COMPACTED", "replaced by an older one")
}

func watchCompacted(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	var revisions []int64
	for i := range 5 {
		revisions = append(revisions, sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), fmt.Append(nil, i))})))
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	live := s.Watch(running, prefix, revisions[4])
	if err := s.Compact(ctx, revisions[3]); err != nil {
		t.Fatal(err)
	}
	changes := s.Watch(ctx, prefix, revisions[1])
	wantErr(t, (<-changes).Err, ErrCompacted)
	if _, open := <-changes; open {
		t.Error("the channel stays open after an error")
	}
	if events := collect(t, s.Watch(ctx, prefix, revisions[3]), 1); events[0].Modified != revisions[4] {
		t.Errorf("%+v", events)
	}
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("on"))}))
	collect(t, live, 1) // compaction does not disturb who is up to date
	if a, err := s.Read(ctx, key("a")); err != nil || string(a.Value) != "on" {
		t.Error(a, err)
	}
	wantErr(t, s.Compact(ctx, revisions[2]), ErrCompacted)
	wantErr(t, s.Compact(ctx, revisions[4]+1000), ErrCompacted)
}

func watchEnds(t *testing.T, s compactable) {
	prefix, key := space(t)
	ctx, cancel := context.WithCancel(t.Context())
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), nil)}))
	unread, read := s.Watch(ctx, prefix, 0), s.Watch(ctx, Prefix(key("b")), 0)
	cancel()
	for _, changes := range []<-chan Batch{read, unread} {
		for b := range changes { // at most what was under way, then closed
			if b.Err != nil && !errors.Is(b.Err, ErrCompacted) {
				t.Error(b.Err)
			}
		}
	}
}
