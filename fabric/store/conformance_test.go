package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
)

// compactable is what the suite needs beyond Store.
type compactable interface {
	Store
	Compact(ctx context.Context, revision int64) error
	Close() error
}

// conform runs the one suite that every store passes. The cases share a store, each
// in its own tenant.
func conform(t *testing.T, s compactable) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, compactable)
	}{
		{"read, put, delete", readPutDelete},
		{"transactions are all or nothing", allOrNothing},
		{"conflicts say why", conflictsSayWhy},
		{"limits", limits},
		{"many writers", manyWriters},
		{"lists are of one revision", listThenWatch},
		{"watch", watchSeesAll},
		{"watch of what is compacted", watchCompacted},
		{"watch ends with its context", watchEnds},
		{"leases", leases},
		{"a lease outlives its context by its time", leaseRunsOut},
		{"a lease is kept alive", leaseIsKept},
		{"election", election},
		{"contexts", contexts},
		{"backup and restore", backupRestore},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, s) })
	}
	t.Run("closed", func(t *testing.T) { closes(t, s) })
}

func ctxOf(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// space is a test's own part of the store.
func space(t *testing.T) (prefix Prefix, key func(string) Key) {
	return WantedOf("test", t.Name()), func(name string) Key { return Wanted("test", t.Name(), name) }
}

func must(t *testing.T) func(revision int64, err error) int64 {
	return func(revision int64, err error) int64 {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return revision
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func wantFault(t *testing.T, err error, code, why string) {
	t.Helper()
	var f *flow.Fault
	if !errors.As(err, &f) || f.Code != code || !strings.Contains(f.Why, why) {
		t.Fatalf("got %v, want %s because %q", err, code, why)
	}
}

func values(list []KV) map[Key]string {
	m := map[Key]string{}
	for _, kv := range list {
		m[kv.Key] = string(kv.Value)
	}
	return m
}

func readPutDelete(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	_, err := s.Read(ctx, key("a"))
	wantErr(t, err, ErrNotFound)

	first := must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	second := must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), nil), Put(key("b"), []byte("2"))}))
	if second != first+1 {
		t.Errorf("revision %d after %d", second, first)
	}
	a, err := s.Read(ctx, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Created != first || a.Modified != second || len(a.Value) != 0 || a.Lease != 0 {
		t.Errorf("%+v", a)
	}
	list, at, err := s.List(ctx, prefix)
	if err != nil || at != second {
		t.Fatal(at, err)
	}
	if diff := cmp.Diff(map[Key]string{key("a"): "", key("b"): "2"}, values(list)); diff != "" {
		t.Error(diff)
	}

	if r := must(t)(s.Txn(ctx, nil, []Op{Delete(key("none")), DeleteAll(prefix + "x")})); r != second {
		t.Errorf("deleting nothing made revision %d of %d", r, second)
	}
	must(t)(s.Txn(ctx, nil, []Op{Delete(key("a"))}))
	_, err = s.Read(ctx, key("a"))
	wantErr(t, err, ErrNotFound)
	third := must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("3"))}))
	if a, err = s.Read(ctx, key("a")); err != nil || a.Created != third {
		t.Errorf("made anew at %d: %+v, %v", third, a, err)
	}
	must(t)(s.Txn(ctx, nil, []Op{DeleteAll(prefix)}))
	if list, _, err = s.List(ctx, prefix); err != nil || len(list) != 0 {
		t.Errorf("after all was deleted: %v, %v", list, err)
	}
}

