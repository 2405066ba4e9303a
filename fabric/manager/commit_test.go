package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// bare runs a manager that follows the store and does nothing by itself.
func bare(t *testing.T, s store.Store) *Manager { return bareWith(t, s, Config{}) }

// bareWith is bare with more said of the manager, which may not be said later: it runs.
func bareWith(t *testing.T, s store.Store, c Config) *Manager {
	t.Helper()
	c.Store, c.Log = s, slog.New(slog.DiscardHandler)
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { m.follow(ctx) })
	t.Cleanup(func() { cancel(); done.Wait() })
	return m
}

// asLeader makes m the leader of an election, without leading.
func asLeader(t *testing.T, m *Manager, s store.Store) *leader {
	t.Helper()
	won, err := store.Campaign(t.Context(), s, t.Name(), "m", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	return &leader{Manager: m, fence: won.Fence()}
}

// apply puts documents.
func (m *Manager) apply(ctx context.Context, texts ...string) error {
	var docs []*doc
	for _, text := range texts {
		var head struct{ Kind string }
		if err := json.Unmarshal([]byte(text), &head); err != nil {
			return err
		}
		d, err := decodeDoc(head.Kind, []byte(text), api.Decode)
		if err != nil {
			return err
		}
		docs = append(docs, d)
	}
	_, err := m.change(ctx, request{who: self, verb: "apply", build: func(v *view) ([]edit, error) { return applyDocs(v, m.now(), docs...) }})
	return err
}

// networks returns n networks that say which version they are of.
func networks(n, version int) []string {
	var out []string
	for i := range n {
		out = append(out, fmt.Sprintf(`{"apiVersion":"bladeflow/v1","kind":"Network","metadata":{"name":"n%d","labels":{"version":"%d","filler":%q}},"spec":{"vlan":%d}}`, i, version, strings.Repeat("x", 200), i+1))
	}
	return out
}

// begins is what a reader that begins now knows, and the store's revision.
func begins(t *testing.T, s store.Store) (*view, int64) {
	t.Helper()
	list, revision, err := s.List(t.Context(), store.Everything)
	if err != nil {
		t.Fatal(err)
	}
	all := map[store.Key]store.KV{}
	for _, kv := range list {
		all[kv.Key] = kv
	}
	return told(t, all, revision), revision
}

// told is what a reader that begins at this moment knows.
func told(t *testing.T, all map[store.Key]store.KV, revision int64) *view {
	t.Helper()
	list := slices.SortedFunc(maps.Values(all), func(a, b store.KV) int { return strings.Compare(string(a.Key), string(b.Key)) })
	f := newFollower(time.Now, func(sum store.Sum) ([]byte, error) { return nil, fmt.Errorf("chunk %s is not there", sum) })
	if err := f.load(list, revision); err != nil {
		t.Fatalf("revision %d cannot be read: %v", revision, err)
	}
	v := f.view(nil)
	if v.trouble != nil {
		t.Fatalf("revision %d: %v", revision, v.trouble)
	}
	return v
}

// versions returns which versions of networks a view has.
func versions(v *view) map[string]int {
	out := map[string]int{}
	for _, d := range v.docs {
		out[d.head.Metadata.Labels["version"]]++
	}
	return out
}

// TestLargeChangesAreWhole: at each revision of the store, a reader that begins there and
// one that follows see a change of 500 objects entirely or not at all.
func TestLargeChangesAreWhole(t *testing.T) {
	const n = 500
	s := store.NewMemory()
	m := bare(t, s)
	for version := 1; version <= 3; version++ {
		if err := m.apply(t.Context(), networks(n, version)...); err != nil {
			t.Fatal(err)
		}
	}
	if err := m.apply(t.Context(), networks(1, 4)...); err != nil { // a small one
		t.Fatal(err)
	}
	_, last, err := s.List(t.Context(), store.Everything)
	if err != nil {
		t.Fatal(err)
	}
	all := map[store.Key]store.KV{}
	following := newFollower(time.Now, m.chunk(t.Context()))
	var before *view
	seen := map[int64]int{}
	for b := range s.Watch(t.Context(), store.Everything, 0) {
		byRevision := map[int64][]store.Event{}
		for _, e := range b.Events {
			byRevision[e.Modified] = append(byRevision[e.Modified], e)
		}
		for _, revision := range slices.Sorted(maps.Keys(byRevision)) {
			for _, e := range byRevision[revision] {
				if delete(all, e.Key); !e.Deleted {
					all[e.Key] = e.KV
				}
			}
			if err := following.take(revision, byRevision[revision]...); err != nil {
				t.Fatal(err)
			}
			before = following.view(before)
			for what, v := range map[string]*view{"begins": told(t, all, revision), "follows": before} {
				want := map[string]int{}
				switch {
				case v.revision == 4:
					want = map[string]int{"3": n - 1, "4": 1}
				case v.revision > 0:
					want = map[string]int{fmt.Sprint(v.revision): n}
				}
				if diff := cmp.Diff(want, versions(v)); diff != "" {
					t.Fatalf("who %s at revision %d sees change %d: %s", what, revision, v.revision, diff)
				}
				seen[v.revision]++
			}
		}
		if b.Revision >= last {
			break
		}
	}
	if len(seen) != 5 || seen[2] < 10 {
		t.Errorf("revisions seen of each change: %v", seen)
	}
}

// breaking is a store that loses the answer of one transaction, or the transaction.
type breaking struct {
	store.Store
	mu    sync.Mutex
	count int  // guarded by mu; of transactions
	at    int  // the one that breaks; all later ones do not reach the store
	done  bool // the one that breaks is done, and only its answer is lost
}

func (b *breaking) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := b.count
	b.count++
	lost := fmt.Errorf("transaction %d: %w", n, store.ErrUnreachable)
	switch {
	case n > b.at:
		return 0, lost
	case n == b.at:
		if b.done {
			_, _ = b.Store.Txn(ctx, compares, ops)
		}
		return 0, lost
	}
	return b.Store.Txn(ctx, compares, ops)
}

