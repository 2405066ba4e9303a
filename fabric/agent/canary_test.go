package agent

import (
	"context"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// talkative is a device that counts a packet for every entry that it lists.
type talkative struct{ *offloadtest.NIC }

func (d talkative) Counters(ctx context.Context) ([]offload.Count, error) {
	counts, err := d.NIC.Counters(ctx)
	for i := range counts {
		counts[i].Packets++
	}
	return counts, err
}

// TestCanary has devices that do what they list and others that only say so, for long
// enough that several canaries go in and out. No verdict changes, and nothing is left.
func TestCanary(t *testing.T) {
	for _, c := range []struct {
		name    string
		device  func(*offloadtest.NIC) offload.Driver
		deaf    bool                  // it asks no entry
		silent  bool                  // the flow ends when a canary is in
		odd     bool                  // its packets have IP options from then on, with which the card misses them
		effects [2]offloadtest.Effect // of what puts one in
		leaving [2]offloadtest.Effect // of what takes it out at first
		entries int
		want    CanaryStatus
	}{
		{name: "right", entries: 64, want: CanaryStatus{Right: 1}},
		{name: "deaf", entries: 64, deaf: true, want: CanaryStatus{Wrong: 1}},
		{name: "talkative", entries: 64, device: func(n *offloadtest.NIC) offload.Driver { return talkative{n} }, want: CanaryStatus{Wrong: 1}},
		{name: "no packets", entries: 64, silent: true, want: CanaryStatus{Open: 1}},
		{name: "missed packets", entries: 64, odd: true, want: CanaryStatus{Open: 1}},
		{name: "full", entries: 1},
		{name: "refused", entries: 64, effects: [2]offloadtest.Effect{offloadtest.Refuses, offloadtest.Refuses}},
		{name: "half refused", entries: 64, effects: [2]offloadtest.Effect{offloadtest.Works, offloadtest.Refuses}},
		{name: "other half refused", entries: 64, effects: [2]offloadtest.Effect{offloadtest.Refuses, offloadtest.Works}},
		{name: "no answer", entries: 64, effects: [2]offloadtest.Effect{offloadtest.LostReply, offloadtest.LostOp}},
		{name: "no answer in the end", entries: 64, leaving: [2]offloadtest.Effect{offloadtest.LostReply, offloadtest.LostOp}, want: CanaryStatus{Right: 1}},
		{name: "stays", entries: 64, leaving: [2]offloadtest.Effect{offloadtest.Refuses, offloadtest.LostOp}, want: CanaryStatus{Right: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, c.entries)
			sent, gone := -1, 0 // entries of canaries; the table's come first
			r.nic.Fault = func(_ int, op *offload.Op) offloadtest.Effect {
				switch {
				case sent < 0 || op.Kind != offload.Add && gone == 2:
					return offloadtest.Works
				case op.Kind != offload.Add:
					gone++
					return c.leaving[gone-1]
				}
				sent++
				return c.effects[(sent-1)%len(c.effects)]
			}
			tap := &tapped{software: r.software}
			config := r.config()
			config.Samples = tap
			if c.device != nil {
				config.Devices[0].Driver = c.device(r.nic)
			}
			r.agent = New(config)
			r.wanted.Want(table(t, 1, nil, "name=a,priority=2,in_port=vf1,ip_proto=tcp actions=pass", "name=b,priority=1,in_port=vf1 actions=drop"))
			r.settle(2)
			idle := len(r.installed())
			sent = 0
			k, err := flow.ParseKey("in_port=vf1,src_mac=02:00:00:00:00:09,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.0.0.2,src_port=9,dst_port=80", testPorts)
			if err != nil {
				t.Fatal(err)
			}
			m, _ := r.nic.Model(t.Context())
			most := idle
			for range 55 { // 110 s, so that one goes in
				k := k
				if c.odd && len(r.installed()) > idle {
					k.Set(flow.Flags, k.Get(flow.Flags)|flow.FlagOdd)
				}
				if held := r.installed(); !c.silent || len(held) == idle {
					if !c.deaf {
						if e, hit := r.nic.Receive(&k, 64); hit && !e.Punt() {
							t.Fatalf("%v answered", e)
						}
					}
					tap.judge(t, &k, r.now.Add(switchWindow*3/2))
				} else if most = max(most, len(held)); verify.Check(r.software.current(), held, m) != nil {
					t.Fatal("not right with a canary in")
				}
				most = max(most, len(r.installed()))
				r.settle(1)
			}
			s := r.agent.Status()
			if s.Canary != c.want || s.EventTotals[eventCanary] != c.want.Wrong || s.Drift != (DriftStatus{}) {
				t.Errorf("%+v, %+v, %v", s.Canary, s.Drift, s.EventTotals)
			}
			if in := c.want != (CanaryStatus{}); len(r.installed()) != idle || in && most != idle+2 || !in && most != idle {
				t.Errorf("%d entries, %d at most, %d without a canary", len(r.installed()), most, idle)
			}
			if tried := c.entries > 1; tried != (sent == 2) {
				t.Errorf("%d entries were tried", sent)
			}
			r.proved()
		})
	}
}

