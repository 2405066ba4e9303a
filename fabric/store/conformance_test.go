package store

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

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

func sure(t *testing.T) func(revision int64, err error) int64 {
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
