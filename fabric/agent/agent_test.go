package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

func TestConverges(t *testing.T) {
	r := newRig(t, 64)
	if err := r.reconcile(); err != nil {
		t.Fatalf("nothing is wanted yet: %v", err)
	}
	if s := r.agent.Status(); s.Generation != 0 || s.Proved {
		t.Errorf("before the first table: %+v", s)
	}
	r.wanted.Want(web(t, 7))
	r.settle(1)
	r.proved()
	s := r.agent.Status()
	if s.Generation != 7 || r.software.current().Generation() != 7 {
		t.Errorf("generation %d, software runs %d, want 7", s.Generation, r.software.current().Generation())
	}
	places := map[string]string{}
	for _, rule := range s.Rules {
		places[rule.Name] = rule.Place + " " + rule.Code
	}
	want := map[string]string{"test/block": "hardware ", "test/local": "software E_ACTION_PASS", "test/web": "hardware ",
		"test/all": "hardware ", "test/switched": "hardware E_NORMAL_UNKNOWN_STATION", "-": "hardware "}
	if diff := cmp.Diff(want, places); diff != "" {
		t.Errorf("places (-want +got):\n%s", diff)
	}
	ops := r.nic.Ops()
	for range 3 {
		r.settle(1)
	}
	if r.nic.Ops() != ops {
		t.Errorf("%d operations although nothing changed", r.nic.Ops()-ops)
	}
}

// TestNoDevice runs everything in software.
func TestNoDevice(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	c.Devices = nil
	r.agent = New(c)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	s := r.agent.Status()
	if s.Generation != 1 || !s.Proved || r.software.current() == nil {
		t.Errorf("%+v", s)
	}
	if rule, _ := s.Rule("test/web"); rule.Place != "software" || rule.Code != "E_NO_DEVICE" {
		t.Errorf("%+v", rule)
	}
}

// TestHeals tampers with the device in every way and checks that one round finds it,
// counts it, and puts it right.
func TestHeals(t *testing.T) {
	answer := func(e *flow.Entry) bool { return !e.Punt() && len(e.Actions) > 0 }
	bottom := func(e *flow.Entry) bool { return e.Rule == flow.DefaultRule && !e.Punt() }
	tampers := []struct {
		name    string
		do      func(r *rig)
		want    DriftStatus
		unsound bool
	}{
		{"delete an entry", func(r *rig) { r.nic.Take(r.entry(bottom).ID) }, DriftStatus{Missing: 1, Healed: 1}, false},
		{"delete a guard", func(r *rig) { r.nic.Take(r.entry((*flow.Entry).Punt).ID) }, DriftStatus{Missing: 1, Healed: 1}, true},
		{"delete everything", func(r *rig) {
			for _, e := range r.installed() {
				r.nic.Take(e.ID)
			}
		}, DriftStatus{}, false},
		{"alter an action", func(r *rig) {
			e := r.entry(func(e *flow.Entry) bool { return e.Actions.Terminal().Op == flow.Output })
			e.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{1}}}
			r.nic.Put(e)
		}, DriftStatus{Altered: 1, Healed: 1}, true},
		{"alter a match", func(r *rig) {
			e := r.entry(answer)
			e.Match = flow.Match{}
			r.nic.Put(e)
		}, DriftStatus{Altered: 1, Healed: 1}, true},
		{"alter a priority", func(r *rig) {
			e := r.entry(bottom)
			e.Priority = 1
			r.nic.Put(e)
		}, DriftStatus{Altered: 1, Healed: 1}, false},
		{"add an entry with our mark", func(r *rig) {
			r.nic.Put(flow.Entry{ID: r.entry(answer).ID ^ 0xff, Rule: 99, Priority: 1 << 62, Actions: flow.Actions{{Op: flow.Drop}}})
		}, DriftStatus{Added: 1, Healed: 1}, true},
	}
	for _, tamper := range tampers {
		t.Run(tamper.name, func(t *testing.T) {
			r := newRig(t, 64)
			r.wanted.Want(web(t, 1))
			r.settle(1)
			before := r.installed()
			tamper.do(r)
			if tamper.want == (DriftStatus{}) {
				tamper.want = DriftStatus{Missing: uint64(len(before)), Healed: uint64(len(before))}
			}
			r.settle(1)
			r.proved()
			s := r.agent.Status()
			if diff := cmp.Diff(tamper.want, s.Drift); diff != "" {
				t.Errorf("drift (-want +got):\n%s", diff)
			}
			if got := s.Mismatches > 0; got != tamper.unsound {
				t.Errorf("%d mismatches, unsound %v", s.Mismatches, tamper.unsound)
			}
			if diff := cmp.Diff(byID(before), byID(r.installed())); diff != "" {
				t.Errorf("not as before (-before +after):\n%s", diff)
			}
		})
	}
}

