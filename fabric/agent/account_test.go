package agent

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestCountersOutlive lets agents die in the middle of whatever they do, beside a card that
// goes on, and starts others. What was shown once is never taken back; of what the card
// counted nothing is lost, and of software's counts only those since the last look.
func TestCountersOutlive(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	r := newRig(t, 5)
	c := r.config()
	c.State = filepath.Join(t.TempDir(), "b1")
	r.wanted.Want(web(t, 1))
	shown := map[string]Count{}
	var hits, kept, loose uint64 // packets: the card's, software's that were looked at, and others
	look := func(read bool) {
		t.Helper()
		s := r.agent.Status()
		var hardware, software uint64
		for _, rule := range s.Rules {
			for tier, n := range map[string]Count{"hardware": rule.Hardware, "software": rule.Software} {
				if was := shown[rule.ID+tier]; n.Packets < was.Packets || n.Bytes < was.Bytes {
					t.Fatalf("%s of rule %s went from %+v to %+v", tier, rule.Name, was, n)
				}
				shown[rule.ID+tier] = n
			}
			hardware, software = hardware+rule.Hardware.Packets, software+rule.Software.Packets
		}
		if read && (hardware != hits || software < kept || software > kept+loose) {
			t.Fatalf("hardware counted %d of %d, software %d of %d to %d", hardware, hits, software, kept, kept+loose)
		}
		if read {
			kept, loose = software, 0
		}
	}
	for range 100 {
		r.software = &software{count: map[flow.RuleID]flow.Counter{}}
		c.Datapath = r.software
		r.agent = New(c)
		look(false)
		r.settle(2)
		look(true)
		for range rng.IntN(6) {
			for range rng.IntN(50) {
				k := packet(rng)
				if e, hit := r.nic.Receive(&k, 100); hit && !e.Punt() {
					hits++
				} else {
					r.software.receive(&k, 100)
					loose++
				}
			}
			switch rng.IntN(3) {
			case 0:
				r.settle(1)
				look(true)
			case 1:
				r.now = r.now.Add(accountPace / 4) // too soon to write: the status stays
				if err := r.agent.Reconcile(context.Background()); err != nil {
					t.Fatal(err)
				}
				look(false)
			}
		}
	}
	r.settle(1)
	look(true)
	if hits < 1000 || kept < 1000 {
		t.Errorf("the card answered %d packets and software %d: the test tests nothing", hits, kept)
	}
}