// TestCanaryChange has the table change while a canary is in: the change takes it out.
func TestCanaryChange(t *testing.T) {
	r := newRig(t, 64)
	tap := tapping(r)
	r.wanted.Want(web(t, 1))
	r.settle(2)
	k, err := flow.ParseKey("in_port=uplink,src_mac=02:00:00:00:00:09,ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.0.0.9,src_port=9,dst_port=80", testPorts)
	if err != nil {
		t.Fatal(err)
	}
	tap.judge(t, &k, r.now.Add(-time.Second))
	idle := len(r.installed())
	for range 40 {
		r.settle(1)
	}
	if len(r.installed()) != idle+2 {
		t.Fatalf("%d entries, and %d without a canary", len(r.installed()), idle)
	}
	r.wanted.Want(table(t, 2, nil, "name=b,priority=1,in_port=vf1 actions=drop"))
	r.settle(3)
	r.proved()
	for _, e := range r.installed() {
		if e.Punt() {
			t.Errorf("%+v is left", e)
		}
	}
	if s := r.agent.Status(); s.Drift != (DriftStatus{}) || s.EventTotals[eventRefused] != 0 {
		t.Errorf("%+v, %v", s.Drift, s.EventTotals)
	}
}

// TestCanaryGuarded: a canary is as high as the guards of stations, and none goes in for
// packets that one of these may punt before it, though they are all that was seen last.
func TestCanaryGuarded(t *testing.T) {
	r := newRig(t, 64)
	tap := tapping(r)
	r.wanted.Want(web(t, 1))
	r.settle(2)
	idle := len(r.installed())
	key := func(text string) flow.Key {
		k, err := flow.ParseKey(text+",src_ip=10.9.0.1,src_port=9,dst_port=80", testPorts)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	guarded := key("in_port=vf1,src_mac=02:00:00:00:00:03,dst_mac=02:00:00:00:00:03,ip_proto=tcp,dst_ip=192.0.2.2")
	if e := r.nic.Answers(&guarded); len(e) != 1 || !e[0].Punt() {
		t.Fatalf("it is not for a guard: %+v", e)
	}
	for range 90 { // 180 s
		r.nic.Receive(&guarded, 64)
		tap.judge(t, &guarded, r.now.Add(switchWindow*3/2))
		r.settle(1)
		if held := r.installed(); len(held) != idle {
			t.Fatalf("a canary is in: %+v", held[idle:])
		}
	}
	free, most := key("in_port=uplink,src_mac=02:00:00:00:00:09,ip_proto=udp,dst_ip=10.0.0.9"), 0
	for range 40 {
		for _, k := range []*flow.Key{&free, &guarded} {
			if e, hit := r.nic.Receive(k, 64); hit && !e.Punt() {
				t.Fatalf("%v answered", e)
			}
			tap.judge(t, k, r.now.Add(switchWindow*3/2))
		}
		r.settle(1)
		most = max(most, len(r.installed()))
	}
	if s := r.agent.Status(); s.Canary.Right == 0 || s.Canary.Wrong+s.Canary.Open > 0 || most != idle+2 {
		t.Errorf("%+v, %d entries at most, %d without a canary", s.Canary, most, idle)
	}
}

// TestCanaryShift has flows come and go all the time, in a card that needs no other entries
// for that and asks none of those it has: a canary stays in until it has shown that.
func TestCanaryShift(t *testing.T) {
	r := newRig(t, 64)
	tap := tapping(r)
	r.wanted.Want(table(t, 1, nil, "name=c,priority=3,in_port=vf1,ip_proto=udp,src_port=7 actions=pass", "name=a,priority=2,in_port=vf1,ip_proto=tcp actions=pass", "name=b,priority=1,in_port=vf1 actions=drop"))
	r.settle(2)
	k, err := flow.ParseKey("in_port=vf1,src_mac=02:00:00:00:00:09,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.0.0.2,src_port=9,dst_port=80", testPorts)
	if err != nil {
		t.Fatal(err)
	}
	shifts := 0
	for round := range 55 { // 110 s, so that one goes in
		other := k
		other.Set(flow.SrcPort, uint64(100+round/3))
		for range 20 {
			tap.judge(t, &other, r.now.Add(switchWindow*3/2))
		}
		tap.judge(t, &k, r.now.Add(switchWindow*3/2))
		r.settle(1)
		if r.agent.planned.at.Equal(r.now) {
			shifts++
		}
	}
	if s := r.agent.Status(); s.Canary.Wrong != 1 || shifts < 10 {
		t.Errorf("%+v in %d plans for other traffic", s.Canary, shifts)
	}
}
