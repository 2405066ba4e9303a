package store

import (
	"context"
	"testing"
	"time"
)

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
