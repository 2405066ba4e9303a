package agent

import (
	"context"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// TestDrifts changes a card of 1,000 entries behind a running agent's back, twenty entries
// at a time: some go, some are altered in their match, actions or priority, and some are
// added. Each time all twenty must be found within ten seconds and put right.
// BLADEFLOW_DRIFT says how many entries there shall be in all.
func TestDrifts(t *testing.T) {
	const batch = 20
	drifts, within, long := batch, 10*time.Second, false
	if n, err := strconv.Atoi(os.Getenv("BLADEFLOW_DRIFT")); err == nil {
		drifts, long = n, true
	} else {
		must.Long(t, "takes seconds")
	}
	began, start := time.Now(), flowtest.Seed(t)
	rng := rand.New(rand.NewPCG(start, 1))
	f := &fleet{TB: t, kept: t.TempDir()}
	b := f.simulate("b1", 0)
	nic := b.agent.Devices[0].Driver.(*offloadtest.NIC)
	wanted := &Handed{}
	b.agent.Source, b.agent.Interval = wanted, 2*time.Second
	for i := range 1000 {
		b.rules = append(b.rules, f.rule(0, i, 0))
	}
	table, err := flow.NewTable(flow.TableSpec{Generation: 1, Rules: b.rules, Ports: testPorts})
	if err != nil {
		t.Fatal(err)
	}
	wanted.Want(table)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- b.agent.Run(ctx) }()
	defer func() { <-ended }()
	defer cancel()
	for b.agent.Status().Generation == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	model, _ := nic.Model(ctx)
	var took []time.Duration
	for done := 0; done < drifts; done += batch {
		before := b.agent.Status().Drift
		change(t, nic, rng, batch)
		at := time.Now()
		for {
			d := b.agent.Status().Drift
			if found := d.Missing + d.Altered + d.Added - before.Missing - before.Altered - before.Added; found == batch && d.Healed == before.Healed+batch {
				break
			} else if time.Since(at) > within {
				t.Fatalf("after %s %d of %d drifted entries were found, and %d put right", within, found, batch, d.Healed-before.Healed)
			}
			time.Sleep(10 * time.Millisecond)
		}
		took = append(took, time.Since(at))
		held, _ := nic.Installed(ctx)
		if err := verify.Check(table, held, model); err != nil || !b.agent.Status().Proved {
			t.Fatalf("after %d drifts: %v, proved %t", done+batch, err, b.agent.Status().Proved)
		}
	}
	s := b.agent.Status()
	if s.EventTotals[eventMissing] == 0 || s.EventTotals[eventAltered] == 0 || s.EventTotals[eventOrphaned] == 0 || s.EventTotals[eventHealed] == 0 {
		t.Errorf("%v", s.EventTotals)
	}
	slices.Sort(took)
	t.Logf("%d drifts, %v; found and put right in %.1f s at most", drifts, s.Drift, last(took))
	if long {
		flowtest.Record(t, "drift", start, began, map[string]any{"Drifts": drifts, "AtATime": batch, "Entries": len(b.rules), "Found": s.Drift.Missing + s.Drift.Altered + s.Drift.Added,
			"Healed": s.Drift.Healed, "SecondsP50": at(took, 50), "SecondsMax": last(took), "GoalSeconds": within.Seconds()})
	}
}

// change changes n entries of a card, each another one.
func change(t *testing.T, nic *offloadtest.NIC, rng *rand.Rand, n int) {
	t.Helper()
	held, err := nic.Installed(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for i, at := range rng.Perm(len(held))[:n] {
		e := held[at]
		switch i % 5 {
		case 0:
			nic.Take(e.ID)
			continue
		case 1:
			e.Match = flow.Match{}
			e.Match.Pin(flow.EthType, uint64(rng.IntN(1<<16)), 0xffff)
		case 2:
			e.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}}
			if held[at].Actions.Equal(e.Actions) || e.Punt() {
				e.Priority++
			}
		case 3:
			e.Priority ^= 1 << 20
		case 4:
			e.ID ^= flow.EntryID(1 + rng.IntN(1<<16))
		}
		nic.Put(e)
	}
}