// TestCrashes: a manager dies at each step of a large change. Others see all of the change
// or nothing, go on, and no chunk is left that nothing refers to.
func TestCrashes(t *testing.T) {
	const n = 300
	for at := 0; ; at++ {
		whole := false
		for _, done := range []bool{false, true} {
			s := store.NewMemory()
			other := bare(t, s)
			if err := other.apply(t.Context(), networks(n, 1)...); err != nil {
				t.Fatal(err)
			}
			b := &breaking{Store: s, at: at, done: done}
			dies := bare(t, b)
			if _, err := dies.view(t.Context(), other.latest().cursor); err != nil {
				t.Fatal(err)
			}
			err := dies.apply(t.Context(), networks(n, 2)...)
			b.mu.Lock()
			whole = b.count <= at
			b.mu.Unlock()
			if err != nil && !errors.Is(err, store.ErrUnreachable) {
				t.Fatal(err)
			}
			if _, err := s.Txn(t.Context(), nil, []store.Op{store.Delete(store.WritingKey)}); err != nil { // as its lease runs out
				t.Fatal(err)
			}
			l := asLeader(t, other, s)
			check := func(when string) *view {
				t.Helper()
				v, revision := begins(t, s)
				if followed, err := other.view(t.Context(), revision); err != nil || !maps.Equal(versions(followed), versions(v)) || followed.revision != v.revision {
					t.Fatalf("death at %d, %v, %s: who follows sees %v, who begins %v", at, done, when, versions(followed), versions(v))
				}
				return v
			}
			v := check("after it")
			if got := versions(v); got[fmt.Sprint(v.revision)] != n || len(got) != 1 || err == nil && v.revision != 2 {
				t.Fatalf("death at %d, %v: change %d, %v, %v", at, done, v.revision, got, err)
			}
			if err := other.apply(t.Context(), networks(1, 3)...); err != nil {
				t.Fatal(err)
			}
			if after := check("after a small change"); after.revision != v.revision+1 || after.pending || versions(after)["3"] != 1 || versions(after)[fmt.Sprint(v.revision)] != n-1 {
				t.Fatalf("death at %d, %v: then %v", at, done, versions(after))
			}
			if err := l.tidy(t.Context()); err != nil {
				t.Fatal(err)
			}
			wantSwept(t, l, s)
			check("after tidying")
		}
		if whole {
			if at < 6 {
				t.Errorf("a large change has %d transactions", at)
			}
			return
		}
	}
}