func allOrNothing(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	must(t)(s.Txn(ctx, []Compare{Absent(key("a")), Absent(key("b"))}, []Op{Put(key("a"), []byte("1"))}))
	_, err := s.Txn(ctx, []Compare{Absent(key("b")), Absent(key("a"))}, []Op{Put(key("b"), []byte("1")), Delete(key("a"))})
	wantErr(t, err, ErrConflict)
	list, _, err := s.List(ctx, prefix)
	if diff := cmp.Diff(map[Key]string{key("a"): "1"}, values(list)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	must(t)(s.Txn(ctx, nil, nil))

	for _, ops := range [][]Op{
		{Put(key("a"), nil), Put(key("a"), nil)},
		{Put(key("a"), nil), Delete(key("a"))},
		{DeleteAll(prefix), Put(key("a"), nil)},
	} {
		_, err := s.Txn(ctx, nil, ops)
		wantFault(t, err, "E_KEY_TWICE", "")
	}
	must(t)(s.Txn(ctx, nil, []Op{Delete(key("a")), DeleteAll(prefix)}))
}

func conflictsSayWhy(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	_, key := space(t)
	must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	old, err := s.Read(ctx, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Txn(ctx, []Compare{Absent(key("a"))}, nil)
	wantFault(t, err, "E_CONFLICT", "it exists already")
	must(t)(s.Txn(ctx, []Compare{Unchanged(old), CreatedAt(key("a"), old.Created)}, []Op{Put(key("a"), []byte("2"))}))
	_, err = s.Txn(ctx, []Compare{Unchanged(old)}, nil)
	wantFault(t, err, "E_CONFLICT", fmt.Sprintf("changed at revision %d, after revision %d was read", old.Modified+1, old.Modified))
	must(t)(s.Txn(ctx, []Compare{CreatedAt(key("a"), old.Created)}, []Op{Delete(key("a"))}))
	for _, c := range []Compare{Unchanged(old), CreatedAt(key("a"), old.Created)} {
		_, err = s.Txn(ctx, []Compare{c}, nil)
		wantFault(t, err, "E_CONFLICT", "it was deleted")
	}
	must(t)(s.Txn(ctx, []Compare{Absent(key("a"))}, []Op{Put(key("a"), []byte("3"))}))
	_, err = s.Txn(ctx, []Compare{CreatedAt(key("a"), old.Created)}, nil)
	wantFault(t, err, "E_CONFLICT", "made anew")
}

func limits(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	var ops []Op
	var compares []Compare
	for i := range MaxOps + 1 {
		ops = append(ops, Put(key(fmt.Sprint(i)), nil))
		compares = append(compares, Absent(key(fmt.Sprint(i))))
	}
	must(t)(s.Txn(ctx, compares[1:], ops[1:]))
	_, err := s.Txn(ctx, nil, ops)
	wantErr(t, err, ErrTooLarge)
	_, err = s.Txn(ctx, compares, nil)
	wantErr(t, err, ErrTooLarge)
	big := make([]byte, MaxBytes-len(key("big")))
	must(t)(s.Txn(ctx, nil, []Op{Put(key("big"), big)}))
	_, err = s.Txn(ctx, nil, []Op{Put(key("big"), append(big, 0))})
	wantErr(t, err, ErrTooLarge)
	must(t)(s.Txn(ctx, nil, []Op{DeleteAll(prefix)}))
}

func manyWriters(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	_, key := space(t)
	must(t)(s.Txn(ctx, nil, []Op{Put(key("n"), nil)}))
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				now, err := s.Read(ctx, key("n"))
				if err == nil {
					_, err = s.Txn(ctx, []Compare{Unchanged(now)}, []Op{Put(key("n"), append(now.Value, '.'))})
				}
				if err == nil {
					done++
				} else if !errors.Is(err, ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if now, err := s.Read(ctx, key("n")); err != nil || len(now.Value) != writers*each {
		t.Errorf("%d writes arrived of %d: %v", len(now.Value), writers*each, err)
	}
}

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
			must(t)(s.Txn(ctx, nil, []Op{Put(key(fmt.Sprint(i%7)), fmt.Append(nil, i))}))
		}
		must(t)(s.Txn(ctx, nil, []Op{Delete(key("3")), Put(key("end"), nil)}))
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
	r1 := must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	r2 := must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("2")), Put(key("b"), []byte("2"))}))
	must(t)(s.Txn(ctx, nil, []Op{Put(Wanted("test", t.Name()+"-other", "a"), []byte("elsewhere"))}))

	late := s.Watch(ctx, prefix, r1)  // from the past
	all := s.Watch(ctx, prefix, r1-1) // with the first
	live := s.Watch(ctx, prefix, r2)  // from now
	one := s.Watch(ctx, Prefix(key("b")), r1)
	r3 := must(t)(s.Txn(ctx, nil, []Op{Delete(key("a"))}))

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
		revisions = append(revisions, must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), fmt.Append(nil, i))})))
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
	must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("on"))}))
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
	must(t)(s.Txn(ctx, nil, []Op{Put(key("a"), nil)}))
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