// TestForeign checks that entries of others are never touched, and that one that
// changes verdicts is reported.
func TestForeign(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	var m flow.Match
	m.Pin(flow.EthType, 0x88cc, 0xffff)
	harmless := flow.Entry{ID: 1, Kind: flow.GuardEntry, Priority: 5, Match: m}
	r.nic.Put(harmless)
	r.settle(1)
	r.proved()
	if s := r.agent.Status(); s.Devices[0].Foreign != 1 || s.Drift != (DriftStatus{}) {
		t.Errorf("%+v", s)
	}
	harmful := flow.Entry{ID: 2, Priority: 1 << 63, Match: m, Actions: flow.Actions{{Op: flow.Output, Ports: []flow.Port{1}}}}
	r.nic.Put(harmful)
	err := r.reconcile()
	if s := r.agent.Status(); err == nil || s.Proved || s.Error == nil || s.Error.Code != "E_FOREIGN" || s.Mismatches != 0 {
		t.Errorf("err %v, status %+v", err, s)
	}
	if held := r.installed(); !containsID(held, 1) || !containsID(held, 2) {
		t.Error("a foreign entry was removed")
	}
	r.nic.Take(2)
	r.settle(1)
	r.proved()
}

func containsID(entries []flow.Entry, id flow.EntryID) bool {
	for _, e := range entries {
		if e.ID == id {
			return true
		}
	}
	return false
}

// TestFaults lets each operation of a change fail in each way. After every operation
// the device must be right under the table in force, unless it lies about what it
// does, which only the read-back can find; and soon everything must be in place.
func TestFaults(t *testing.T) {
	first := table(t, 1, nil,
		"name=a,priority=9,in_port=vf0,dst_ip=10.0.0.0/24 actions=drop",
		"name=b,priority=8,in_port=vf0,dst_ip=10.0.0.0/16 actions=output:vf1",
		"name=c,priority=7,in_port=vf1 actions=output:vf2")
	second := table(t, 2, nil,
		"name=d,priority=9,in_port=vf0,ip_proto=udp actions=pass",
		"name=b,priority=8,in_port=vf0,dst_ip=10.0.0.0/16 actions=output:vf2",
		"name=c,priority=7,in_port=vf1 actions=output:vf2")
	clean := newRig(t, 64)
	clean.wanted.Want(first)
	clean.settle(1)
	before := clean.nic.Ops()
	clean.wanted.Want(second)
	clean.settle(1)
	ops := clean.nic.Ops()
	for _, effect := range []offloadtest.Effect{offloadtest.Refuses, offloadtest.LostReply, offloadtest.LostOp, offloadtest.Lies, offloadtest.Resets, offloadtest.Dies} {
		for fail := before; fail < ops; fail++ {
			t.Run(fmt.Sprintf("effect %d of operation %d", effect, fail), func(t *testing.T) {
				r := newRig(t, 64)
				model, _ := r.nic.Model(context.Background())
				r.nic.Fault = func(n int, _ *offload.Op) offloadtest.Effect {
					if n == fail {
						return effect
					}
					return offloadtest.Works
				}
				r.nic.After = func(n int, op *offload.Op) {
					held, err := r.nic.Installed(context.Background())
					if now := r.software.current(); err == nil && now != nil && effect != offloadtest.Lies {
						if err := verify.Check(now, held, model); err != nil {
							t.Errorf("after operation %d, %v: %v", n, op.Kind, err)
						}
					}
				}
				r.wanted.Want(first)
				r.settle(1)
				r.wanted.Want(second)
				r.reconcile()
				r.nic.Revive()
				r.settle(4)
				r.proved()
				r.now = r.now.Add(retryAfter)
				r.settle(1)
				r.proved()
				if diff := cmp.Diff(byID(clean.installed()), byID(r.installed())); diff != "" {
					t.Errorf("not what a run without faults leaves (-clean +got):\n%s", diff)
				}
			})
		}
	}
}

// TestSwapRefused checks that a swap that fails leaves the old generation in force.
func TestSwapRefused(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	r.wanted.Want(table(t, 2, nil, "name=x,priority=1 actions=drop"))
	r.software.refuses = errInjected
	if err := r.reconcile(); !errors.Is(err, errInjected) {
		t.Errorf("error %v", err)
	}
	if s := r.agent.Status(); s.Generation != 1 || s.Error == nil || s.Failures != 1 || !s.Proved {
		t.Errorf("%+v", s)
	}
	r.software.refuses = nil
	r.settle(1)
	r.proved()
	if s := r.agent.Status(); s.Generation != 2 {
		t.Errorf("generation %d", s.Generation)
	}
}

