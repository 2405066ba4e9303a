package manager

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// between is a store in which something happens right before one transaction.
type between struct {
	store.Store
	mu    sync.Mutex
	count int // guarded by mu
	at    int
	do    func()
}

func (b *between) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	b.mu.Lock()
	n := b.count
	b.count++
	b.mu.Unlock()
	if n == b.at {
		b.do()
	}
	return b.Store.Txn(ctx, compares, ops)
}

// bigSet is a rule set that is kept in chunks.
func bigSet(rules, version int) string {
	var b strings.Builder
	for i := range rules {
		fmt.Fprintf(&b, `,{"name":"r%d","priority":%d,"match":{"dst_ip":"10.%d.%d.%d/32","dst_port":"%d","ip_proto":"tcp"},"actions":["normal"]}`, i, 1+i, i/250, i%250, version, 1+(i*7919+version)%60000)
	}
	return `{"apiVersion":"bladeflow/v1","kind":"RuleSet","metadata":{"name":"big"},"spec":{"tier":"tenant","rules":[` + b.String()[1:] + `]}}`
}

// TestBetween: before each transaction of a large change, another manager sweeps because
// the turn was lost, or finishes what is pending and changes something. In the end both
// changes are made, each object is what the last change of it made, and nothing is
// missing or left over.
func TestBetween(t *testing.T) {
	const n = 200
	for what, does := range map[string]func(*testing.T, *leader, store.Store) error{
		"the turn is lost and chunks are swept": func(t *testing.T, l *leader, s store.Store) error {
			if _, err := s.Txn(t.Context(), nil, []store.Op{store.Delete(store.WritingKey)}); err != nil {
				return err
			}
			if _, err := l.sweepChunks(t.Context(), l.latest()); !errors.Is(err, store.ErrConflict) { // as it is after the commit
				return err
			}
			return nil
		},
		"another finishes and changes": func(t *testing.T, l *leader, _ store.Store) error { return l.apply(t.Context(), networks(1, 9)...) },
	} {
		t.Run(what, func(t *testing.T) {
			for at := 0; ; at++ {
				s := store.NewMemory()
				other := bare(t, s)
				if err := other.apply(t.Context(), append(networks(n, 1), bigSet(400, 1))...); err != nil {
					t.Fatal(err)
				}
				l := asLeader(t, other, s)
				b := &between{Store: s, at: at}
				b.do = func() {
					if err := does(t, l, s); err != nil {
						t.Errorf("before transaction %d: %v", at, err)
					}
				}
				m := bare(t, b)
				if _, err := m.view(t.Context(), other.latest().cursor); err != nil {
					t.Fatal(err)
				}
				if err := m.apply(t.Context(), append(networks(n, 2), bigSet(400, 2))...); err != nil {
					t.Fatalf("before transaction %d: %v", at, err)
				}
				_, cursor, err := s.List(t.Context(), store.AllStates)
				if err == nil {
					_, err = l.view(t.Context(), cursor)
				}
				if err == nil {
					err = l.tidy(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				wantSwept(t, l, s)
				wantLast(t, s)
				b.mu.Lock()
				happened := b.count > at
				b.mu.Unlock()
				if t.Failed() {
					t.FailNow()
				}
				if !happened {
					return
				}
			}
		})
	}
}

// wantLast wants each object, as who begins now reads it, to be what the last change of it
// in history made.
func wantLast(t *testing.T, s store.Store) {
	t.Helper()
	v, _ := begins(t, s)
	last := map[docID]int64{}
	for i, e := range v.events {
		if e.Metadata.Revision != int64(i+1) {
			t.Fatalf("change %d follows %d others", e.Metadata.Revision, i)
		}
		for _, c := range e.Spec.Changes {
			if last[docID{c.Kind, c.Name}] = e.Metadata.Revision; c.How == "deleted" {
				delete(last, docID{c.Kind, c.Name})
			}
		}
	}
	if len(last) != len(v.docs) {
		t.Errorf("%d objects, and history made %d", len(v.docs), len(last))
	}
	for id, d := range v.docs {
		if d.head.Metadata.Revision != last[id] {
			t.Errorf("%s is of change %d, and change %d made it last", id, d.head.Metadata.Revision, last[id])
		}
	}
}

// TestResettle: a profile that does not fit where it is any more goes elsewhere; the
// others stay.
func TestResettle(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 4, 0)
	r.basics("b1", "b2")
	profile := func(name string, mac int, rate string) string {
		return strings.Replace(strings.Replace(webProfile(name, mac), `"1G"`, fmt.Sprintf("%q", rate), 1), `"5G"`, `"22G"`, 1)
	}
	r.want(200, "PUT", "profiles/p1", profile("p1", 1, "10G"))
	r.want(200, "PUT", "profiles/p2", profile("p2", 2, "10G"))
	r.profile("p1", "active", "b1")
	r.profile("p2", "active", "b1")
	r.blade("b2", 4, 0)
	waitSettled(r, "b1", "b2")
	r.want(200, "PUT", "profiles/p1", profile("p1", 1, "20G"))
	r.profile("p1", "active", "b2")
	r.profile("p2", "active", "b1")
	// Both are changed at once, so that they do not fit together with a third any more.
	r.want(200, "PUT", "profiles/p3", strings.Replace(profile("p3", 3, "2G"), `"ruleSets"`, `"where":{"blades":["b2"]},"ruleSets"`, 1))
	r.profile("p3", "active", "b2")
	var p api.Preview
	r.do("POST", "apply?dryRun=true", `{"items":[`+profile("p1", 1, "21G")+","+profile("p2", 2, "1G")+`]}`, &p)
	if len(p.Changes) != 3 {
		t.Errorf("%+v", p.Changes)
	}
}
