package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// mortal is the agent that TestCardAgentKills kills: one of rules in a file, on the card. Its
// software forwards nothing: what it would do is not looked at, and takes an emulated machine
// longest to start.
func mortal() int {
	f := bladeFile(os.Getenv("BLADEFLOW_AGENT"))
	err := func() error {
		var names []string
		for _, p := range f.Ports {
			names = append(names, p.Name)
		}
		ports := flow.NewPorts(names...)
		sw, err := f.Switch(ports)
		if err != nil {
			return err
		}
		m, err := device.Load("tcamsim")
		if err != nil {
			return err
		}
		at, err := representors()
		if err != nil {
			return err
		}
		d, err := tcflower.Open(tcflower.Options{Model: m, Ports: at})
		if err != nil {
			return err
		}
		ctx := context.Background()
		answers, err := d.Probe(ctx)
		if err != nil {
			return err
		}
		last, digest := agent.LastGeneration(f.Status)
		return agent.New(agent.Config{Source: agent.NewFiles(f.Rules, ports, sw, last, digest), Devices: []agent.Device{{Name: "nic0", Driver: d, Answers: answers}}, Datapath: idle{}, Check: new(verify.Prover).Check,
			Interval: f.Interval, State: strings.TrimSuffix(f.Status, ".json"), Report: func(s *agent.Status) {
				if err := agent.WriteObject(f.Status, agent.NewObject(f.Blade, s)); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}}).Run(ctx)
	}()
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// idle is software to which no packet comes.
type idle struct{}

func (idle) Swap(*flow.Table) error                { return nil }
func (idle) Judged() map[flow.RuleID]flow.Counter  { return nil }
func (idle) Policed() map[flow.RuleID]flow.Counter { return nil }
func (idle) Cached() map[flow.RuleID]flow.Counter  { return nil }
func (idle) Stats() (s fallback.Stats)             { return s }

// killedRules are two rule sets with rules that overlap, guards, and half of the rules in common.
func killedRules(second bool) (out []string) {
	for i := range 16 {
		does, mac := "output:vf1", flow.FormatMAC(station|uint64(i))
		if i%2 == 1 || second && i%4 == 0 {
			does = "drop"
		}
		out = append(out, fmt.Sprintf("name=r%d,priority=%d,in_port=vf0,eth_type=0x88b5,dst_mac=%s actions=%s", i, 100+i, mac, does))
		if i%5 == 0 && second != (i%10 == 0) {
			out = append(out, fmt.Sprintf("name=p%d,priority=%d,eth_type=0x88b5,dst_mac=%s,src_mac=02:00:00:00:00:99 actions=pass", i, 200+i, mac))
		}
	}
	return append(out, fmt.Sprintf("name=all,priority=%d,in_port=vf0,eth_type=0x88b5 actions=output:vf2", map[bool]int{true: 7, false: 5}[second]))
}

// slayer kills agents.
type slayer struct {
	*testing.T
	*rand.Rand
	dir    string
	file   agent.File
	ports  *flow.Ports
	driver *tcflower.Driver
	tables [2]*flow.Table
	others []flow.Entry // what is not bladeflow's
	log    *os.File
	cmd    *exec.Cmd
	ended  chan struct{} // is closed when cmd has ended

	phases              map[string]int // kills by what the journal said, but for those in a recovery
	recovering, unsound int
}

// TestCardAgentKills ends an agent with SIGKILL at random moments, BLADEFLOW_VM_KILLS times:
// while it changes the card's table, and while it puts right what the one before left. What
// is in the card then is right under the table that was in force, which the journal tells;
// the next agent brings the blade to what is wanted; and entries of others stay.
func TestCardAgentKills(t *testing.T) {
	b := newBlade(t)
	seed := flowtest.Seed(t)
	k := &slayer{T: t, Rand: rand.New(rand.NewPCG(seed, 0)), dir: filepath.Dir(b.file.Status), file: b.file, driver: watcher(t), phases: map[string]int{}}
	k.prepare()
	kills := flowtest.Count(t, "BLADEFLOW_VM_KILLS", 4)
	want := 0
	k.wish(want)
	k.spawn()
	k.settled(want)
	start := time.Now()
	want = 1
	k.wish(want)
	k.settled(want)
	change := time.Since(start) // takes so long if nobody is killed
	for n := 0; n < kills; {
		want = 1 - want
		k.wish(want)
		time.Sleep(time.Duration(k.Int64N(int64(change + change/8))))
		k.kill()
		n++
		k.sound(want)
		k.spawn()
		if n < kills && k.IntN(3) == 0 { // while it recovers
			time.Sleep(time.Duration(k.Int64N(int64(2 * change))))
			k.kill()
			n++
			k.recovering++
			k.spawn()
		}
		k.settled(want)
	}
	k.kill()
	// The checkout is read only here: whoever runs the machine keeps this.
	result, err := json.Marshal(map[string]any{"commit": os.Getenv("BLADEFLOW_VM_COMMIT"), "machine": "QEMU, one CPU", "seed": fmt.Sprint(seed), "seconds": int(time.Since(start).Seconds()), "passed": !t.Failed(),
		"figures": map[string]any{"kills": kills, "in_recovery": k.recovering, "phases": k.phases, "unsound": k.unsound}})
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("RESULT %s\n", result)
}

func (k *slayer) prepare() {
	k.Helper()
	var names []string
	for _, p := range k.file.Ports {
		names = append(names, p.Name)
	}
	k.ports = flow.NewPorts(names...)
	sw, err := k.file.Switch(k.ports)
	if err != nil {
		k.Fatal(err)
	}
	for i := range k.tables {
		sets, err := ruleset.Decode(ruleset.Flows, "rules.flows", []byte(strings.Join(killedRules(i == 1), "\n")), k.ports)
		if err == nil {
			k.tables[i], err = ruleset.Build(flow.Generation(i+1), sw, k.ports, sets...)
		}
		if err != nil {
			k.Fatal(err)
		}
	}
	tc(k.T, "qdisc", "replace", "dev", "simr1", "clsact")
	tc(k.T, "filter", "add", "dev", "simr1", "ingress", "protocol", "0x88b6", "pref", "7", "flower", "skip_sw", "action", "drop")
	k.Cleanup(func() { tc(k.T, "filter", "del", "dev", "simr1", "ingress", "pref", "7") })
	k.others = installed(k.T, k.driver)
	if len(k.others) != 1 {
		k.Fatalf("%+v", k.others)
	}
	if k.log, err = os.Create(filepath.Join(k.dir, "log")); err != nil {
		k.Fatal(err)
	}
	k.Cleanup(func() {
		if k.cmd != nil {
			k.kill()
		}
		if text, err := os.ReadFile(k.log.Name()); k.Failed() && err == nil {
			k.Logf("the agents said:\n%s", text[max(0, len(text)-4000):])
		}
	})
}

func (k *slayer) wish(table int) {
	k.Helper()
	if err := writeRules(k.file.Rules[0], killedRules(table == 1)); err != nil {
		k.Fatal(err)
	}
}

// spawn starts an agent.
func (k *slayer) spawn() {
	k.Helper()
	os.Remove(k.file.Status) // there may be none
	k.cmd = exec.Command("/proc/self/exe")
	k.cmd.Env = append(os.Environ(), "BLADEFLOW_GUEST=agent", "BLADEFLOW_AGENT="+k.dir)
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	if err := k.cmd.Start(); err != nil {
		k.Fatal(err)
	}
	cmd, ended := k.cmd, make(chan struct{})
	k.ended = ended
	go func() {
		cmd.Wait() // kill says how it ended
		close(ended)
	}()
}

// kill ends it.
func (k *slayer) kill() {
	k.Helper()
	if err := k.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		k.Fatal(err)
	}
	if <-k.ended; k.cmd.ProcessState.Exited() {
		k.Errorf("the agent ended by itself: %v", k.cmd.ProcessState)
	}
	k.cmd = nil
}

