package store

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

func leases(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	lease, err := s.Lease(ctx, 5*time.Second)
	if err != nil || lease.TTL < 5*time.Second {
		t.Fatal(lease, err)
	}
	from := sure(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease), PutLeased(key("b"), nil, lease), PutLeased(key("freed"), nil, lease), Put(key("kept"), nil)}))
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("freed"), []byte("no lease"))}))
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
	from := sure(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease)}))
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
	must.Long(t, "waits for twice the time of a lease")
	ctx := ctxOf(t)
	_, key := space(t)
	lease, err := s.Lease(ctx, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sure(t)(s.Txn(ctx, nil, []Op{PutLeased(key("a"), nil, lease)}))
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
	sure(t)(s.Txn(ctx, []Compare{first.Fence()}, []Op{Put(key("a"), []byte("first"))}))
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
	sure(t)(s.Txn(ctx, []Compare{next.Fence()}, []Op{Put(key("a"), []byte("second"))}))
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
