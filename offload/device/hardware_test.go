package device

import (
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the generated parts of HARDWARE.md anew")

// TestHardware compares the generated parts of HARDWARE.md with the models and the
// recorded runs, so that nothing there is kept by hand or claimed without a record.
func TestHardware(t *testing.T) {
	const file = "../../HARDWARE.md"
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	runs := recorded(t)
	text := string(b)
	for name, rows := range map[string]string{"claims": claimRows(t, runs), "runs": runRows(runs), "models": modelRows(t, runs)} {
		begin, end := "<!-- "+name+": make hardware -->\n", "<!-- end of "+name+" -->\n"
		head, rest, ok := strings.Cut(text, begin)
		have, tail, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("%s has no place for its %s: %q and %q", file, name, begin, end)
		}
		if have != rows && !*update {
			t.Errorf("the %s in HARDWARE.md are not up to date; run make hardware; they should be:\n%s", name, rows)
		}
		text = head + begin + rows + end + tail
	}
	if *update {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// run is a record of a hardware test.
type run struct {
	file   string
	Kind   string
	Spec   struct{ On, Card string }
	Status struct {
		Commit, Evidence string
		Started          time.Time
		Machine          struct{ Kernel string }
		NIC              struct{ Driver, Firmware, Model string }
		Scenarios        []struct {
			Name   string
			Passed bool
		}
	}
}

func (r *run) link() string { return fmt.Sprintf("[%s](%s)", r.file, r.file) }

// shows reports whether all scenarios of the names passed in the run.
func (r *run) shows(names []string) bool {
	for _, name := range names {
		i := slices.IndexFunc(r.Status.Scenarios, func(s struct {
			Name   string
			Passed bool
		}) bool {
			return s.Name == name
		})
		if i < 0 || !r.Status.Scenarios[i].Passed {
			return false
		}
	}
	return true
}

// recorded returns the runs in docs/results, by their files.
func recorded(t *testing.T) (runs []run) {
	files, err := filepath.Glob("../../docs/results/*.json")
	if err != nil || len(files) == 0 {
		t.Fatal("no results", err)
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var r run
		if err := json.Unmarshal(b, &r); err != nil {
			continue // figures of a benchmark have another form
		}
		r.file = "docs/results/" + filepath.Base(file)
		if r.Kind == "HardwareTest" {
			runs = append(runs, r)
		}
	}
	return runs
}

// simCards are what tcamsim plays.
const simCards = "tcamsim (a kernel module that takes tc flower with skip_sw, `hwtests/vm/tcamsim`) as the cards of a chassis"

// shown is what is said of cards as a whole, each claim with the scenarios that have to have
// passed for it, and where.
var shown = []struct {
	device, what string
	on, card     string
	scenarios    []string
	beside       string // what else there is to say
}{
	{"softnic (XDP on veth, `offload/softnic`)", "bounded match table, any masks, port ranges, priorities, drop, output, mirror, vlan_push, vlan_pop, vlan_set, per-entry counters, read-back, faults",
		"lab", "softnic", []string{"demo", "liar", "conserve", "changes"}, "`make test`, `make demo`"},
	{"lab's VFs (veth pairs)", "MAC and link set by an agent; profiles created, moved and reverted under traffic; a blade cut off for 60 s",
		"lab", "softnic", []string{"moves", "cutoff"}, "VLAN, rates, trust and spoof check are noted there, not enforced"},
	{"softnic, on a stock kernel in QEMU", "rules in card and software, drift healed, profiles moved under traffic; each packet judged as the rules say and counted once", "vm", "softnic", []string{"demo", "conserve"}, "`bladeflow hwtest run --on vm`"},
	{"softnic, on a stock kernel in QEMU", "a card that ignores one bit of its masks is found by packets", "vm", "softnic", []string{"liar"}, "the same"},
	{"softnic, on a stock kernel in QEMU", "each packet judged by the table before or after a change; profiles moved under traffic; a blade cut off for 60 s", "vm", "softnic", []string{"moves", "changes", "cutoff"}, "the same"},
	{simCards, "the same", "vm", "tcamsim", []string{"demo"}, "`bladeflow hwtest run --on vm --card tcamsim`"},
	{simCards, "a card that ignores one bit of its masks is found by packets", "vm", "tcamsim", []string{"liar"}, "the same"},
	{simCards, "each packet judged as the rules say and counted once", "vm", "tcamsim", []string{"conserve"}, "the same"},
	{simCards, "each packet judged by the table before or after a change", "vm", "tcamsim", []string{"changes"}, "the same"},
	{simCards, "profiles moved under traffic; a blade cut off for 60 s", "vm", "tcamsim", []string{"moves", "cutoff"}, "the same"},
	{"tcamsim below igb", "entries put in, read back, counted and taken out; packets of a VF answered in the card, misses in software", "vm", "", []string{"entries", "packets"}, "a full table, firmware that fails, a card that lies, ethtool receive-flow rules: `make vm`"},
	{"igb, emulated by QEMU, with tcamsim's eSwitch", "VFs created, set up by netlink (`fabric/provision`), moved, reset and removed a hundred times", "vm", "", []string{"settings", "vfs"}, "VLANs keep VFs apart; settings are back after a reload of the driver; inventory equal to lspci, ip, devlink, ethtool, rdma: `make vm`"},
	{"any real NIC", "match tables (tc flower, ethtool receive-flow rules)", "nic", "", []string{"entries", "packets"}, "the drivers have run on the stock kernel and tcamsim only"},
	{"any real NIC", "inventory of PFs, VFs, representors, RDMA devices", "nic", "", []string{"inventory"}, "written from the layout of sysfs; tested on recorded trees and on QEMU's igb"},
	{"any real NIC", "VF settings by netlink: MAC, VLAN, rates, trust, spoof check, link (`fabric/provision`)", "nic", "", []string{"settings"}, "the suite it must pass has run on an emulated igb with tcamsim's eSwitch, in memory and on the lab's veth pairs"},
}

// claimRows writes a row for each claim, with the runs that show it; without one it is
// expected.
func claimRows(t *testing.T, runs []run) string {
	var w strings.Builder
	w.WriteString("| device | what | state | evidence |\n|---|---|---|---|\n")
	for _, c := range shown {
		state, evidence := "expected", []string{c.beside}
		for i := range runs {
			r := &runs[i]
			if on, _, _ := strings.Cut(r.Spec.On, ":"); on != c.on || c.card != "" && c.card != cmp.Or(r.Spec.Card, "softnic") || !r.shows(c.scenarios) {
				continue
			}
			tier := cmp.Or(r.Status.Evidence, string(Emulated))
			if tier == string(Proven) && c.on != "nic" {
				t.Errorf("%s: proven by a run on %s", r.file, r.Spec.On)
			}
			state = tier
			evidence = append(evidence, "recorded: "+r.link())
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s |\n", c.device, c.what, state, strings.Join(evidence, "; "))
	}
	return w.String()
}

// runRows writes a row for each recorded run.
func runRows(runs []run) string {
	var w strings.Builder
	w.WriteString("| run | on | card | kernel | when | commit | scenarios that passed | evidence |\n|---|---|---|---|---|---|---|---|\n")
	for i := range runs {
		r := &runs[i]
		var passed []string
		for _, s := range r.Status.Scenarios {
			if s.Passed {
				passed = append(passed, s.Name)
			}
		}
		card := cmp.Or(r.Spec.Card, "softnic")
		if d := r.Status.NIC.Driver; d != "" && !strings.HasPrefix(card, d) {
			card += "; " + strings.TrimSpace(d+" "+r.Status.NIC.Firmware)
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s | %s | %.9s | %d of %d: %s | %s |\n", r.link(), r.Spec.On, card, r.Status.Machine.Kernel, r.Status.Started.Format(time.DateOnly),
			r.Status.Commit, len(passed), len(r.Status.Scenarios), strings.Join(passed, " "), cmp.Or(r.Status.Evidence, string(Emulated)))
	}
	return w.String()
}

// modelRows writes a row for each shipped model.
func modelRows(t *testing.T, runs []run) string {
	var w strings.Builder
	w.WriteString("| model | about | misses reach software | priority | entries | masks | distinct priorities | counters | state |\n|---|---|---|---|---|---|---|---|---|\n")
	for _, name := range List() {
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		number := func(claim string, n int) string {
			switch tier := m.Evidence[claim].Tier; {
			case n > 0:
				return fmt.Sprintf("%d (%s)", n, tier)
			case tier == Unknown:
				return "unknown"
			default:
				return fmt.Sprintf("no limit (%s)", tier)
			}
		}
		falls, counts := "yes", "none"
		if !m.MissFalls {
			falls = "no: takes nothing"
		}
		if m.Counters {
			counts = fmt.Sprintf("per entry (%s)", m.Evidence["counters"].Tier)
		}
		if m.PacketBits > 0 {
			counts = fmt.Sprintf("%d bits packets, %d bits bytes (%s)", m.PacketBits, m.ByteBits, m.Evidence["counters"].Tier)
		}
		priorities := "-"
		if m.Order == Honoured {
			priorities = number("priorities", m.Priorities)
		}
		fmt.Fprintf(&w, "| %s | %s | %s | %s (%s) | %s | %s | %s | %s | %s |\n", name, m.About, falls, m.Order, m.Evidence["order"].Tier,
			number("entries", m.Entries), number("masks", m.Masks), priorities, counts, state(t, &m, runs))
	}
	return w.String()
}

// state is the word of HARDWARE.md for a model, with the run that it rests on. A model
// that claims more than expected needs a run; invented ones are for tests only.
func state(t *testing.T, m *Model, runs []run) string {
	best := m.Evidence["actions"].Tier
	if strings.HasPrefix(m.About, "an invented") {
		return "invented, for tests"
	}
	i := slices.IndexFunc(runs, func(r run) bool {
		if r.Status.Evidence == string(Proven) {
			return r.Status.NIC.Model == m.Name && r.shows([]string{"entries", "packets"})
		}
		return best != Proven && cmp.Or(r.Spec.Card, "softnic") == m.Name && r.shows([]string{"demo", "conserve"})
	})
	switch {
	case i >= 0:
		return fmt.Sprintf("%s: %s", cmp.Or(runs[i].Status.Evidence, string(Emulated)), runs[i].link())
	case best == Emulated || best == Proven:
		t.Errorf("%s says %s, and no run in docs/results shows it", m.Name, best)
	}
	return "expected"
}
