package manager

import (
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// changes counts the history records that there are, and returns the first one's number.
func changes(t *testing.T, s store.Store) (n int, first uint64) {
	t.Helper()
	list, _, err := s.List(t.Context(), store.AllHistory)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) > 0 {
		first, _ = list[0].Key.Number()
	}
	return len(list), first
}

// TestHistoryIsKept: changes are forgotten by number and by age, revert works within what
// is kept, and a snapshot means the same whatever was forgotten.
func TestHistoryIsKept(t *testing.T) {
	s := store.NewMemory()
	var later atomic.Int64 // the manager's own goroutines look at the clock too
	m := bareWith(t, s, Config{
		Now:  func() time.Time { return noon.Add(time.Duration(later.Load())) },
		Keep: Keep{Changes: 10, Days: 30},
	})
	l := asLeader(t, m, s)
	tidy := func() {
		t.Helper()
		if err := l.tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, at, err := s.List(t.Context(), store.AllHistory)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.view(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	const large = 150 // networks: one change that does not fit a transaction
	apply := func(n, version int) {
		t.Helper()
		if err := m.apply(t.Context(), networks(n, version)...); err != nil {
			t.Fatal(err)
		}
	}
	at := func(revision int64) (map[string]int, error) {
		docs, err := m.wantedAt(t.Context(), m.latest(), revision)
		return versions(&view{docs: docs}), err
	}
	apply(large, 1)
	if err := m.apply(t.Context(), fmt.Sprintf(`{"apiVersion":"bladeflow/v1","kind":"Snapshot","metadata":{"name":"early"},"spec":{"revision":%d}}`, 1)); err != nil {
		t.Fatal(err)
	}
	for version := 3; version <= 20; version++ {
		apply(1, version)
	}
	tidy()
	if n, first := changes(t, s); n != 10 || first != 11 {
		t.Errorf("%d changes are left, from %d on", n, first)
	}
	for revision := int64(10); revision <= 20; revision++ {
		if got, err := at(revision); err != nil || got[fmt.Sprint(revision)] != 1 || got["1"] != large-1 {
			t.Errorf("revision %d: %v, %v", revision, got, err)
		}
	}
	if got, err := at(1); err != nil || got["1"] != large || len(got) != 1 {
		t.Errorf("what the snapshot means: %v, %v", got, err)
	}
	for _, revision := range []int64{2, 9} {
		if _, err := at(revision); !errors.Is(err, store.ErrCompacted) {
			t.Errorf("revision %d is forgotten: %v", revision, err)
		}
	}
	wantSwept(t, l, s)
	if len(m.latest().events) != 10 || m.latest().events[0].Metadata.Revision != 11 {
		t.Errorf("%d events, the first %s", len(m.latest().events), m.latest().events[0].Metadata.Name)
	}
	if late, err := bare(t, s).view(t.Context(), 1); err != nil || late.oldest != 11 || late.revision != 20 || !late.states[1] {
		t.Errorf("who begins now sees history from %d to %d and states %v, %v", late.oldest, late.revision, late.states, err)
	}

	later.Store(int64(31 * 24 * time.Hour))
	apply(1, 21)
	tidy()
	if n, first := changes(t, s); n != 1 || first != 21 {
		t.Errorf("after a month %d changes are left, from %d on", n, first)
	}
	if got, err := at(20); err != nil || got["20"] != 1 {
		t.Errorf("before the first that is left: %v, %v", got, err)
	}
	then, err := m.wantedAt(t.Context(), m.latest(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.change(t.Context(), request{who: self, verb: "revert", build: func(v *view) ([]edit, error) { return revertTo(v, then, ""), nil }}); err != nil {
		t.Fatal(err)
	}
	if got := versions(m.latest()); got["1"] != large || got[""] != 1 {
		t.Errorf("after the revert: %v", got)
	}
	if _, err := m.change(t.Context(), request{who: self, verb: "delete", build: func(v *view) ([]edit, error) { return deleteDoc(v, docID{api.KindSnapshot, "early"}) }}); err != nil {
		t.Fatal(err)
	}
	tidy()
	if left, _, err := s.List(t.Context(), store.AllStates); err != nil || len(left) != 0 {
		t.Errorf("states without a snapshot: %d, %v", len(left), err)
	}
	wantSwept(t, l, s)
}

// TestSweepSpares: chunks that somebody has put and does not refer to yet are not swept,
// nor is anything when a change comes between.
func TestSweepSpares(t *testing.T) {
	s := store.NewMemory()
	m := bare(t, s)
	if err := m.apply(t.Context(), networks(1, 1)...); err != nil {
		t.Fatal(err)
	}
	l := asLeader(t, m, s)
	loose := store.Chunk(store.Sum{1})
	there := func() bool { _, err := s.Read(t.Context(), loose); return err == nil }
	err := m.withTurn(t.Context(), func(store.Compare) error {
		if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(loose, []byte("x"))}); err != nil {
			return err
		}
		if _, err := l.sweepChunks(t.Context(), m.latest()); !errors.Is(err, store.ErrConflict) || !there() {
			t.Errorf("swept while somebody writes: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(store.History(2), []byte(`{"spec":{"changes":[],"before":[]}}`))}); err != nil {
		t.Fatal(err)
	}
	stale := *m.latest()
	stale.revision = 1
	if _, err := s.Txn(t.Context(), append(l.unless(&stale), store.Absent(store.WritingKey)), []store.Op{store.Delete(loose)}); !errors.Is(err, store.ErrConflict) {
		t.Errorf("swept what a change may refer to: %v", err)
	}
	eventually(t, "the change is seen", func() bool { return m.latest().revision == 2 })
	if _, err := l.sweepChunks(t.Context(), m.latest()); err != nil || there() {
		t.Errorf("a loose chunk stays: %v", err)
	}
	yesterday := &leader{Manager: m, fence: store.CreatedAt(store.Election("none"), 1)}
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Put(loose, []byte("x"))}); err != nil {
		t.Fatal(err)
	}
	if _, err := yesterday.sweepChunks(t.Context(), m.latest()); err == nil || !there() {
		t.Error("yesterday's leader swept")
	}
}

// TestCompacts: where the store does not forget by itself, the leader has it forget what
// is older than its last round.
func TestCompacts(t *testing.T) {
	s := store.NewMemory()
	m := bareWith(t, s, Config{Compact: s.Compact})
	l := asLeader(t, m, s)
	for version := range 3 {
		if err := m.apply(t.Context(), networks(1, version)...); err != nil {
			t.Fatal(err)
		}
		if err := l.tidy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if b := <-s.Watch(t.Context(), store.Everything, 0); !errors.Is(b.Err, store.ErrCompacted) {
		t.Errorf("nothing was compacted: %v", b.Err)
	}
	if v, err := m.view(t.Context(), 0); err != nil || v.revision != 3 {
		t.Error(v.revision, err)
	}
}

// TestFull: a store at its quota refuses changes with the reason, answers reads, and the
// state is the one before.
func TestFull(t *testing.T) {
	must.Long(t, "fills a store")
	server, err := store.Start(t.Context(), store.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Quota: 8 << 20, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	m := bare(t, server.Local())
	for version := 1; err == nil && version < 500; version++ {
		err = m.apply(t.Context(), networks(400, version)...)
	}
	if !errors.Is(err, store.ErrNoSpace) {
		t.Fatal(err)
	}
	if p := newProblem(err); p.Status != 507 || p.Code != "E_NO_SPACE" || p.Remedy == "" {
		t.Errorf("%+v", p)
	}
	v, err := m.view(t.Context(), 0)
	if err != nil || len(versions(v)) != 1 || versions(v)[fmt.Sprint(v.revision)] != 400 {
		t.Errorf("change %d, %v, %v", v.revision, versions(v), err)
	}
}