// TestUnsoundFirst has a card that was made wrong while a change waits for something that
// fails: what is wrong goes all the same, lowest first.
func TestUnsoundFirst(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	guard := r.entry((*flow.Entry).Punt)
	r.nic.Take(guard.ID)
	r.software.refuses = errInjected
	r.wanted.Want(table(t, 2, nil, "name=x,priority=1 actions=drop"))
	var removed []uint64 // priorities of what went before anything was put in
	adds := false
	r.nic.Fault = func(_ int, op *offload.Op) offloadtest.Effect {
		if adds = adds || op.Kind == offload.Add; !adds {
			removed = append(removed, op.Entry.Priority)
		}
		return offloadtest.Works
	}
	r.reconcile()
	m, _ := r.nic.Model(context.Background())
	if err := verify.Check(r.software.current(), r.installed(), m); err != nil || r.software.current().Generation() != 1 {
		t.Errorf("generation %d: %v", r.software.current().Generation(), err)
	}
	if s := r.agent.Status(); s.EventTotals[eventUnsound] == 0 || !s.Proved || len(removed) == 0 || !slices.IsSorted(removed) {
		t.Errorf("removed %v, proved %t, %+v", removed, s.Proved, s.Events)
	}
}

// TestStrange lists what nobody here put in.
func TestStrange(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	var m flow.Match
	m.Pin(flow.EthType, 0x88cc, 0xffff)
	r.nic.Put(flow.Entry{ID: 7, Kind: flow.GuardEntry, Priority: 5, Match: m})
	for range 3 {
		r.settle(1)
	}
	s := r.agent.Status()
	want := EntryStatus{ID: "0000000000000007", Class: "foreign", Kind: "guard", Priority: 5, Match: "eth_type=lldp"}
	if d := s.Devices[0]; len(d.Strange) != 1 || d.Strange[0] != want || d.Foreign != 1 {
		t.Errorf("%+v", d)
	}
	if s.EventTotals[eventForeign] != 1 {
		t.Errorf("a foreign entry was said %d times", s.EventTotals[eventForeign])
	}
	lost := r.entry(func(e *flow.Entry) bool { return offload.Ours(e.ID) && !e.Punt() })
	r.nic.Fault = func(int, *offload.Op) offloadtest.Effect { return offloadtest.Refuses } // so that it stays
	lost.Priority ^= 1 << 20
	r.nic.Put(lost)
	r.reconcile()
	if d := r.agent.Status().Devices[0]; !slices.ContainsFunc(d.Strange, func(e EntryStatus) bool { return e.Class == "altered" && e.ID == ruleID(flow.RuleID(lost.ID)) }) {
		t.Errorf("%+v", d.Strange)
	}
}

// TestBalance has counters that do not add up, in each way, and others that only are late.
func TestBalance(t *testing.T) {
	k, err := flow.ParseKey("in_port=vf1,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.0.0.2,src_port=9,dst_port=80", testPorts)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name, code string
		happens    func(r *rig)
	}{
		{"traffic", "", func(r *rig) { r.send(&k, 64) }},
		{"a rule that counts more than came", eventCounters, func(r *rig) {
			r.software.count[1] = plus(r.software.count[1], flow.Counter{Packets: 10})
		}},
		{"frames without a verdict", eventCounters, func(r *rig) { r.software.stats.Frames += 10 }},
		{"punted packets that do not arrive", eventCounters, func(r *rig) { r.nic.Receive(&k, 64) }},
		{"packets that pass by a device that has their rule", eventSilent, func(r *rig) { r.software.receive(&k, 64) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 64)
			punts := c.code == eventCounters // for the one that is about punts
			action := "drop"
			if punts {
				action = "pass"
			}
			r.wanted.Want(table(t, 1, nil, "name=a,priority=2,in_port=vf1,ip_proto=tcp actions="+action, "name=b,priority=1,in_port=vf1 actions=output:vf2"))
			r.settle(1)
			for looks := range 4 {
				for range 50 {
					c.happens(r)
				}
				r.settle(1)
				s := r.agent.Status()
				if said := s.EventTotals[eventCounters] + s.EventTotals[eventSilent]; said > 0 && (c.code == "" || looks < patience-1) {
					t.Fatalf("after %d looks: %+v", looks+1, s.Events)
				}
			}
			if c.code != "" && r.agent.Status().EventTotals[c.code] != 1 {
				t.Errorf("%+v", r.agent.Status().Events)
			}
		})
	}
}