func leases(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	lease, err := s.Lease(ctx, 5*time.Second)
	if err != nil || lease.TTL < 5*time.Second {
		t.Fatal(lease, err)
	}
	from := must(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease), PutLeased(key("b"), nil, lease), PutLeased(key("freed"), nil, lease), Put(key("kept"), nil)}))
	must(t)(s.Txn(ctx, nil, []Op{Put(key("freed"), []byte("no lease"))}))
	if a, err := s.Read(ctx, key("a")); err != nil || a.Lease != lease.ID {
		t.Error(a, err)
	}
	select {
	case <-lease.Lost():
		t.Fatal("lost at once")
	default:
	}
	changes := s.Watch(ctx, prefix, from+1)
	if err := lease.Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	events := collect(t, changes, 2)
	if !events[0].Deleted || !events[1].Deleted || events[0].Modified != events[1].Modified {
		t.Errorf("a lease's keys did not vanish at once: %+v", events)
	}
	select {
	case <-lease.Lost():
	case <-time.After(5 * time.Second):
		t.Error("not lost after it was revoked")
	}
	list, _, err := s.List(ctx, prefix)
	if diff := cmp.Diff(map[Key]string{key("freed"): "no lease", key("kept"): ""}, values(list)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	_, err = s.Txn(ctx, nil, []Op{Put(key("x"), nil), PutLeased(key("y"), nil, lease)})
	wantErr(t, err, ErrLeaseLost)
	_, err = s.Read(ctx, key("x"))
	wantErr(t, err, ErrNotFound)
	if err := lease.Revoke(ctx); err != nil {
		t.Errorf("revoked again: %v", err)
	}
}

// leaseRunsOut: what ends without a word is seen to be gone, not before its time.
func leaseRunsOut(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	alive, die := context.WithCancel(ctx)
	lease, err := s.Lease(alive, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	from := must(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease)}))
	time.Sleep(lease.TTL / 4)
	die()
	start := time.Now()
	<-lease.Lost()
	if e := collect(t, s.Watch(ctx, prefix, from), 1); !e[0].Deleted {
		t.Errorf("%+v", e)
	}
	if took := time.Since(start); took < lease.TTL/3 || took > lease.TTL+4*time.Second {
		t.Errorf("the key of a lease of %v vanished after %v", lease.TTL, took)
	}
}

func leaseIsKept(t *testing.T, s compactable) {
	if testing.Short() {
		t.Skip("waits for twice the time of a lease")
	}
	ctx := ctxOf(t)
	_, key := space(t)
	lease, err := s.Lease(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	must(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease)}))
	time.Sleep(2*lease.TTL + 500*time.Millisecond)
	if _, err := s.Read(ctx, key("a")); err != nil {
		t.Error(err)
	}
	if err := lease.Revoke(ctx); err != nil {
		t.Error(err)
	}
}

func election(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	_, key := space(t)
	name := t.Name()
	_, err := Leading(ctx, s, name)
	wantErr(t, err, ErrNotFound)

	firstCtx, stopFirst := context.WithCancel(ctx)
	first, err := Campaign(firstCtx, s, name, "first", time.Second)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan *Leader, 1)
	go func() {
		l, err := Campaign(ctx, s, name, "second", time.Second)
		if err != nil {
			t.Error(err)
		}
		second <- l
	}()
	must(t)(s.Txn(ctx, []Compare{first.Fence()}, []Op{Put(key("a"), []byte("first"))}))
	select {
	case <-second:
		t.Fatal("two lead")
	case <-time.After(200 * time.Millisecond):
	}
	if who, err := Leading(ctx, s, name); err != nil || who != "first" {
		t.Error(who, err)
	}

	stopFirst() // it dies, and believes that it leads
	next := <-second
	if next == nil {
		t.FailNow()
	}
	_, err = s.Txn(ctx, []Compare{first.Fence()}, []Op{Put(key("a"), []byte("stale"))})
	wantErr(t, err, ErrConflict)
	must(t)(s.Txn(ctx, []Compare{next.Fence()}, []Op{Put(key("a"), []byte("second"))}))
	if next.Revision() <= first.Revision() {
		t.Errorf("revisions %d, then %d", first.Revision(), next.Revision())
	}
	select {
	case <-first.Lost():
	default:
		t.Error("the first does not know that it is over")
	}

	third := make(chan *Leader, 1)
	go func() {
		l, _ := Campaign(ctx, s, name, "third", time.Second)
		third <- l
	}()
	start := time.Now()
	if err := next.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	last := <-third
	if last == nil {
		t.Fatal("no third")
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("resigning took %v", took)
	}
	waiting, giveUp := context.WithTimeout(ctx, 300*time.Millisecond)
	defer giveUp()
	if _, err := Campaign(waiting, s, name, "fourth", time.Second); err == nil {
		t.Error("a fourth leads beside the third")
	}
	if err := last.Resign(ctx); err != nil {
		t.Error(err)
	}
}