// TestCountersLost has files that cannot be read or written: the agent says so and works.
func TestCountersLost(t *testing.T) {
	r := newRig(t, 64)
	c := r.config()
	c.State = filepath.Join(t.TempDir(), "b1")
	for _, name := range []string{".counters", ".journal"} {
		if err := os.WriteFile(c.State+name, []byte(`{"software":{"not a number":[1,2]}}x`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r.agent = New(c)
	r.wanted.Want(web(t, 1))
	r.settle(2)
	r.proved()
	s := r.agent.Status()
	if s.EventTotals["E_KEPT"] != 1 || s.EventTotals[eventInterrupted] != 1 {
		t.Errorf("%+v", s.Events)
	}
	c.State = filepath.Join(t.TempDir(), "nowhere", "b1")
	r.agent = New(c)
	r.settle(2)
	r.wanted.Want(web(t, 2))
	k := packet(rand.New(rand.NewPCG(1, 1)))
	r.send(&k, 100)
	r.settle(2)
	r.proved()
	if s := r.agent.Status(); s.EventTotals["E_KEEP"] != 1 || s.Generation != 2 {
		t.Errorf("%+v", s.Events)
	}
}

// child is the environment variable that makes this test program an agent to be killed:
// its value is the directory with its files.
const child = "BLADEFLOW_TEST_AGENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(child); dir != "" {
		if err := live(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// live is the life of such an agent: packets come until it is killed, and how many have
// come is in a file mapped into memory, which outlives it.
func live(dir string) error {
	f, err := os.OpenFile(filepath.Join(dir, "came"), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	came, err := unix.Mmap(int(f.Fd()), 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	s := &software{count: map[flow.RuleID]flow.Counter{}}
	wanted := &Handed{}
	spec := flow.TableSpec{Generation: 1, Ports: testPorts}
	for i := range 50 {
		r, err := flow.ParseRule(fmt.Sprintf("name=r%d,priority=1,ip_proto=tcp,dst_ip=10.0.0.%d actions=output:uplink", i, i), testPorts)
		if err != nil {
			return err
		}
		r.ID = flow.NewRuleID("test", r.Name)
		spec.Rules = append(spec.Rules, r)
	}
	t, err := flow.NewTable(spec)
	if err != nil {
		return err
	}
	wanted.Want(t)
	a := New(Config{Source: wanted, Datapath: s, Interval: 100 * time.Millisecond, State: filepath.Join(dir, "b1"), Report: func(s *Status) {
		WriteObject(filepath.Join(dir, "status.json"), NewObject("b1", s))
	}})
	go a.Run(context.Background())
	k, err := flow.ParseKey("in_port=vf0,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.0.0.7,src_port=1,dst_port=2", testPorts)
	if err != nil {
		return err
	}
	for s.current() == nil {
		time.Sleep(time.Millisecond)
	}
	for {
		s.receive(&k, 100)
		binary.NativeEndian.PutUint64(came, binary.NativeEndian.Uint64(came)+1)
		time.Sleep(100 * time.Microsecond)
	}
}

// TestKilled kills agents by SIGKILL at random moments and reads what they say all the
// while. What they said never goes back, and no more is said than came.
func TestKilled(t *testing.T) {
	must.Long(t, "takes seconds")
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	dir := t.TempDir()
	came := filepath.Join(dir, "came")
	if err := os.WriteFile(came, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	said := func() uint64 {
		var o Object
		text, err := os.ReadFile(filepath.Join(dir, "status.json"))
		if errors.Is(err, os.ErrNotExist) {
			return 0
		}
		if err = errors.Join(err, json.Unmarshal(text, &o)); err != nil {
			t.Fatal(err)
		}
		r, _ := o.Status.Rule("r7")
		return r.Software.Packets
	}
	var last uint64
	for range 6 {
		agent := exec.Command(os.Args[0])
		agent.Env = append(os.Environ(), child+"="+dir)
		agent.Stderr = os.Stderr
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		before := last
		// It lives until it has said something new, and a random time more.
		deadline := time.Now().Add(time.Minute)
		for end := (time.Time{}); end.IsZero() || time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
			now := said()
			if now < last {
				t.Errorf("after %d packets, %d were said", last, now)
			}
			if last = now; now > before && end.IsZero() {
				end = time.Now().Add(time.Duration(rng.Int64N(int64(1200 * time.Millisecond))))
			}
			if time.Now().After(deadline) {
				t.Errorf("nothing new was said after %d packets", last)
				break
			}
		}
		if err := agent.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		agent.Wait() // its end is what was asked for
	}
	text, err := os.ReadFile(came)
	if err != nil {
		t.Fatal(err)
	}
	// A packet may have been counted and not noted when the agent was killed.
	if n := binary.NativeEndian.Uint64(text); last > n+6 || last == 0 {
		t.Errorf("%d packets came, %d were said", n, last)
	}
}

// TestPolicedOutlives: what a rule's police actions have dropped is shown beside what it
// met, in a metric, too, and goes on where the agent before has ended.
func TestPolicedOutlives(t *testing.T) {
	r := newRig(t, 5)
	c := r.config()
	c.State = filepath.Join(t.TempDir(), "b1")
	tab := web(t, 1)
	r.wanted.Want(tab)
	id := tab.Rule(1).ID
	for life := range uint64(3) {
		r.software = &software{count: map[flow.RuleID]flow.Counter{}, policed: map[flow.RuleID]flow.Counter{id: {Packets: 5, Bytes: 500}}}
		c.Datapath = r.software
		r.agent = New(c)
		r.settle(2)
		for _, rule := range r.agent.Status().Rules {
			want := Count{}
			if rule.Name == tab.Rule(1).Name {
				want = Count{Packets: 5 * (life + 1), Bytes: 500 * (life + 1)}
			}
			if rule.Policed != want {
				t.Errorf("life %d: rule %s: policed %+v, want %+v", life, rule.Name, rule.Policed, want)
			}
		}
	}
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(NewCollector(r.agent.Status, true))
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "bladeflow_rule_policed_packets_total" {
				sum += m.GetCounter().GetValue()
			}
		}
	}
	if sum != 15 {
		t.Errorf("metrics tell of %v packets, want 15", sum)
	}
}
