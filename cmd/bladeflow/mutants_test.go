package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/offload/device"
)

// random is seeded anew in every run, and says with what.
func random(t *testing.T) *rand.Rand {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// world is a random table over a small universe of packets, and the file and the flags
// that give it to a command.
type world struct {
	*flowtest.Universe
	table rules
	file  string
	flags []string
}

func newWorld(t *testing.T, dir string, u *flowtest.Universe, rng *rand.Rand, n int) *world {
	t.Helper()
	drawn := u.Rules(rng, n, []flow.Port{1, 2, 3})
	for i := range drawn {
		drawn[i].Name = strings.TrimPrefix(drawn[i].Name, u.Name+"/")
	}
	w := &world{Universe: u, file: filepath.Join(dir, "w.flows"), flags: []string{"--uplink", "#1"}}
	sw := flowtest.NewTable(nil, nil).Switch()
	for _, s := range sw.Stations() {
		w.flags = append(w.flags, "--station", fmt.Sprintf("#%d=%s@%d", s.Port, flow.FormatMAC(s.MAC), s.VLAN))
	}
	w.write(t, sw, drawn, flow.Actions{{Op: []flow.Op{flow.Drop, flow.Normal, flow.Pass}[rng.IntN(3)]}})
	return w
}

// generatedWorld is a generated set, and the packets of a trace of it.
func generatedWorld(t *testing.T, dir, family string, count int, seed uint64) *world {
	t.Helper()
	drawn := flowtest.Generate(sure(flowtest.ParseFamily(family)), count, seed)
	w := &world{file: filepath.Join(dir, "w.flows"), Universe: &flowtest.Universe{Keys: flowtest.Trace(drawn, flowtest.Traffic{Packets: 2000, Seed: seed})}}
	for i := range drawn {
		drawn[i].Name = fmt.Sprintf("r%d", i)
	}
	w.write(t, nil, drawn, flow.Actions{{Op: flow.Drop}})
	return w
}

// write makes the table and the file of rules, whose names come without the set's.
func (w *world) write(t *testing.T, sw *flow.Switch, drawn []flow.Rule, byDefault flow.Actions) {
	t.Helper()
	set, err := ruleset.New("w", flow.TierTenant, byDefault, drawn)
	if err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	if err := ruleset.Encode(&text, ruleset.Flows, []*ruleset.Set{set}, nil); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(w.file), filepath.Base(w.file), text.String())
	table, err := ruleset.Build(1, sw, flow.OpenPorts(), set)
	if err != nil {
		t.Fatal(err)
	}
	w.table = rules{table, true}
}

// args is a command line about the world.
func (w *world) args(command string, more ...string) []string {
	return append(append([]string{command, "--rules", w.file, "--from", "flows"}, w.flags...), more...)
}

// mutate changes one entry in one way, or returns nil if that way is not open.
func mutate(rng *rand.Rand, t rules, entries []flow.Entry) (mutant []flow.Entry, how string) {
	mutant = slices.Clone(entries)
	at := rng.IntN(len(mutant))
	e := &mutant[at]
	switch how = []string{"drop", "action", "mask", "value", "priority", "rule", "wake"}[rng.IntN(7)]; how {
	case "drop":
		if !e.Punt() {
			return nil, how
		}
		return slices.Delete(mutant, at, at+1), how
	case "action":
		if e.Punt() {
			return nil, how
		}
		e.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{flow.Port(1 + rng.IntN(3))}}}
	case "mask", "value":
		word, bit := rng.IntN(flow.Words), uint64(1)<<rng.IntN(64)
		for try := 0; e.Match.Mask[word]&bit == 0; try++ {
			if try == 2000 {
				return nil, how
			}
			word, bit = rng.IntN(flow.Words), uint64(1)<<rng.IntN(64)
		}
		if how == "value" {
			e.Match.Value[word] ^= bit
		} else {
			e.Match.Mask[word] &^= bit
			e.Match.Value[word] &^= bit
		}
	case "priority":
		e.Priority = mutant[rng.IntN(len(mutant))].Priority + uint64(rng.IntN(3)) - 1
	case "rule":
		e.Rule = t.Rule(rng.IntN(t.Len() + 1)).ID
	case "wake":
		if !e.Punt() {
			return nil, how
		}
		e.Kind, e.Actions = flow.RuleEntry, flow.Actions{{Op: flow.Drop}}
	}
	if e.Match.Valid() != nil {
		return nil, how
	}
	return mutant, how
}

// takes says whether the model says what an entry of the match matches. Of any other
// nobody knows: it guards nothing, and has no packet that shows it wrong.
func takes(m device.Model, match *flow.Match) bool {
	m.MissFalls, m.Punt = true, true
	return m.Admit(match, nil, flow.GuardEntry) == nil
}

// wrongly says whether a device that holds entries can answer a packet other than by
// the table. It is the definition: no index, no classifier.
func wrongly(t rules, entries []flow.Entry, m device.Model, k flow.Key, frame []byte) bool {
	for i := range m.Missed {
		if m.Missed[i].Matches(&k) {
			return false
		}
	}
	highest, matching := uint64(0), []flow.Entry(nil)
	for _, e := range entries {
		if e.Match.Matches(&k) && takes(m, &e.Match) {
			highest, matching = max(highest, e.Priority), append(matching, e)
		}
	}
	in := flow.Port(k.Get(flow.InPort))
	want := flow.Judge(t.Table, frame, in)
	for _, e := range matching {
		if m.Order == device.Honoured && e.Priority < highest || e.Punt() {
			continue
		}
		if !flow.SameEmissions(flow.Act(e.Actions, t.Switch(), e.Rule, frame, in), want) {
			return true
		}
	}
	return false
}

