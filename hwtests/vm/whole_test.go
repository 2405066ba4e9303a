package main

import (
	"errors"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
)

// The tests of this file run whole agents on the machine's card: what it is told of goes
// through tc flower into tcamsim, or is answered by the software behind the representors.

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
	b.step("shape", b.shape)
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

// shape has an agent see to it that the card has VFs, and keeps them: those that somebody takes
// away are there again, with representors that are up, and all is in the card again; one that
// somebody uses keeps the agent from changing anything.
func (b *blade) shape(t *testing.T) {
	const rules = 4
	b.stop()
	vfs, err := strconv.Atoi(cardVFs)
	if err != nil {
		t.Fatal(err)
	}
	b.file.NumVFs, b.file.ESwitch = vfs, "switchdev"
	defer func() { b.file.NumVFs, b.file.ESwitch = 0, "" }()
	setVFs(t, 0)
	b.rules(forwards("p", rules)...)
	b.run()
	whole := func(s *agent.Status) bool {
		return s.Proved && s.Error == nil && device1(s).Entries == rules && !slices.ContainsFunc(s.Links, func(l agent.LinkStatus) bool { return !l.Open })
	}
	b.await("the agent made the VFs", whole)
	taken := time.Now()
	setVFs(t, 0)
	b.await("VFs that were taken away are there again", func(s *agent.Status) bool {
		return s.Links[1].Since.After(taken) && whole(s) && s.EventTotals["CARD_IN_SHAPE"] == 1
	})
	b.open()
	b.right(rules)
	b.stop()
	file := b.file
	file.NumVFs = 2
	printed(t, "ip", "link", "set", "eth0", "vf", "5", "mac", "02:00:00:00:00:55")
	d, err := agent.Open(file, slog.New(slog.DiscardHandler))
	if err == nil {
		d.Close()
	}
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Code != "E_PF_SHAPE" || count(t, "virtfn*") != vfs {
		t.Errorf("with a VF in use: %v, and %d VFs are left", err, count(t, "virtfn*"))
	}
	printed(t, "ip", "link", "set", "eth0", "vf", "5", "mac", "00:00:00:00:00:00")
	b.start()
}

// lies has a card that drops by what it says and counts, and forwards. The audit finds it
// by what leaves, at the interval of agents whose configuration says nothing of it, and takes
// its entries out.
func (b *blade) lies(t *testing.T) {
	b.stop()
	b.file.Interval = 2 * time.Second
	b.start()
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
	b.passed()
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
