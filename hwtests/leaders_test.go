package hwtests

import (
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// TestStaleManager has a leader that hears of changes and whose own writes get stuck on the
// way. Another one leads in its place and moves a profile, under traffic; then the writes
// of the first arrive. Nothing comes of them, nor of the same record written with the fence
// that the first one had.
func TestStaleManager(t *testing.T) {
	t.Parallel()
	const lease = 2 * time.Second
	f := newFabricLab(t, lease)
	here, _ := f.create()
	then, fence := f.generations(), f.fence()
	second, byway, err := f.manage(manager.Config{Name: "second", Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Lease: lease}, f.server.Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	var led time.Duration
	deliveries, err := f.Deliver(t.Context(), 500, func() error {
		f.Lines[pki.ManagerName].CutOut()
		begin := time.Now()
		if _, err := byway.Move(t.Context(), "web", api.Move{Blade: other(here.Blade)}, false); err != nil {
			return err
		}
		for !second.Leading() {
			if time.Sleep(5 * time.Millisecond); time.Since(begin) > settling {
				return errors.New("the second manager does not lead")
			}
		}
		led = time.Since(begin)
		f.API = byway
		if _, err := f.Settled(t.Context(), "web"); err != nil {
			return err
		}
		f.Lines[pki.ManagerName].Mend()
		time.Sleep(3 * time.Second)
		return nil
	}, Target{webMAC, 80})
	if err != nil {
		t.Fatal(err)
	}
	came := deliveries[0]
	where := f.mustSettle("web")
	show(t, map[string]any{"led_after_seconds": led.Seconds(), "sent": came.Sent, "lost": came.Lost, "twice": came.Twice})
	if where.Blade != other(here.Blade) || came.Twice+came.Changed > 0 || len(came.Ports()) > 2 {
		t.Errorf("the profile is on %s; %d packets came twice, %d changed, at %v", where.Blade, came.Twice, came.Changed, came.At)
	}
	now := f.generations()
	for blade, g := range now {
		if g.Spec.Number != then[blade].Spec.Number+1 {
			t.Errorf("blade %s went from generation %d to %d by one move", blade, then[blade].Spec.Number, g.Spec.Number)
		}
	}
	f.refusesStale(fence)
}

// generations reads what is published for each blade.
func (f *fabricLab) generations() map[string]api.GenerationView {
	f.Helper()
	all, err := client.Generations.List(f.Context(), f.API, client.Query{})
	if err != nil {
		f.Fatal(err)
	}
	out := map[string]api.GenerationView{}
	for _, g := range all.Items {
		out[g.Metadata.Name] = g
	}
	return out
}

// fence returns what every write of the manager that leads now is bound to.
func (f *fabricLab) fence() store.Compare {
	f.Helper()
	s := f.asManager()
	defer s.Close()
	leader, err := s.Read(f.Context(), store.Election("manager"))
	if err != nil {
		f.Fatal(err)
	}
	return store.CreatedAt(leader.Key, leader.Created)
}

// asManager reaches the store with the managers' certificate.
func (f *fabricLab) asManager() *store.Client {
	f.Helper()
	s, err := f.Dial(f.Context(), pki.ManagerName, f.server.Endpoint())
	if err != nil {
		f.Fatal(err)
	}
	return s
}

// refusesStale writes the newest record of a blade once more, under a fence.
func (f *fabricLab) refusesStale(fence store.Compare) {
	f.Helper()
	s := f.asManager()
	defer s.Close()
	record, err := s.Read(f.Context(), store.Generation("b1"))
	if err != nil {
		f.Fatal(err)
	}
	if _, err := s.Txn(f.Context(), []store.Compare{fence}, []store.Op{store.Put(record.Key, record.Value)}); !errors.Is(err, store.ErrConflict) {
		f.Errorf("a write with the fence of a leader that was replaced: %v, want a conflict", err)
	}
	if now, err := s.Read(f.Context(), record.Key); err != nil || now.Modified != record.Modified {
		f.Errorf("the record is of revision %d, and was of %d, %v", now.Modified, record.Modified, err)
	}
}
