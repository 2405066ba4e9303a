package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
)

// The tests of this file run whole agents on the machine's card: what it is told of goes
// through tc flower into tcamsim, or is answered by the software behind the representors.

// bladePorts are the ports of the agents here: the uplink and three VFs.
const bladePorts = 4

// blade is an agent and both sides of each of its ports.
type blade struct {
	*testing.T
	file   agent.File
	agent  *agent.Agent
	ends   [bladePorts]*tap // what is outside
	cancel func() error
}

// newBlade prepares an agent for the card. It has no rules yet and does not run.
func newBlade(t *testing.T) *blade {
	t.Helper()
	must.InMachine(t)
	if have, err := os.ReadFile("/sys/bus/pci/devices/" + card + "/sriov_numvfs"); err != nil || strings.TrimSpace(string(have)) != cardVFs {
		setVFs(t, 0)
		setVFs(t, 7)
	}
	dir := t.TempDir()
	b := &blade{T: t, file: bladeFile(dir)}
	b.open()
	t.Cleanup(func() {
		b.stop()
		b.flush()
	})
	return b
}

// open opens both sides of the ports, until the end of this part of the test.
func (b *blade) open() {
	for i := range b.ends {
		b.ends[i] = openPort(b.T, i).outside
	}
}

// bladeFile is the configuration of the agents here.
func bladeFile(dir string) agent.File {
	f := agent.File{Blade: "b1", Rules: []string{filepath.Join(dir, "rules.flows")}, Root: "/", Uplink: "nic0/pf0", NIC: card, Datapath: "afpacket", Fail: "closed",
		Interval: 100 * time.Millisecond, Status: filepath.Join(dir, "status.json")}
	for i := range bladePorts {
		name := "nic0/pf0"
		if i > 0 {
			name += "/vf" + strconv.Itoa(i-1)
		}
		f.Ports = append(f.Ports, agent.PortMap{Name: name, Netdev: "simr" + strconv.Itoa(i)})
	}
	return f
}

// rules writes the rules that are wanted.
func (b *blade) rules(lines ...string) {
	b.Helper()
	if err := writeRules(b.file.Rules[0], lines); err != nil {
		b.Fatal(err)
	}
}

func writeRules(file string, lines []string) error {
	if err := os.WriteFile(file+".new", []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		return err
	}
	return os.Rename(file+".new", file)
}

// start runs the agent, and waits until all is as it is wanted.
func (b *blade) start() {
	b.Helper()
	b.run()
	b.await("all is proved", func(s *agent.Status) bool { return s.Proved && s.Error == nil })
}

// run runs the agent.
func (b *blade) run() {
	b.Helper()
	d, err := agent.Open(b.file, slog.New(slog.DiscardHandler))
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := d.Run(ctx); err != nil {
			b.Error(err)
		}
	})
	b.agent, b.cancel = d.Agent(), sync.OnceValue(func() error {
		cancel()
		ended.Wait()
		return d.Close()
	})
}

// stop ends the agent, if it runs. Entries stay.
func (b *blade) stop() {
	b.Helper()
	if b.cancel == nil {
		return
	}
	if err := b.cancel(); err != nil {
		b.Error(err)
	}
}

// await waits until the status is as wanted and returns it.
func (b *blade) await(what string, ok func(*agent.Status) bool) *agent.Status {
	b.Helper()
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		s := b.agent.Status()
		if ok(s) {
			return s
		}
		if time.Now().After(end) {
			b.Fatalf("not in a minute: %s: error %+v, devices %+v, links %+v, events %+v", what, s.Error, s.Devices, s.Links, s.Events)
		}
	}
}

