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
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
	"github.com/bladeflow/bladeflow/offload/verify"
)

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
	dir     string
	file    agent.File
	ports   *flow.Ports
	driver  *tcflower.Driver
	heard   *monitor
	watch   *watchdog
	tables  [2]*flow.Table
	digests [2]string    // of the files they are in
	others  []flow.Entry // what is not bladeflow's
	log     *os.File
	cmd     *exec.Cmd
	ended   chan struct{} // is closed when cmd has ended

	want    int         // of tables
	status  os.FileInfo // that was read last
	settled bool        // by it
	journal string      // before a kill
	swapped bool        // the table that is wanted was in force once
	found   slain
}

// slain is what TestCardAgentKills found.
type slain struct {
	Kills      int            `json:"kills"`
	InUpdate   int            `json:"in_update"`   // of the kills: the journal says so
	InRecovery int            `json:"in_recovery"` // of the kills: before the agent had put right what the one before left
	Between    int            `json:"between"`     // of the kills: the card held neither what it did before the change nor what it did after
	Phases     map[string]int `json:"phases"`      // kills by what the journal said
	Changes    int            `json:"changes"`     // that came to their end
	Unsound    int            `json:"unsound"`     // dumps that the checker refused
	Filters    [2]int         `json:"filters"`     // that a change to each table puts in or takes out if nobody disturbs it
}

// TestCardAgentKills ends an agent with SIGKILL, BLADEFLOW_VM_KILLS times, when so many filters
// of a change have come or gone, by lot: while it changes the card's table, and while it
// puts right what the one before left. What is in the card then is right under the table
// that was in force, which the journal tells; the next agent brings the blade to what is
// wanted; and entries of others stay.
func TestCardAgentKills(t *testing.T) {
	must.InMachine(t)
	b := newBlade(t)
	seed := flowtest.Seed(t)
	dir := filepath.Dir(b.file.Status)
	k := &slayer{T: t, Rand: rand.New(rand.NewPCG(seed, 0)), dir: dir, file: b.file, driver: watcher(t), heard: openMonitor(t), watch: newWatchdog(t, filepath.Join(dir, "log")), found: slain{Phases: map[string]int{}}}
	k.prepare()
	kills, start := flowtest.Count(t, "BLADEFLOW_VM_KILLS", 6), time.Now()
	k.measure()
	// The checkout is read only here: whoever runs the machine keeps the last line of these.
	say := func() {
		result, err := json.Marshal(map[string]any{"commit": os.Getenv("BLADEFLOW_VM_COMMIT"), "machine": "QEMU, one CPU", "seed": fmt.Sprint(seed), "seconds": int(time.Since(start).Seconds()), "passed": !t.Failed(), "figures": k.found})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("RESULT %s\n", result)
	}
	for k.found.Kills < kills && !t.Failed() {
		if k.cycle(kills); k.found.Changes%50 == 0 {
			say()
		}
	}
	k.kill()
	say()
}

// measure counts what changes to both tables do to the card when nobody disturbs them.
func (k *slayer) measure() {
	k.Helper()
	k.wish(0)
	k.spawn(1, true)
	k.await()
	for _, want := range []int{1, 0} {
		k.heard.forget()
		k.wish(want)
		k.await()
		for k.heard.next() {
			k.found.Filters[want]++
		}
	}
	if n := k.found.Filters; min(n[0], n[1]) < 8 {
		k.Fatalf("changes of %d filters: too few to be killed in between", n)
	}
}

// cycle is a change with a kill or more.
func (k *slayer) cycle(kills int) {
	k.Helper()
	begin := time.Now()
	before := k.mine()
	k.swapped = false
	k.journal = k.entry()
	k.heard.forget()
	k.wish(1 - k.want)
	var left [][]flow.Entry
	rest := k.found.Filters[k.want] // of the change, as far as can be known
	line := k.strike(&left, &rest)
	for {
		piece, probes := []int{1, 1, 2, 3, 5, 1000}[k.IntN(6)], k.IntN(10) == 0 // what it asks are filters, too
		k.journal = k.entry()
		k.heard.forget()
		k.spawn(piece, probes)
		if k.found.Kills >= kills || rest < 8 || k.IntN(3) == 0 {
			break
		}
		k.found.InRecovery++
		line += "; " + k.strike(&left, &rest)
	}
	killed := time.Since(begin)
	k.await()
	k.found.Changes++
	after := k.mine()
	for _, have := range left {
		if !same(have, before) && !same(have, after) {
			k.found.Between++
		}
	}
	if testing.Verbose() {
		k.Logf("%d kills, %d in a change: to table %d: %s; dead after %.1f s, settled after %.1f s", k.found.Kills, k.found.InUpdate, k.want, line, killed.Seconds(), time.Since(begin).Seconds())
	}
}

func same(a, b []flow.Entry) bool {
	return slices.EqualFunc(a, b, func(a, b flow.Entry) bool { return a.Equal(&b) })
}

