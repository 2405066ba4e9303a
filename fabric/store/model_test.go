package store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestMemoryIsLikeEtcd does the same random things to the fake and to a real server,
// over few keys so that they meet, and compares every answer and then everything that
// a watch tells. Both begin at revision 1, so even revisions are equal.
func TestMemoryIsLikeEtcd(t *testing.T) {
	t.Parallel()
	rounds := 1500
	if testing.Short() {
		rounds = 400
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	ctx := ctxOf(t)
	fake, real := NewMemory(), started(t, ServerConfig{}).Local()

	key := func() Key { return Wanted("k", fmt.Sprint(r.IntN(2)), fmt.Sprint(r.IntN(3))) }
	var fakeLeases, realLeases []*Lease
	for round := range rounds {
		var compares []Compare
		for range r.IntN(3) {
			k := key()
			switch known := fake.keys[k]; r.IntN(4) {
			case 0:
				compares = append(compares, Absent(k))
			case 1:
				compares = append(compares, CreatedAt(k, known.Created))
			case 2:
				compares = append(compares, Unchanged(KV{Key: k, Modified: known.Modified}))
			default:
				compares = append(compares, Unchanged(KV{Key: k, Modified: 1 + r.Int64N(fake.revision)}))
			}
		}
		var fakeOps, realOps []Op
		both := func(o Op) { fakeOps, realOps = append(fakeOps, o), append(realOps, o) }
		for range r.IntN(4) {
			switch r.IntN(6) {
			case 0:
				both(Delete(key()))
			case 1:
				both(DeleteAll(WantedOf("k", fmt.Sprint(r.IntN(3)))))
			case 2:
				if n := len(fakeLeases); n > 0 {
					k, i := key(), r.IntN(n)
					fakeOps, realOps = append(fakeOps, PutLeased(k, nil, fakeLeases[i])), append(realOps, PutLeased(k, nil, realLeases[i]))
				}
			default:
				both(Put(key(), fmt.Append(nil, round)))
			}
		}
		at, err := fake.Txn(ctx, compares, fakeOps)
		at2, err2 := real.Txn(ctx, compares, realOps)
		if at != at2 || fmt.Sprint(err) != fmt.Sprint(err2) {
			if !errors.Is(err, ErrLeaseLost) || !errors.Is(err2, ErrLeaseLost) {
				t.Fatalf("round %d: %v %v\nfake %d, %v\nreal %d, %v", round, compares, fakeOps, at, err, at2, err2)
			}
		}
		switch r.IntN(30) {
		case 0:
			a, err := fake.Lease(ctx, time.Minute)
			b, err2 := real.Lease(ctx, time.Minute)
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			fakeLeases, realLeases = append(fakeLeases, a), append(realLeases, b)
		case 1:
			if n := len(fakeLeases); n > 0 {
				i := r.IntN(n)
				if err, err2 := fakeLeases[i].Revoke(ctx), realLeases[i].Revoke(ctx); err != nil || err2 != nil {
					t.Fatal(err, err2)
				}
			}
		case 2:
			list, at, err := fake.List(ctx, WantedOf("k", "1"))
			list2, at2, err2 := real.List(ctx, WantedOf("k", "1"))
			if diff := cmp.Diff(list, list2, ignoreLease); diff != "" || at != at2 || err != nil || err2 != nil {
				t.Fatalf("round %d: %s %d %d %v %v", round, diff, at, at2, err, err2)
			}
		}
	}
	for _, prefix := range []Prefix{Everything, WantedOf("k", "1"), Prefix(Wanted("k", "0", "2"))} {
		until := fake.revision
		after := r.Int64N(until)
		want := history(ctx, t, fake, prefix, after, until)
		if diff := cmp.Diff(want, history(ctx, t, real, prefix, after, until), ignoreLease); diff != "" {
			t.Errorf("changes of %s after %d: %s", prefix, after, diff)
		}
	}
}

// ignoreLease: lease IDs differ; that there is one does not. Empty values are equal.
var ignoreLease = cmp.Transformer("leased", func(kv KV) map[string]any {
	return map[string]any{"key": kv.Key, "value": string(kv.Value), "created": kv.Created, "modified": kv.Modified, "leased": kv.Lease != 0}
})

// history returns the changes under prefix up to a revision, told by a watch: a last
// change marks the end.
func history(ctx context.Context, t *testing.T, s Store, prefix Prefix, after, until int64) []Event {
	t.Helper()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	end := Key(prefix) + "~"
	sure(t)(s.Txn(ctx, nil, []Op{Put(end, nil)}))
	defer func() { sure(t)(s.Txn(ctx, nil, []Op{Delete(end)})) }()
	var events []Event
	for b := range s.Watch(ctx, prefix, after) {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		for _, e := range b.Events {
			if e.Key == end && e.Modified > until {
				return events
			}
			events = append(events, e)
		}
	}
	t.Fatal("the watch ended")
	return nil
}