// TestDeviceGone checks that a device that cannot be read stops changes and is not
// called proved.
func TestDeviceGone(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	dead := false
	r.nic.Fault = func(int, *offload.Op) offloadtest.Effect {
		if dead {
			return offloadtest.Dies
		}
		return offloadtest.Works
	}
	dead = true
	r.wanted.Want(table(t, 2, nil, "name=x,priority=1 actions=drop"))
	r.reconcile()
	r.reconcile()
	if s := r.agent.Status(); s.Generation != 1 || s.Proved || s.Error == nil || s.Error.Code != "E_DEVICE_READ" {
		t.Errorf("%+v", s)
	}
	dead = false
	r.nic.Revive()
	r.settle(2)
	r.proved()
}

// TestFull checks that a table that is too small leaves the rest in software and says
// so.
func TestFull(t *testing.T) {
	r := newRig(t, 3)
	r.wanted.Want(web(t, 1))
	r.settle(2)
	r.proved()
	s := r.agent.Status()
	if s.Devices[0].Entries > 3 || s.Devices[0].Limit != 3 {
		t.Errorf("%+v", s.Devices)
	}
	n := 0
	for _, rule := range s.Rules {
		if rule.Code == offload.CodeFull {
			n++
		}
	}
	if n == 0 {
		t.Errorf("no rule says that the table is full: %+v", s.Rules)
	}
}

// TestHeatMovesRules checks that a rule that becomes hot takes the room of one that
// is cold, and that nothing moves while traffic stays alike.
func TestHeatMovesRules(t *testing.T) {
	r := newRig(t, 1)
	r.wanted.Want(table(t, 1, nil,
		"name=cold,priority=9,in_port=vf0,dst_ip=10.0.0.0/24 actions=drop",
		"name=hot,priority=8,in_port=vf1 actions=output:vf2"))
	r.settle(1)
	k, err := flow.ParseKey("in_port=vf1,ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.9.0.2", testPorts)
	if err != nil {
		t.Fatal(err)
	}
	moves := 0
	for round := range 20 {
		ops := r.nic.Ops()
		for range 500 {
			r.send(&k, 64)
		}
		r.settle(1)
		r.proved()
		if r.nic.Ops() != ops {
			moves++
		}
		if round == 2 {
			if rule, _ := r.agent.Status().Rule("test/hot"); rule.Place != "hardware" {
				t.Errorf("the hot rule is in %s: %s", rule.Place, rule.Reason)
			}
		}
	}
	if moves != 1 {
		t.Errorf("rules moved in %d rounds, want 1", moves)
	}
	rule, _ := r.agent.Status().Rule("test/hot")
	if got := rule.Hardware.Packets + rule.Software.Packets; got != 10_000 || rule.Hardware.Bytes != rule.Hardware.Packets*64 {
		t.Errorf("%+v, want 10,000 packets of 64 bytes", rule)
	}
}