// TestMutants plans random tables for every shipped device and changes one entry of
// each plan. Whatever changes the verdict on some packet verify refuses, with a packet
// whose emissions differ; and what it refuses otherwise is booked to the wrong rule.
func TestMutants(t *testing.T) {
	dir, rng := t.TempDir(), random(t)
	least := 250
	if testing.Short() {
		least = 60
	}
	caught := map[string]int{}
	total, tried := 0, 0
	for total < least {
		u := flowtest.Universes()[rng.IntN(len(flowtest.Universes()))]
		w := newWorld(t, dir, u, rng, 4+rng.IntN(16))
		name := device.List()[rng.IntN(len(device.List()))]
		m, err := device.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		plan := good(t, w.args("plan", "--device", name, "-o", "json")...)
		entries, err := readEntries("plan", []byte(plan), w.table)
		if err != nil {
			t.Fatal(err)
		}
		if len(entries) == 0 {
			continue
		}
		for range 6 {
			mutant, how := mutate(rng, w.table, entries)
			if mutant == nil {
				continue
			}
			tried++
			if w.judgeMutant(t, dir, name, m, mutant, how) {
				caught[how]++
				total++
			}
		}
	}
	t.Logf("%d of %d mutants change a verdict, and are caught: %v", total, tried, caught)
}

// TestMutantSets does the same with plans of generated sets, and looks for packets
// that tell in traces of them.
func TestMutantSets(t *testing.T) {
	rng := random(t)
	eachSet(t, func(t *testing.T, family string, count int) {
		dir := t.TempDir()
		w := generatedWorld(t, dir, family, count, rng.Uint64())
		m := sure(device.Load("softnic"))
		entries := sure(readEntries("plan", []byte(good(t, w.args("plan", "--device", "softnic", "-o", "json")...)), w.table))
		tries, changed := 12, 0
		if count > 1000 {
			tries = 4
		}
		for i := 0; i < tries; {
			if mutant, how := mutate(rng, w.table, entries); mutant != nil {
				i++
				if w.judgeMutant(t, dir, "softnic", m, mutant, how) {
					changed++
				}
			}
		}
		t.Logf("%d of %d mutants change a verdict, and are caught", changed, tries)
	})
}

// judgeMutant reports whether the mutant changes the verdict on a packet, and checks
// that verify says so.
func (w *world) judgeMutant(t *testing.T, dir, name string, m device.Model, mutant []flow.Entry, how string) bool {
	t.Helper()
	var docs []entryDoc
	for i := range mutant {
		docs = append(docs, w.table.entryDoc(&mutant[i]))
	}
	file := write(t, dir, "mutant.json", string(sure(json.Marshal(docs))))
	stdout, stderr, code := call(w.args("verify", "--device", name, "--entries", file, "-o", "json")...)
	var doc proofDoc
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatalf("%s: %v: %s %s", how, err, stdout, stderr)
	}
	changes := false
	for _, k := range w.Keys {
		if frame, err := flow.Frame(k, nil); err == nil && wrongly(w.table, mutant, m, k, frame) {
			changes = true
			break
		}
	}
	if doc.Proved != (code == 0) || changes && code != 1 {
		t.Errorf("%s: exit code %d, changes a verdict: %t\n%s\n%+v", how, code, changes, stdout, docs)
	}
	if code == 0 {
		return false
	}
	if doc.Frame == "" { // what an entry does or matches is not known: there is no packet to show
		if !slices.ContainsFunc(mutant, func(e flow.Entry) bool { return !e.Punt() && !takes(m, &e.Match) }) {
			t.Errorf("%s: refused without a packet, and the device takes every match: %s", how, stdout)
		}
		return false
	}
	frame, in := doc.packet(t, w.table)
	k, err := flow.Parse(frame, in)
	if err != nil {
		t.Fatal(err)
	}
	differs := !slices.Equal(copies(doc.Want), copies(doc.Got))
	switch {
	case changes && !differs:
		t.Errorf("%s: a verdict changes, and the packet shows none that does: %s", how, stdout)
	case differs && !wrongly(w.table, mutant, m, k, frame):
		t.Errorf("%s: the packet does not differ: %s", how, stdout)
	case w.table.name(w.table.Lookup(&k)) != doc.Rule:
		t.Errorf("%s: rule %s does not win the packet: %s", how, doc.Rule, stdout)
	}
	return differs
}

// copies lists what leaves where, whichever rule sent it.
func copies(all []emissionDoc) []string {
	var out []string
	for _, e := range all {
		out = append(out, e.Port+" "+e.Bytes)
	}
	slices.Sort(out)
	return out
}

// packet returns what verify shows, read from the text.
func (d *proofDoc) packet(t *testing.T, table rules) ([]byte, flow.Port) {
	t.Helper()
	k, err := flow.ParseKey(d.Packet, table.Ports())
	if err != nil {
		t.Fatal(err)
	}
	frame, _, err := flow.ParsePacket("hex:"+d.Frame, table.Ports())
	if err != nil {
		t.Fatal(err)
	}
	return frame, flow.Port(k.Get(flow.InPort))
}