// wantSwept wants every chunk to be referred to, and every reference to have its chunk.
func wantSwept(t *testing.T, l *leader, s store.Store) {
	t.Helper()
	_, at, err := s.List(t.Context(), store.AllChunks)
	if err != nil {
		t.Fatal(err)
	}
	v, err := l.view(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	used, err := l.referred(t.Context(), v)
	if err != nil {
		t.Fatal(err)
	}
	chunks, _, err := s.List(t.Context(), store.AllChunks)
	if err != nil {
		t.Fatal(err)
	}
	for _, kv := range chunks {
		sum, _ := kv.Key.ChunkOf()
		if !used[sum] {
			t.Errorf("nothing refers to chunk %s", sum)
		}
		delete(used, sum)
	}
	for sum := range used {
		t.Errorf("chunk %s is gone", sum)
	}
}

// TestTwoLargeChanges: two managers make large changes at once; both are made, one after
// the other.
func TestTwoLargeChanges(t *testing.T) {
	s := store.NewMemory()
	var done sync.WaitGroup
	for i := range 2 {
		m := bare(t, s)
		done.Go(func() {
			for version := range 4 {
				var texts []string
				for _, text := range networks(200, version) {
					texts = append(texts, strings.Replace(strings.Replace(text, `"name":"n`, fmt.Sprintf(`"name":"m%d-`, i), 1), `"vlan":`, fmt.Sprintf(`"vlan":%d`, 1+i), 1))
				}
				if err := m.apply(context.Background(), texts...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
	v, err := bare(t, s).view(t.Context(), 1)
	if err != nil || v.revision != 8 || len(v.docs) != 400 || versions(v)["3"] != 400 {
		t.Errorf("change %d, %v, %v", v.revision, versions(v), err)
	}
}

// TestLargeRuleSet: a rule set of many rules is one object; changed in one rule it costs
// a chunk or two.
func TestLargeRuleSet(t *testing.T) {
	must.Long(t, "thousands of rules")
	rules := 20_000
	if os.Getenv("BLADEFLOW_LARGE") != "" {
		rules = 100_000
	}
	s := store.NewMemory()
	m := bare(t, s)
	set := func(changed int) string {
		var b strings.Builder
		for i := range rules {
			port := 1000 + i%5000
			if i == changed {
				port = 7
			}
			fmt.Fprintf(&b, `,{"name":"r%d","priority":%d,"match":{"src_ip":"10.%d.%d.0/24","dst_port":"%d","ip_proto":"tcp"},"actions":["normal"]}`, i, i, i/256%256, i%256, port)
		}
		return `{"apiVersion":"bladeflow/v1","kind":"RuleSet","metadata":{"name":"big"},"spec":{"tier":"tenant","rules":[` + b.String()[1:] + `]}}`
	}
	counted := func() (chunks int, bytes int) {
		list, _, err := s.List(t.Context(), store.AllChunks)
		if err != nil {
			t.Fatal(err)
		}
		for _, kv := range list {
			bytes += len(kv.Value)
		}
		return len(list), bytes
	}
	put := func(text string) {
		t.Helper()
		begin := time.Now()
		if err := m.apply(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		chunks, bytes := counted()
		t.Logf("%d bytes made in %v; %d chunks with %d bytes", len(text), time.Since(begin).Round(time.Millisecond), chunks, bytes)
	}
	put(set(-1))
	before, _ := counted()
	put(set(rules / 2))
	if after, _ := counted(); after > before+6 {
		t.Errorf("one rule changed made %d chunks of %d", after-before, before)
	}
	then, err := m.wantedAt(t.Context(), m.latest(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.change(t.Context(), request{who: self, verb: "revert", build: func(v *view) ([]edit, error) { return revertTo(v, then, ""), nil }}); err != nil {
		t.Fatal(err)
	}
	big := m.latest().doc(api.KindRuleSet, "big").value.(*api.RuleSet)
	if len(big.Spec.Rules) != rules || big.Spec.Rules[rules/2].Match["dst_port"] == "7" {
		t.Errorf("%d rules, %+v", len(big.Spec.Rules), big.Spec.Rules[rules/2])
	}
}