// strike kills the agent when it has put in and taken out some of the filters that are left to
// it, or when it has no more to do, and looks at what it left. It returns what is to be said
// of that.
func (k *slayer) strike(left *[][]flow.Entry, rest *int) string {
	k.Helper()
	at := 1 + k.IntN(*rest)
	k.watch.begin(fmt.Sprintf("wait for filter %d", at))
	seen := 0
	for seen < at {
		if k.heard.next() {
			seen++
		} else if k.isSettled() {
			break
		}
	}
	k.kill()
	*rest -= seen
	k.found.Kills++
	have, phase := k.sound(len(*left) > 0)
	if *left = append(*left, have); phase == "done" {
		*rest = 0
	}
	return fmt.Sprintf("filter %d (%s, %d entries)", seen, phase, len(have))
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
		k.wish(i)
		w, err := agent.NewFiles(k.file.Rules, k.ports, sw, flow.Generation(i), "").Wanted()
		if err != nil {
			k.Fatal(err)
		}
		k.tables[i], k.digests[i] = w.Table, w.Digest
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

// wish makes a table the one that is wanted.
func (k *slayer) wish(table int) {
	k.Helper()
	k.want, k.settled = table, false // what the agent says next tells
	if err := writeRules(k.file.Rules[0], killedRules(table == 1)); err != nil {
		k.Fatal(err)
	}
	if k.cmd == nil {
		return
	}
	if err := k.cmd.Process.Signal(unix.SIGUSR1); err != nil {
		k.Fatal(err)
	}
}

// spawn starts an agent whose driver gets so many operations at a time.
func (k *slayer) spawn(piece int, probes bool) {
	k.Helper()
	k.watch.begin("start an agent")
	k.status, k.settled = k.stat(), false // what the one before said counts for nothing
	k.cmd = exec.Command("/proc/self/exe")
	k.cmd.Env = append(os.Environ(), "BLADEFLOW_GUEST=agent", agentFolder+"="+k.dir, agentPiece+"="+strconv.Itoa(piece))
	if probes {
		k.cmd.Env = append(k.cmd.Env, agentProbes+"=1")
	}
	k.cmd.Stdout, k.cmd.Stderr = k.log, k.log
	if err := k.cmd.Start(); err != nil {
		k.Fatal(err)
	}
	k.watch.agent.Store(int64(k.cmd.Process.Pid))
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
	k.watch.begin("kill the agent")
	if err := k.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		k.Fatal(err)
	}
	if <-k.ended; k.cmd.ProcessState.Exited() {
		k.Errorf("the agent ended by itself: %v", k.cmd.ProcessState)
	}
	k.cmd = nil
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

// entry is the agents' journal.
func (k *slayer) entry() string {
	k.Helper()
	text, err := os.ReadFile(strings.TrimSuffix(k.file.Status, ".json") + ".journal")
	if err != nil {
		k.Fatal(err)
	}
	return string(text)
}

// sound checks what a killed agent left, and returns it with what the journal says.
func (k *slayer) sound(recovering bool) ([]flow.Entry, string) {
	k.Helper()
	k.watch.begin("look at what a killed agent left")
	text := k.entry()
	var journal struct {
		From, To uint64
		Phase    string
	}
	if err := json.Unmarshal([]byte(text), &journal); err != nil {
		k.Fatal(err)
	}
	phase := journal.Phase
	if text == k.journal {
		phase = "not begun"
	} else if phase != "retire" || journal.From == journal.To {
		k.swapped = true
	}
	k.found.Phases[phase]++
	if phase == "retire" || phase == "promote" {
		k.found.InUpdate++
	}
	m, err := k.driver.Model(context.Background())
	if err != nil {
		k.Fatal(err)
	}
	have := k.mine()
	was, next := k.tables[1-k.want], k.tables[k.want]
	table := was
	if k.swapped {
		table = next
	}
	wrong := verify.Check(table, have, m)
	if wrong != nil && recovering && table == was { // it knew the next one only: each answer is right under one of both
		wrong = verify.Check(was, punted(have, next, m), m)
	}
	if wrong != nil {
		k.found.Unsound++
		k.Errorf("in phase %s: %v", phase, wrong)
	}
	return have, phase
}

// punted returns entries with a guard in place of each that is right under a table.
func punted(entries []flow.Entry, t *flow.Table, m device.Model) []flow.Entry {
	wrong := map[flow.EntryID]bool{}
	for _, op := range offload.NewPlan(t, t, entries, m, nil).Retire {
		wrong[op.Entry.ID] = true
	}
	out := slices.Clone(entries)
	for i := range out {
		if e := &out[i]; !wrong[e.ID] {
			e.Kind, e.Actions = flow.GuardEntry, nil
		}
	}
	return out
}

func (k *slayer) stat() os.FileInfo {
	info, _ := os.Stat(k.file.Status) // there may be none yet
	return info
}

// isSettled reports whether the agent says that the wanted table is in force and proved.
func (k *slayer) isSettled() bool {
	k.Helper()
	select {
	case <-k.ended:
		k.Fatal("the agent ended by itself")
	default:
	}
	now := k.stat()
	if now == nil || k.status != nil && os.SameFile(now, k.status) {
		return k.settled
	}
	var o agent.Object
	text, err := os.ReadFile(k.file.Status)
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		k.Fatal(err)
	}
	k.status = now
	k.settled = o.Status.Proved && o.Status.Digest == k.digests[k.want] && !slices.ContainsFunc(o.Status.Rules, func(r agent.RuleStatus) bool { return r.Code == "E_PENDING" })
	return k.settled
}

// await waits until the agent says that the wanted table is in force and proved, and checks it.
func (k *slayer) await() {
	k.Helper()
	k.watch.begin("wait for a table to be in force and proved")
	for !k.isSettled() {
		time.Sleep(5 * time.Millisecond)
	}
	m, err := k.driver.Model(context.Background())
	if err != nil {
		k.Fatal(err)
	}
	have := k.mine()
	if err := verify.Check(k.tables[k.want], have, m); err != nil || len(have) < 12 {
		k.found.Unsound++
		k.Errorf("%d entries: %v", len(have), err)
	}
}