func contexts(t *testing.T, s compactable) {
	_, key := space(t)
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	for _, c := range []struct {
		ctx  context.Context
		want error
	}{{cancelled, context.Canceled}, {late, ErrUnreachable}, {late, context.DeadlineExceeded}} {
		_, err := s.Read(c.ctx, key("a"))
		wantErr(t, err, c.want)
		_, _, err = s.List(c.ctx, Everything)
		wantErr(t, err, c.want)
		_, err = s.Txn(c.ctx, nil, []Op{Put(key("a"), nil)})
		wantErr(t, err, c.want)
		_, err = s.Lease(c.ctx, time.Second)
		wantErr(t, err, c.want)
	}
	_, err := s.Read(t.Context(), key("a"))
	wantErr(t, err, ErrNotFound)
}

func backupRestore(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	before, err := Init(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	_, key := space(t)
	lease, err := s.Lease(ctx, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	must(t)(s.Txn(ctx, nil, []Op{PutLeased(Status("b1", "agent"), []byte("seen"), lease)}))
	for i := range 300 {
		must(t)(s.Txn(ctx, nil, []Op{Put(key(fmt.Sprint(i)), fmt.Append(nil, "value\n", i, "\x00\xff"))}))
	}
	must(t)(s.Txn(ctx, nil, []Op{Put(key("big"), make([]byte, 900_000))}))
	must(t)(s.Txn(ctx, nil, []Op{Put(key("big2"), make([]byte, 900_000))}))

	var file strings.Builder
	info, err := Backup(ctx, s, &file)
	if err != nil || info.Keys < 303 {
		t.Fatal(info, err)
	}
	want, _, err := s.List(ctx, Everything)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Restore(ctx, s, strings.NewReader(file.String()))
	wantFault(t, err, "E_STORE_NOT_EMPTY", "")

	must(t)(s.Txn(ctx, nil, []Op{DeleteAll(Everything)}))
	if err := lease.Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(ctx, s, strings.NewReader(file.String())); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.List(ctx, Everything)
	if err != nil {
		t.Fatal(err)
	}
	wanted, found := values(want), values(got)
	for _, kv := range want {
		if kv.Lease != 0 {
			delete(wanted, kv.Key)
		}
	}
	delete(wanted, SchemaKey)
	delete(found, SchemaKey)
	if diff := cmp.Diff(wanted, found); diff != "" {
		t.Error(diff)
	}
	after, err := ReadSchema(ctx, s)
	if err != nil || after.Version != before.Version || after.Store == before.Store {
		t.Errorf("schema %+v, then %+v, %v", before, after, err)
	}
}

// closes is the last case: nothing hangs on a closed store.
func closes(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	lease, err := s.Lease(ctx, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, at, err := s.List(ctx, prefix)
	if err != nil {
		t.Fatal(err)
	}
	changes := s.Watch(ctx, prefix, at)
	time.Sleep(50 * time.Millisecond)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	b := <-changes
	wantErr(t, b.Err, ErrClosed)
	<-lease.Lost()
	_, err = s.Read(ctx, key("a"))
	wantErr(t, err, ErrClosed)
	_, err = s.Txn(ctx, nil, []Op{Put(key("a"), nil)})
	wantErr(t, err, ErrClosed)
	_, err = s.Lease(ctx, time.Second)
	wantErr(t, err, ErrClosed)
	wantErr(t, (<-s.Watch(ctx, prefix, at)).Err, ErrClosed)
}