// TestCountersAddUp changes tables at random under traffic. No counter may ever go
// back, and in the end every packet is counted once, for the rule that had to answer.
func TestCountersAddUp(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	lines := []string{
		"name=block,priority=300,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=25 actions=drop",
		"name=local,priority=250,ip_proto=udp,dst_ip=10.0.0.9 actions=pass",
		"name=web,priority=200,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/16,dst_port=80-443 actions=output:vf1",
		"name=web2,priority=190,in_port=vf1,ip_proto=tcp,dst_port=80-443 actions=mirror:uplink,output:vf2",
		"name=all,priority=100,in_port=vf0,dst_ip=10.0.0.0/8 actions=output:vf2",
		"name=switched,priority=50,dst_mac=02:00:00:00:00:03 actions=normal",
	}
	r := newRig(t, 6)
	totals := map[string]Count{}
	tiers := map[string]uint64{}
	moved := 0
	for gen := range flow.Generation(150) {
		var some []string
		for _, l := range lines {
			switch rng.IntN(4) {
			case 0:
			case 1:
				some = append(some, strings.Replace(l, "output:vf2", "output:uplink", 1))
			default:
				some = append(some, l)
			}
		}
		if len(some) == 0 {
			some = lines[:1]
		}
		r.wanted.Want(table(t, gen+1, nil, some...))
		r.settle(1)
		r.proved()
		for range 200 {
			k := packet(rng)
			r.send(&k, 60+rng.IntN(1000))
		}
		if rng.IntN(3) == 0 {
			r.settle(1)
		}
		s := r.agent.Status()
		for _, rule := range s.Rules {
			for tier, c := range map[string]Count{"hardware": rule.Hardware, "software": rule.Software} {
				was := totals[rule.ID+tier]
				if c.Packets < was.Packets || c.Bytes < was.Bytes {
					t.Fatalf("generation %d: %s of rule %s went from %+v to %+v", gen+1, tier, rule.Name, was, c)
				}
				totals[rule.ID+tier] = c
			}
			if rule.Hardware.Packets > 0 && rule.Software.Packets > 0 {
				moved++
			}
		}
		for _, p := range s.Packets {
			if key := p.Tier + p.Verdict; p.Packets < tiers[key] {
				t.Fatalf("%s went from %d to %d", key, tiers[key], p.Packets)
			} else {
				tiers[key] = p.Packets
			}
		}
	}
	// All rules are there in the end, so that the status shows each of them.
	r.wanted.Want(table(t, 1000, nil, lines...))
	r.settle(1)
	var hardware, software uint64
	for _, rule := range r.agent.Status().Rules {
		var id uint64
		fmt.Sscanf(rule.ID, "%x", &id)
		if got := rule.Hardware.Packets + rule.Software.Packets; got != r.sent[flow.RuleID(id)] {
			t.Errorf("rule %s: %d packets counted, %d sent", rule.Name, got, r.sent[flow.RuleID(id)])
		}
		hardware += rule.Hardware.Packets
		software += rule.Software.Packets
	}
	if hardware+software != 150*200 || hardware < 1000 || software < 1000 || moved == 0 {
		t.Errorf("hardware %d, software %d, rules seen by both %d: the test tests nothing, or packets are lost", hardware, software, moved)
	}
	var sum uint64
	for _, p := range r.agent.Status().Packets {
		if p.Verdict != "punt" {
			sum += p.Packets
		}
	}
	if sum != 150*200 {
		t.Errorf("verdicts add up to %d, want %d", sum, 150*200)
	}
	t.Logf("hardware %d, software %d packets", hardware, software)
}

// TestRestart checks that a new agent on a full device adopts what is right, removes
// what is not, and calls neither drift.
func TestRestart(t *testing.T) {
	r := newRig(t, 64)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	held, ops := byID(r.installed()), r.nic.Ops()
	r.software.table = nil
	r.agent = New(r.config())
	r.settle(1)
	r.proved()
	if diff := cmp.Diff(held, byID(r.installed())); diff != "" || r.nic.Ops() != ops {
		t.Errorf("%d operations on a device that was right:\n%s", r.nic.Ops()-ops, diff)
	}
	r.software.table = nil
	r.agent = New(r.config())
	r.wanted.Want(table(t, 2, nil, "name=other,priority=1,in_port=vf2 actions=drop"))
	r.settle(1)
	r.proved()
	if s := r.agent.Status(); s.Drift != (DriftStatus{}) {
		t.Errorf("an earlier run's entries count as drift: %+v", s.Drift)
	}
}

// TestCheckerRefuses checks that a checker that refuses an entry keeps it out of the
// device.
func TestCheckerRefuses(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	c.Check = offload.Check(func(want *flow.Table, installed []flow.Entry, m device.Model) error {
		for _, e := range installed {
			if i, ok := want.Index(e.Rule); ok && !e.Punt() && want.Rule(i).Name == "test/web" {
				return &verify.Unprovable{Entry: e, Reason: "the test says so"}
			}
		}
		return verify.Check(want, installed, m)
	})
	r.agent = New(c)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	r.proved()
	rule, _ := r.agent.Status().Rule("test/web")
	if rule.Place != "software" || rule.Code != "E_UNPROVEN" {
		t.Errorf("%+v", rule)
	}
	if r.agent.Status().Mismatches == 0 {
		t.Error("the refusal was not counted")
	}
}

// TestRun checks that the loop finds a wanted table by itself, and heals, and ends.
func TestRun(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	c.Now, c.Interval = nil, 20*time.Millisecond
	var log strings.Builder
	c.Log = slog.New(slog.NewTextHandler(&log, nil))
	r.agent = New(c)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- r.agent.Run(ctx) }()
	until := func(what string, done func(*Status) bool) {
		t.Helper()
		for range 500 {
			if done(r.agent.Status()) {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatalf("%s did not happen: %+v", what, r.agent.Status())
	}
	r.wanted.Want(web(t, 1))
	until("the first table", func(s *Status) bool { return s.Generation == 1 && s.Proved })
	r.nic.Take(r.entry(func(e *flow.Entry) bool { return !e.Punt() }).ID)
	until("healing", func(s *Status) bool { return s.Drift.Healed == 1 && s.Proved })
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for _, want := range []string{"a new generation is in force", "entries are gone", "drift healed"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not say %q:\n%s", want, log.String())
		}
	}
}