// representors are the driver's ports of the card, as far as they are there.
func representors() (out []tcflower.Port, err error) {
	for i := range bladePorts {
		text, err := os.ReadFile("/sys/class/net/simr" + strconv.Itoa(i) + "/ifindex")
		if err != nil {
			continue
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil {
			return nil, err
		}
		out = append(out, tcflower.Port{Port: flow.Port(i + 1), Device: uint32(n)})
	}
	return out, nil
}

// watcher is a driver of the card beside the agent's.
func watcher(t *testing.T) *tcflower.Driver {
	t.Helper()
	m, err := device.Load("tcamsim")
	if err != nil {
		t.Fatal(err)
	}
	d, err := tcflower.Open(tcflower.Options{Model: m, Find: func() []tcflower.Port {
		at, err := representors()
		if err != nil {
			t.Error(err)
		}
		return at
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

// installed is what the card holds.
func installed(t *testing.T, d *tcflower.Driver) []flow.Entry {
	t.Helper()
	have, err := d.Installed(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return have
}

// flush takes all that is bladeflow's out of the card.
func (b *blade) flush() {
	b.Helper()
	d := watcher(b.T)
	have := slices.DeleteFunc(installed(b.T, d), func(e flow.Entry) bool { return !offload.Ours(e.ID) })
	for _, out := range d.Apply(context.Background(), ops(offload.Remove, have)) {
		if out.Status != offload.Done {
			b.Errorf("flush: %+v", out)
		}
	}
}

// send sends a frame for a station from the first VF.
func (b *blade) send(to uint64) { b.ends[1].send(frame(station|0xfe00, to)) }

// drain returns the stations of all frames that have come in at an end, sorted.
func (p *tap) drain() (out []uint64) {
	p.Helper()
	if err := unix.SetNonblock(p.fd, true); err != nil {
		p.Fatal(err)
	}
	defer unix.SetNonblock(p.fd, false)
	for to := p.next(); to != 0; to = p.next() {
		out = append(out, to)
	}
	slices.Sort(out)
	return out
}

// judged returns how many packets the rules have answered, wherever.
func judged(s *agent.Status) (n uint64) {
	for _, r := range s.Rules {
		n += r.Hardware.Packets + r.Software.Packets
	}
	return n
}

// forward is a rule for what is for one station, from the first VF to the second, or a
// drop if the station is odd.
func forward(name string, i int) string {
	does := "output:vf1"
	if i%2 == 1 {
		does = "drop"
	}
	return fmt.Sprintf("name=%s%d,priority=100,in_port=vf0,eth_type=0x88b5,dst_mac=%s actions=%s", name, i, flow.FormatMAC(station|uint64(i)), does)
}

func forwards(name string, n int) (out []string) {
	for i := range n {
		out = append(out, forward(name, i))
	}
	return out
}

// right sends a frame for each of the n stations of forwards and for nobody, and checks
// that those of even number left by the second VF, once each, and no other by any port.
// Nobody of ours counts those of others.
func (b *blade) right(n int, others ...int) *agent.Status {
	b.Helper()
	for _, end := range b.ends {
		end.drain()
	}
	before := judged(b.agent.Status())
	var want []uint64
	for i := range n {
		b.send(station | uint64(i))
		if i%2 == 0 {
			want = append(want, station|uint64(i))
		}
	}
	b.send(nobody)
	s := b.await("all frames are judged", func(s *agent.Status) bool { return judged(s) >= before+uint64(n+1-len(others)) })
	for i, end := range b.ends {
		have := end.drain()
		if i != 2 && len(have) > 0 || i == 2 && !slices.Equal(have, want) {
			b.Errorf("by port %d left %x, for port 2 were %x", i, have, want)
		}
	}
	return s
}

// device is the only device of a status.
func device1(s *agent.Status) agent.DeviceStatus {
	if len(s.Devices) != 1 {
		return agent.DeviceStatus{}
	}
	return s.Devices[0]
}

// step runs a part of a test.
func (b *blade) step(name string, part func(t *testing.T)) {
	whole := b.T
	defer func() { b.T = whole }()
	whole.Run(name, func(t *testing.T) {
		b.T = t
		part(t)
	})
}

// TestCardAgent runs an agent on the card and has it meet what cards do to agents.
func TestCardAgent(t *testing.T) {
	b := newBlade(t)
	b.step("fails", b.fails)
	b.step("strangers", b.strangers)
	b.step("comes and goes", b.comesAndGoes)
	b.step("lies", b.lies)
	b.stop()
	b.flush()
	b.file = bladeFile(t.TempDir()) // as one that has learned nothing
	b.step("full", b.full)
}

// fails has firmware that fails at every third insertion. The rest is in, with the driver's
// words where it is not; without failures all is.
func (b *blade) fails(t *testing.T) {
	const rules = 18
	parameter(t, "fail_every", "3")
	b.rules(forwards("f", rules)...)
	b.start()
	s := b.right(rules)
	failed := 0
	for _, r := range s.Rules[:rules] {
		if r.Place == "hardware" {
			continue
		}
		if failed++; r.Code != offload.CodeDevice || !strings.Contains(r.Reason, "injected firmware failure") {
			t.Errorf("%+v", r)
		}
	}
	if failed == 0 || failed > rules/2 {
		t.Errorf("%d of %d rules failed", failed, rules)
	}
	parameter(t, "fail_every", "0")
	b.rules(forwards("g", rules)...)
	b.await("all is in the card", func(s *agent.Status) bool {
		return s.Proved && device1(s).Entries == rules && s.Rules[0].Name[6] == 'g'
	})
	b.right(rules)
}

// strangers has filters of others come into the card, of kinds and with keys that no entry
// has: they stay as they are, rules that they overlap stay in software, and what room they
// leave is used.
func (b *blade) strangers(t *testing.T) {
	const lines, rules = 12, 10
	b.rules(forward("s", 0))
	b.await("one rule is left", func(s *agent.Status) bool { return s.Proved && device1(s).Entries == 1 })
	parameter(t, "table_size", strconv.Itoa(lines))
	add := func(rest ...string) {
		tc(t, append([]string{"filter", "add", "dev", "simr1", "ingress"}, rest...)...)
	}
	for i := range 5 {
		add("protocol", "0x88b6", "pref", "7", "flower", "skip_sw", "dst_mac", flow.FormatMAC(0x02aa00000000|uint64(i)), "action", "drop")
	}
	// One is for a station of ours, and one looks at ARP.
	add("protocol", "0x88b5", "pref", "8", "flower", "skip_sw", "dst_mac", flow.FormatMAC(station|4), "action", "mirred", "egress", "redirect", "dev", "simr2")
	add("protocol", "arp", "pref", "9", "flower", "skip_sw", "arp_op", "request", "action", "drop")
	add("protocol", "all", "pref", "10", "matchall", "skip_hw", "action", "pass")
	defer func() {
		for pref := 7; pref <= 10; pref++ {
			tc(t, "filter", "del", "dev", "simr1", "ingress", "pref", strconv.Itoa(pref))
		}
	}()
	before := theirs(t)
	b.rules(forwards("s", rules)...)
	b.await("the table is full", func(s *agent.Status) bool { return device1(s).Entries == lines && len(s.Rules) > rules })
	s := b.right(rules, 4)
	listed := map[string]int{}
	entries, err := agent.CardEntries(t.Context(), "nic0/pf0")
	for _, e := range entries {
		listed[e.Class]++
	}
	if err != nil || listed["foreign"] != 7 || listed["ours"] != lines-7 || len(listed) != 2 {
		t.Errorf("listed are %v, %v", listed, err)
	}
	if d := device1(s); d.Foreign != 7 || s.Error == nil || s.Error.Code != "E_FOREIGN" {
		t.Errorf("%+v, %+v", d, s.Error)
	}
	b.rules(forward("s", 0), forward("s", 4))
	s = b.await("rules went", func(s *agent.Status) bool { return len(s.Rules) == 3 && device1(s).Entries == 8 })
	if i := slices.IndexFunc(s.Rules, func(r agent.RuleStatus) bool { return r.Name == "rules/s4" }); i < 0 || s.Rules[i].Place != "software" || s.Rules[i].Code != "E_FOREIGN" {
		t.Errorf("%+v", s.Rules)
	}
	if after := theirs(t); after != before {
		t.Errorf("filters of others were\n%s\nand are\n%s", before, after)
	}
}

// theirs are the first VF's filters of others, as tc shows them.
func theirs(t *testing.T) string {
	t.Helper()
	var out string
	for _, pref := range []string{"7", "8", "9", "10"} {
		out += printed(t, "tc", "filter", "show", "dev", "simr1", "ingress", "pref", pref)
	}
	return out
}

// comesAndGoes takes VFs, and then the card, away under an agent: it goes on, and when they
// are back all is as it was.
func (b *blade) comesAndGoes(t *testing.T) {
	const rules = 8
	b.rules(append(forwards("c", rules), "name=any,priority=50,eth_type=0x88b5,dst_mac="+flow.FormatMAC(station|0x100)+" actions=drop")...)
	whole := func(s *agent.Status) bool {
		return s.Proved && s.Error == nil && device1(s).Entries == rules+1 && device1(s).Foreign == 0 && !slices.ContainsFunc(s.Links, func(l agent.LinkStatus) bool { return !l.Open })
	}
	b.await("all is in the card", whole)
	for _, step := range []struct {
		what    string
		off, on func()
	}{
		{"VFs", func() { setVFs(t, 0) }, func() { setVFs(t, 7) }},
		{"the card", func() { unloadCard(t) }, func() { loadCard(t) }},
	} {
		step.off()
		b.await(step.what+" went", func(s *agent.Status) bool {
			return !s.Links[1].Open && s.Proved && s.Error == nil && device1(s).Entries <= 1
		})
		step.on()
		b.open()
		b.await(step.what+" came back, and all is in it again", whole)
		b.right(rules)
	}
}

// lies has a card that drops by what it says and counts, and forwards. The audit finds it
// by what leaves, and takes its entries out.
func (b *blade) lies(t *testing.T) {
	b.open()
	b.rules(forwards("t", 6)...)
	six := func(s *agent.Status) bool { return s.Proved && s.Error == nil && device1(s).Entries == 6 }
	b.await("all is in the card", six)
	for range 2 { // of traffic that nothing is wrong with
		b.right(6)
	}
	parameter(t, "lie_every", "1")
	b.rules(forwards("l", 6)...)
	b.await("lies are in the card", func(s *agent.Status) bool { return six(s) && s.Rules[0].Name[6] == 'l' })
	from, began := b.agent.Status().Rounds, time.Now()
	s := b.await("the lie is found", func(s *agent.Status) bool {
		for i := range 6 {
			b.send(station | uint64(i))
		}
		return s.EventTotals["E_DEVICE_LIES"] > 0 && device1(s).Entries == 0
	})
	t.Logf("in %v, %d looks: %+v", time.Since(began), s.Rounds-from, s.Events[len(s.Events)-1])
	if r := b.right(6).Rules[0]; r.Code != "E_DEVICE_LIES" {
		t.Errorf("%+v", r)
	}
}

// full gives a table with 10 lines 100 rules: 10 are in the card, and 90 in software with a
// code and words; all packets are judged right. An agent that starts anew leaves the entries
// as they are, with what they counted, and knows how full full is.
func (b *blade) full(t *testing.T) {
	const rules, lines = 100, 10
	b.open()
	parameter(t, "table_size", strconv.Itoa(lines))
	b.rules(forwards("r", rules)...)
	b.start()
	s := b.right(rules)
	hardware := 0
	for _, r := range s.Rules[:rules] {
		switch {
		case r.Place == "hardware" && r.Whole && r.Code == "":
			hardware++
			if r.Hardware.Packets != 1 || r.Software.Packets != 0 {
				t.Errorf("%s: %+v", r.Name, r)
			}
		case r.Code != offload.CodeFull || r.Reason == "" || r.Software.Packets != 1:
			t.Errorf("%s: %+v", r.Name, r)
		}
	}
	if d := device1(s); hardware != lines || d.Entries != lines || d.Limit != lines || !d.Learned {
		t.Errorf("%d rules are in the card: %+v", hardware, d)
	}
	d := watcher(t)
	before := installed(t, d)
	b.stop()
	b.start()
	if s := b.right(rules); device1(s).Limit != lines || s.EventTotals["LIMIT_LEARNED"] != 0 {
		t.Errorf("what full is was forgotten: %+v, %v", device1(s), s.EventTotals)
	}
	if !slices.EqualFunc(installed(t, d), before, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
		t.Error("the new agent changed entries")
	}
	counts, err := d.Counters(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range counts {
		if n.Packets != 2 {
			t.Errorf("%+v: an entry that stays goes on counting", n)
		}
	}
	b.stop()
}

// tc runs iproute2's.
func tc(t *testing.T, args ...string) {
	t.Helper()
	printed(t, "tc", args...)
}

const simulator = "tcamsim"

func unloadCard(t *testing.T) {
	t.Helper()
	if err := unix.DeleteModule(simulator, 0); err != nil {
		t.Fatal(err)
	}
}

func loadCard(t *testing.T) {
	t.Helper()
	data, err := os.ReadFile("/modules/" + simulator)
	if err == nil {
		err = unix.InitModule(data, "pci="+card+" ports=8")
	}
	if err != nil {
		t.Fatal(err)
	}
}
