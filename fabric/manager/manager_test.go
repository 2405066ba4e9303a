package manager

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestLife: a profile is created, moved, reverted and deleted, on blades that act as
// told, and each is proved soon.
func TestLife(t *testing.T) {
	r := newRig(t, store.NewMemory())
	r.blade("b1", 8, 0)
	r.blade("b2", 8, 0)
	r.basics("b1", "b2")
	waitSettled(r, "b1", "b2")

	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	create := r.profile("web", "active", "")
	var p api.Profile
	r.do("GET", "profiles/web", "", &p)
	from, to := p.Status.Blade, map[string]string{"b1": "b2", "b2": "b1"}[p.Status.Blade]
	r.want(200, "PUT", "snapshots/before", object("Snapshot", "before", `{"note":"before the move"}`))

	r.want(200, "POST", "profiles/web/move", fmt.Sprintf(`{"blade":%q}`, to))
	move := r.profile("web", "active", to)
	waitSettled(r, "b1", "b2")
	if n := len(r.seen()[from].VFs); n != 0 {
		t.Errorf("%d VFs of %s are not clean", n, from)
	}
	var diff api.List[api.Difference]
	r.do("GET", "diff?snapshot=before", "", &diff)
	if len(diff.Items) != 1 || diff.Items[0].Kind != api.KindAssignment {
		t.Errorf("after the move: %+v", diff.Items)
	}

	r.want(200, "POST", "revert", `{"snapshot":"before"}`)
	revert := r.profile("web", "active", from)
	if r.do("GET", "diff?snapshot=before", "", &diff); len(diff.Items) != 0 {
		t.Errorf("after the revert: %+v", diff.Items)
	}
	t.Logf("create %v, move %v, revert %v", create, move, revert)

	r.want(200, "DELETE", "profiles/web", "")
	r.want(404, "GET", "profiles/web", "")
	waitSettled(r, "b1", "b2")
	for b, s := range r.seen() {
		if len(s.VFs) != 0 {
			t.Errorf("blade %s: %v", b, s.VFs)
		}
	}
	var events api.List[api.Event]
	r.do("GET", "events", "", &events)
	var verbs []string
	for _, e := range events.Items {
		verbs = append(verbs, e.Spec.Verb)
		if e.Spec.Who != "local" || e.Spec.Role != "admin" || e.Spec.At.IsZero() {
			t.Errorf("%+v", e)
		}
	}
	if got := strings.Join(verbs, " "); got != "apply apply snapshot move revert delete" {
		t.Errorf("events: %s", got)
	}
}

// seen is what the manager has seen.
func (r *rig) seen() map[string]fabric.Seen {
	out := map[string]fabric.Seen{}
	for id, s := range r.m.latest().snapshot(time.Now()).Blades {
		out[string(id)] = s
	}
	return out
}

func waitSettled(r *rig, blades ...string) {
	r.t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		settled := 0
		var list api.List[api.Blade]
		r.do("GET", "blades", "", &list)
		for _, b := range list.Items {
			if b.Status.State == "settled" {
				settled++
			}
		}
		if settled == len(blades) {
			v := r.m.latest()
			if p := fabric.NewPlan(v.spec, v.snapshot(time.Now())); len(p.Steps) == 0 {
				return
			}
		}
		if time.Now().After(deadline) {
			text, _ := json.MarshalIndent(list.Items, "", " ")
			r.t.Fatalf("not settled: %s", text)
		}
	}
}

// TestMoves: profiles are moved at random, faster than the blades follow; never do two
// VFs answer for one address, and in the end all is as wanted.
func TestMoves(t *testing.T) {
	r := newRig(t, store.NewMemory())
	blades := []string{"b1", "b2", "b3"}
	for _, b := range blades {
		r.blade(b, 6, 4*time.Millisecond)
	}
	r.basics(blades...)
	const profiles, moves = 4, 120
	for i := range profiles {
		r.want(200, "PUT", fmt.Sprintf("profiles/p%d", i), webProfile(fmt.Sprintf("p%d", i), i+1))
	}
	random := rand.New(rand.NewPCG(1, 2))
	for range moves {
		name := fmt.Sprintf("p%d", random.IntN(profiles))
		switch random.IntN(8) {
		case 0:
			r.want(200, "DELETE", "profiles/"+name, "")
			r.want(200, "PUT", "profiles/"+name, webProfile(name, int(name[1]-'0')+1))
		case 1:
			r.want(200, "POST", "revert", fmt.Sprintf(`{"revision":%d}`, r.m.latest().revision-1))
		default:
			r.want(200, "POST", "profiles/"+name+"/move", fmt.Sprintf(`{"blade":%q}`, blades[random.IntN(len(blades))]))
		}
		time.Sleep(time.Duration(random.IntN(4)) * time.Millisecond)
	}
	waitSettled(r, blades...)
}

// TestCutOff: a blade that is cut off keeps what it has; a profile moved away from it
// is set up elsewhere and waits, quiet.
func TestCutOff(t *testing.T) {
	r := newRig(t, store.NewMemory())
	b1 := r.blade("b1", 4, 0)
	r.basics("b1", "b2")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	r.blade("b2", 4, 0)
	waitSettled(r, "b1", "b2")
	b1.cut.Store(true)
	if _, err := r.store.Txn(t.Context(), nil, []store.Op{store.Delete(store.Status("b1", api.PartAlive))}); err != nil { // as its lease runs out
		t.Fatal(err)
	}
	r.want(200, "POST", "profiles/web/move", `{"blade":"b2"}`)
	time.Sleep(300 * time.Millisecond)
	var p api.Profile
	r.do("GET", "profiles/web", "", &p)
	if p.Status.State != "moving" || p.Status.VNICs[0].Link {
		t.Errorf("%+v", p.Status)
	}
	if text := r.want(200, "GET", "blades/b1", ""); !strings.Contains(text, `"state":"silent"`) || !strings.Contains(text, `"proved":false`) {
		t.Error(text)
	}
	// It is back, as a new process that finds what it had set up.
	r.run("blade b1 again", func(ctx context.Context) error {
		again := &puppet{blade: "b1", store: r.store, air: r.air, vfs: b1.vfs, status: b1.status}
		return again.run(ctx, 4)
	})
	r.profile("web", "active", "b2")
	waitSettled(r, "b1", "b2")
}

// TestStaleLeader: what a leader decides after it was replaced changes nothing.
func TestStaleLeader(t *testing.T) {
	s := store.NewMemory()
	r := newRig(t, s)
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	v := r.m.latest()
	stale := &leader{Manager: r.m, fence: store.CreatedAt(store.Election("manager"), 1), admitted: map[fabric.BladeID]bool{}}
	o := order{content: fabric.Content{Blade: "b1"}}
	if _, err := stale.publishOne(t.Context(), v, "b1", o); err == nil {
		t.Error("a stale leader published")
	}
	_, err := stale.change(t.Context(), request{who: self, verb: "place", fence: []store.Compare{stale.fence}, build: func(v *view) ([]edit, error) { return deleteDoc(v, docID{api.KindNetwork, "front"}) }})
	if err == nil {
		t.Error("a stale leader changed what is wanted")
	}
	if now := r.m.latest(); now.revision != v.revision || now.orders["b1"].kv.Modified != v.orders["b1"].kv.Modified {
		t.Error("the store was changed")
	}
}