// sound checks what a killed agent left when it was told to go to a table.
func (k *slayer) sound(want int) {
	k.Helper()
	var journal struct{ Phase string }
	text, err := os.ReadFile(strings.TrimSuffix(k.file.Status, ".json") + ".journal")
	if err == nil {
		err = json.Unmarshal(text, &journal)
	}
	if err != nil {
		k.Fatal(err)
	}
	k.phases[journal.Phase]++
	have := k.mine()
	m, err := k.driver.Model(context.Background())
	if err != nil {
		k.Fatal(err)
	}
	failed := k.Failed()
	before, after := verify.Check(k.tables[1-want], have, m), verify.Check(k.tables[want], have, m)
	switch {
	case journal.Phase == "retire" && before != nil: // software has the table before
		k.Errorf("in phase retire: %v", before)
	case journal.Phase == "promote" && after != nil:
		k.Errorf("in phase promote: %v", after)
	case before != nil && after != nil: // done: it had not begun, or was at its end
		k.Errorf("in phase %s: neither %v nor %v", journal.Phase, before, after)
	}
	if k.Failed() && !failed {
		k.unsound++
	}
}

// mine returns bladeflow's entries, and checks that the others are as they were.
func (k *slayer) mine() []flow.Entry {
	k.Helper()
	var mine, others []flow.Entry
	for _, e := range installed(k.T, k.driver) {
		if offload.Ours(e.ID) {
			mine = append(mine, e)
		} else {
			others = append(others, e)
		}
	}
	if !slices.EqualFunc(others, k.others, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		k.Errorf("entries of others were %+v and are %+v", k.others, others)
	}
	return mine
}

// settled waits until the agent says that a table is in force and proved, and checks it.
func (k *slayer) settled(want int) {
	k.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		var o agent.Object
		text, err := os.ReadFile(k.file.Status)
		if err == nil {
			err = json.Unmarshal(text, &o)
		}
		s := &o.Status
		if err == nil && s.Proved && len(s.Rules) == k.tables[want].Len()+1 && !slices.ContainsFunc(s.Rules, func(r agent.RuleStatus) bool { return r.Code == "E_PENDING" }) && k.is(s, want) {
			break
		}
		select {
		case <-k.ended:
			k.Fatal("the agent ended by itself")
		default:
		}
		if time.Now().After(end) {
			k.Fatalf("not in a minute: %v: %+v %+v", err, s.Error, s.Devices)
		}
	}
	m, err := k.driver.Model(context.Background())
	if err != nil {
		k.Fatal(err)
	}
	have := k.mine()
	if err := verify.Check(k.tables[want], have, m); err != nil || len(have) < 16 {
		k.Errorf("%d entries: %v", len(have), err)
	}
}

// is reports whether the rules of a status are those of a table.
func (k *slayer) is(s *agent.Status, want int) bool {
	for i := range k.tables[want].Len() {
		if s.Rules[i].Name != k.tables[want].Rule(i).Name {
			return false
		}
	}
	return true
}
