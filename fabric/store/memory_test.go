package store

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestMemory(t *testing.T) {
	t.Parallel()
	conform(t, NewMemory())
}

// TestMemoryInBubble: a test can decide when leases run out, and the fake leaves no
// goroutine behind.
func TestMemoryInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMemory()
		ctx, die := context.WithCancel(t.Context())
		lease, err := m.Lease(ctx, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		sure(t)(m.Txn(ctx, nil, []Op{PutLeased(Status("b1", "agent"), nil, lease)}))
		changes := m.Watch(t.Context(), AllStatus, m.revision)
		time.Sleep(time.Hour)
		die()
		start := time.Now()
		if e := (<-changes).Events; len(e) != 1 || !e[0].Deleted || time.Since(start) != 10*time.Second {
			t.Errorf("%+v after %v", e, time.Since(start))
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		wantErr(t, (<-changes).Err, ErrClosed)
	})
}
