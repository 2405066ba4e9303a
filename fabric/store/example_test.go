package store_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/bladeflow/bladeflow/fabric/store"
)

// A reader lists, then watches from the revision of the list: it misses nothing and
// sees nothing twice.
func ExampleStore_watch() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	var s store.Store = store.NewMemory()
	blade := store.BladeWanted("b1")

	_, at, _ := s.List(ctx, blade)
	changes := s.Watch(ctx, blade, at)
	_, _ = s.Txn(ctx, nil, []store.Op{store.Put(store.Generation("b1"), []byte("7"))})
	for _, e := range (<-changes).Events {
		fmt.Println(e.Key, string(e.Value))
	}
	// Output:
	// /bladeflow/v1/blade/b1/wanted/generation 7
}

// A leader's writes carry its fence. Once another leads, they fail, whatever the
// former leader believes.
func ExampleLeader_Fence() {
	ctx := context.Background()
	var s store.Store = store.NewMemory()
	publish := func(l *store.Leader, generation string) error {
		_, err := s.Txn(ctx, []store.Compare{l.Fence()}, []store.Op{store.Put(store.Generation("b1"), []byte(generation))})
		return err
	}

	former, _ := store.Campaign(ctx, s, "compile", "manager-1", time.Second)
	fmt.Println(publish(former, "1"))
	_ = former.Resign(ctx)
	leader, _ := store.Campaign(ctx, s, "compile", "manager-2", time.Second)
	fmt.Println(publish(leader, "2"))
	fmt.Println(errors.Is(publish(former, "1 again"), store.ErrConflict))
	// Output:
	// <nil>
	// <nil>
	// true
}
