package agent

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// TestCount: what passed functions is reported now and then, and only if it is more.
func TestCount(t *testing.T) {
	s := store.NewMemory()
	packets := uint64(0)
	f, err := NewFabric(FabricConfig{Blade: "b1", Ports: testPorts, Counters: func() []discover.Counter {
		return []discover.Counter{{Port: "nic0/pf0", Received: flow.Counter{Packets: packets, Bytes: 100 * packets}}}
	}})
	if err != nil {
		t.Fatal(err)
	}
	r := &reporter{Fabric: f, store: s, told: map[string]part{}}
	at := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	writes := func() (n int64, p api.Ports) {
		t.Helper()
		kv, err := s.Read(t.Context(), store.Status("b1", api.PartPorts))
		if err == nil {
			err = json.Unmarshal(kv.Value, &p)
		}
		if err != nil {
			t.Fatal(err)
		}
		return kv.Modified - kv.Created + 1, p
	}
	for _, step := range []struct {
		after   time.Duration
		packets uint64
		writes  int64
	}{{0, 1, 1}, {time.Second, 2, 1}, {countersPace, 2, 2}, {countersPace, 2, 2}, {countersPace, 3, 3}} {
		at, packets = at.Add(step.after), step.packets
		if err := r.count(t.Context(), at); err != nil {
			t.Fatal(err)
		}
		n, p := writes()
		if n != step.writes || len(p.Status.Ports) != 1 || p.Status.Ports[0].Received.Bytes != 100*p.Status.Ports[0].Received.Packets {
			t.Errorf("at %s: %d writes, want %d, %+v", at.Format(time.TimeOnly), n, step.writes, p.Status)
		}
	}
	if _, p := writes(); !p.Status.At.Equal(at) || p.Status.Ports[0].Received.Packets != 3 {
		t.Errorf("%+v", p.Status)
	}
}
