package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// software is a datapath in memory: it looks up by the definition and counts.
type software struct {
	mu      sync.Mutex // guards what follows
	table   *flow.Table
	count   map[flow.RuleID]flow.Counter
	policed map[flow.RuleID]flow.Counter
	stats   fallback.Stats
	refuses error // what Swap says instead of swapping
}

func (s *software) Swap(t *flow.Table) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refuses == nil {
		s.table = t
	}
	return s.refuses
}

func (s *software) current() *flow.Table {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.table
}

func (s *software) Cached() map[flow.RuleID]flow.Counter { return nil }

func (s *software) Policed() map[flow.RuleID]flow.Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.policed)
}

func (s *software) Judged() map[flow.RuleID]flow.Counter {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.count)
}

func (s *software) Stats() fallback.Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats
}

// receive judges one packet.
func (s *software) receive(k *flow.Key, bytes int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Frames++
	if s.table == nil {
		s.stats.Early++
		return
	}
	r := s.table.Rule(s.table.Lookup(k))
	s.count[r.ID] = plus(s.count[r.ID], flow.Counter{Packets: 1, Bytes: uint64(bytes)})
	switch r.Actions.Terminal().Op {
	case flow.Drop:
		s.stats.Dropped++
	case flow.Normal:
		s.stats.Normal++
	case flow.Pass:
		s.stats.Passed++
	case flow.Output:
		s.stats.Output++
	}
}

// rig is a blade in memory: a fake card, software, and an agent between them.
type rig struct {
	t        *testing.T
	nic      *offloadtest.NIC
	software *software
	wanted   *Handed
	agent    *Agent
	now      time.Time
	sent     map[flow.RuleID]uint64 // by the rule that had to answer
}

var testPorts = flow.NewPorts("nic0/pf0", "nic0/pf0/vf0", "nic0/pf0/vf1", "nic0/pf0/vf2")

func newRig(t *testing.T, entries int) *rig {
	t.Helper()
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	m.Entries = entries
	r := &rig{t: t, nic: offloadtest.New(m), software: &software{count: map[flow.RuleID]flow.Counter{}}, wanted: &Handed{},
		now: time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC), sent: map[flow.RuleID]uint64{}}
	r.agent = New(r.config())
	return r
}

func (r *rig) config() Config {
	return Config{Source: r.wanted, Devices: []Device{{Name: "card", Driver: r.nic}}, Datapath: r.software, Check: new(verify.Prover).Check,
		Now: func() time.Time { return r.now }}
}

// table makes a table of one-line rules and three stations.
func table(t *testing.T, gen flow.Generation, def flow.Actions, lines ...string) *flow.Table {
	t.Helper()
	sets, err := ruleset.Decode(ruleset.Flows, "test.flows", []byte(strings.Join(lines, "\n")), testPorts)
	if err != nil {
		t.Fatal(err)
	}
	sets[0].Default = def
	sw, err := flow.NewSwitch(1, flow.Station{MAC: 0x020000000002, Port: 2}, flow.Station{MAC: 0x020000000003, Port: 3}, flow.Station{MAC: 0x020000000004, Port: 4})
	if err != nil {
		t.Fatal(err)
	}
	built, err := ruleset.Build(gen, sw, testPorts, sets...)
	if err != nil {
		t.Fatal(err)
	}
	return built
}

// web is a small table with everything in it: guards, a default, normal, pass.
func web(t *testing.T, gen flow.Generation) *flow.Table {
	t.Helper()
	return table(t, gen, nil,
		"name=block,priority=300,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=25 actions=drop",
		"name=local,priority=250,ip_proto=udp,dst_ip=10.0.0.9 actions=pass",
		"name=web,priority=200,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/16,dst_port=80-443 actions=output:vf1",
		"name=all,priority=100,in_port=vf0,dst_ip=10.0.0.0/8 actions=output:vf2",
		"name=switched,priority=50,dst_mac=02:00:00:00:00:03 actions=normal")
}

func (r *rig) reconcile() error {
	r.t.Helper()
	r.now = r.now.Add(2 * time.Second)
	return r.agent.Reconcile(context.Background())
}

// settle reconciles until a round has no error, at most n times.
func (r *rig) settle(n int) {
	r.t.Helper()
	var err error
	for range n {
		if err = r.reconcile(); err == nil {
			return
		}
	}
	r.t.Fatalf("after %d rounds: %v", n, err)
}

// send sends one packet and checks that what answers it is right.
func (r *rig) send(k *flow.Key, bytes int) {
	r.t.Helper()
	t := r.software.current()
	want := t.Rule(t.Lookup(k))
	r.sent[want.ID]++
	e, hit := r.nic.Receive(k, bytes)
	if !hit || e.Punt() {
		r.software.receive(k, bytes)
		return
	}
	if e.Rule != want.ID {
		r.t.Fatalf("packet %s: rule %s should answer, entry %016x of rule %016x did", flow.FormatKey(*k, testPorts), want.Name, uint64(e.ID), uint64(e.Rule))
	}
}

// packet returns a random packet that the rules of web and their neighbours see
// differently.
func packet(rng *rand.Rand) flow.Key {
	pick := func(s ...string) string { return s[rng.IntN(len(s))] }
	text := fmt.Sprintf("in_port=%s,dst_mac=02:00:00:00:00:0%d,ip_proto=%s,src_ip=10.9.0.1,dst_ip=%s,src_port=1000,dst_port=%s",
		pick("vf0", "vf1", "uplink"), 2+rng.IntN(4), pick("tcp", "udp"), pick("10.0.0.9", "10.0.1.1", "10.3.0.1", "192.0.2.1"), pick("25", "80", "443", "9999"))
	k, err := flow.ParseKey(text, testPorts)
	if err != nil {
		panic(err)
	}
	return k
}

// entry returns an installed entry that f is true of.
func (r *rig) entry(f func(*flow.Entry) bool) flow.Entry {
	r.t.Helper()
	for _, e := range r.installed() {
		if f(&e) {
			return e
		}
	}
	r.t.Fatal("no such entry is installed")
	return flow.Entry{}
}

func (r *rig) installed() []flow.Entry {
	r.t.Helper()
	installed, err := r.nic.Installed(context.Background())
	if err != nil {
		r.t.Fatal(err)
	}
	return installed
}

// proved checks that the blade says it is right, and that it is.
func (r *rig) proved() {
	r.t.Helper()
	m, _ := r.nic.Model(context.Background())
	if err := verify.Check(r.software.current(), r.installed(), m); err != nil {
		r.t.Fatal(err)
	}
	if s := r.agent.Status(); !s.Proved || s.Error != nil {
		r.t.Fatalf("status: proved %v, error %v", s.Proved, s.Error)
	}
}

var errInjected = errors.New("injected")
