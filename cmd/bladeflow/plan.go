package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/verify"
)

func planCommand() *cobra.Command {
	var in rulesInput
	var dev, heat string
	cmd := &cobra.Command{
		Use:   "plan --rules F --device NAME|FILE",
		Short: "show which entries a device would get, and why not for the rest",
		Long: `Plan which rules of a table go into the match table of a device. Nothing is touched: the device is a
model (see "bladeflow devices list", or a file of your own). With --heat the room goes to the rules
that answer most packets of a trace, and the hit rate is printed. The plan is checked before it is printed.`,
		Example: `  bladeflow plan --rules web.yaml --device softnic -o json >plan.json
  bladeflow plan --rules acl.rules --from classbench --device flat1k --heat acl.trace`,
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&dev, "device", "", "device model: a shipped one or a file")
	cmd.Flags().StringVar(&heat, "heat", "", "trace that says which rules are hot")
	_ = cmd.MarkFlagRequired("device")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, err := device.Load(dev)
		if err != nil {
			return err
		}
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		var p packets
		if heat != "" {
			if p, err = readPackets(cmd, heat, ports); err != nil {
				return err
			}
		}
		doc, err := planOf(t, m, p, heat != "")
		if err != nil {
			return err
		}
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), doc)
		}
		return doc.print(cmd, t)
	}
	return cmd
}

// planDoc is the JSON form of a plan. Entries are what `verify` reads.
type planDoc struct {
	Device       string       `json:"device"`
	Entries      []entryDoc   `json:"entries"`
	Refused      []refusedDoc `json:"refused"`
	Used         usedDoc      `json:"used"`
	HitRate      *float64     `json:"hit_rate"`
	HitRateBound *float64     `json:"hit_rate_bound"`
}

type entryDoc struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Rule     string `json:"rule"`
	Priority uint64 `json:"priority"`
	Match    string `json:"match"`
	Action   string `json:"action"`
}

type refusedDoc struct {
	Rule   string `json:"rule"`
	Code   string `json:"code"`
	Reason string `json:"reason"`
	Fix    string `json:"fix,omitempty"`
	Partly bool   `json:"partly,omitempty"` // some of the rule's packets are answered in hardware
}

type usedDoc struct {
	Entries    int `json:"entries"`
	Guards     int `json:"guards"`
	Pieces     int `json:"pieces"`
	Masks      int `json:"masks"`
	Priorities int `json:"priorities"`
	Limit      int `json:"limit,omitempty"`
}

func planOf(t rules, m device.Model, p packets, heated bool) (*planDoc, error) {
	winners := make([]int32, len(p.keys))
	var heat offload.Heat
	if heated {
		matcher.Compile(t.Table).Lookup(&matcher.Batch{Keys: p.keys, Rules: winners})
		heat = offload.Heat{}
		for _, w := range winners {
			heat[t.Rule(int(w)).ID]++
		}
	}
	plan := offload.NewPlan(t.Table, t.Table, nil, m, heat)
	if err := verify.Check(t.Table, plan.Entries, m); err != nil {
		return nil, fmt.Errorf("the plan does not hold: %w", err)
	}
	u := plan.Used
	doc := &planDoc{Device: m.Name, Entries: []entryDoc{}, Refused: []refusedDoc{},
		Used: usedDoc{u.Entries, u.Guards, u.Pieces, u.Masks, u.Priorities, m.Entries}}
	for _, e := range plan.Entries {
		doc.Entries = append(doc.Entries, t.entryDoc(&e))
	}
	for i := range plan.Placements {
		if pl := &plan.Placements[i]; !pl.Whole() {
			doc.Refused = append(doc.Refused, refusedDoc{t.nameOf(pl.Rule), pl.Code, pl.Reason, pl.Fix, len(pl.Entries) > 0})
		}
	}
	if heated {
		doc.rates(t, plan.Entries, m, p.keys, winners)
	}
	return doc, nil
}

func (r rules) entryDoc(e *flow.Entry) entryDoc {
	action := "punt"
	if !e.Punt() {
		action = flow.FormatActions(e.Actions, r.Ports())
	}
	return entryDoc{fmt.Sprintf("%016x", uint64(e.ID)), e.Kind.String(), r.nameOf(e.Rule), e.Priority,
		flow.FormatMatch(&e.Match, r.Ports()), action}
}

// rates sets the share of packets that the device would answer, and the share that
// the best rules filling it would answer if no rule depended on another.
func (d *planDoc) rates(t rules, entries []flow.Entry, m device.Model, keys []flow.Key, winners []int32) {
	weights := make([]int, t.Len()+1)
	hits := 0
	for i := range keys {
		weights[winners[i]]++
		if e := answers(entries, m, &keys[i]); e != nil && !e.Punt() {
			hits++
		}
	}
	slices.SortFunc(weights, func(a, b int) int { return cmp.Compare(b, a) })
	best := 0
	for i, w := range weights {
		if m.Entries == 0 || i < m.Entries {
			best += w
		}
	}
	rate, bound := float64(hits)/float64(max(1, len(keys))), float64(best)/float64(max(1, len(keys)))
	d.HitRate, d.HitRateBound = &rate, &bound
}

// answers returns the entry, of entries sorted by priority, that a device lets answer.
func answers(entries []flow.Entry, m device.Model, k *flow.Key) *flow.Entry {
	for i := range m.Missed {
		if m.Missed[i].Matches(k) {
			return nil
		}
	}
	for i := range entries {
		if entries[i].Match.Matches(k) {
			return &entries[i]
		}
	}
	return nil
}

func (d *planDoc) print(cmd *cobra.Command, t rules) error {
	rows := [][]string{{"KIND", "RULE", "PRIORITY", "MATCH", "ACTION"}}
	for _, e := range d.Entries {
		rows = append(rows, []string{e.Kind, e.Rule, strconv.FormatUint(e.Priority, 10), e.Match, e.Action})
	}
	if err := printTable(cmd.OutOrStdout(), rows); err != nil {
		return err
	}
	if len(d.Refused) > 0 {
		fmt.Fprintln(cmd.OutOrStdout())
		rows = [][]string{{"IN SOFTWARE", "CODE", "WHY"}}
		for _, r := range d.Refused {
			name := r.Rule
			if r.Partly {
				name += " (partly)"
			}
			rows = append(rows, []string{name, r.Code, r.Reason})
		}
		if err := printTable(cmd.OutOrStdout(), rows); err != nil {
			return err
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "\n%d of %s entries used (%d guards, %d pieces) for %d rules\n", d.Used.Entries, unlimited(d.Used.Limit), d.Used.Guards, d.Used.Pieces, t.Len())
	if d.HitRate != nil {
		fmt.Fprintf(cmd.OutOrStdout(), "hit rate %.3f, at most %.3f with so many entries\n", *d.HitRate, *d.HitRateBound)
	}
	return nil
}

func verifyCommand() *cobra.Command {
	var in rulesInput
	var dev, entries string
	cmd := &cobra.Command{
		Use:   "verify --rules F --device NAME|FILE --entries F",
		Short: "prove that entries in a device say what the rules say, or show a packet",
		Long: `Prove that a device that holds the entries answers every packet as the rules do, or not at all. The
entries are the output of "bladeflow plan -o json", or its list "entries". Exit code 1 and a packet if not.`,
		Example: "  bladeflow verify --rules web.yaml --device softnic --entries plan.json",
	}
	in.flags(cmd)
	cmd.Flags().StringVar(&dev, "device", "", "device model: a shipped one or a file")
	cmd.Flags().StringVar(&entries, "entries", "", "file of entries, - for standard input")
	_ = cmd.MarkFlagRequired("device")
	_ = cmd.MarkFlagRequired("entries")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, err := device.Load(dev)
		if err != nil {
			return err
		}
		ports := flow.OpenPorts()
		t, err := in.table(cmd, ports)
		if err != nil {
			return err
		}
		b, err := readFile(cmd, entries)
		if err != nil {
			return err
		}
		installed, err := readEntries(entries, b, t)
		if err != nil {
			return err
		}
		proof, err := verify.Prove(t.Table, installed, m)
		return t.sayProof(cmd, *output, proof, err)
	}
	return cmd
}

// proofDoc is the JSON form of what verify found.
type proofDoc struct {
	Proved  bool          `json:"proved"`
	Entries int           `json:"entries"`
	Rules   int           `json:"rules"`
	Packet  string        `json:"packet,omitempty"`
	Frame   string        `json:"frame,omitempty"`
	Want    []emissionDoc `json:"want,omitempty"`
	Got     []emissionDoc `json:"got,omitempty"`
	Rule    string        `json:"rule,omitempty"`
	Entry   *entryDoc     `json:"entry,omitempty"`
	Reason  string        `json:"reason,omitempty"`
}

type emissionDoc struct {
	Port  string `json:"port"`
	Bytes string `json:"bytes"`
	Rule  string `json:"rule"`
}

func (r rules) sayProof(cmd *cobra.Command, output string, proof verify.Proof, err error) error {
	doc := proofDoc{Proved: err == nil, Entries: proof.Entries, Rules: proof.Rules}
	var wrong *verify.Mismatch
	var open *verify.Unprovable
	switch {
	case errors.As(err, &wrong):
		e := r.entryDoc(&wrong.Entry)
		doc.Packet, doc.Frame = flow.FormatKey(wrong.Key, r.Ports()), fmt.Sprintf("%x", wrong.Frame)
		doc.Want, doc.Got = r.emissions(wrong.Want), r.emissions(wrong.Got)
		doc.Rule, doc.Entry, doc.Reason = r.nameOf(wrong.Rule.ID), &e, wrong.Reason
	case errors.As(err, &open):
		e := r.entryDoc(&open.Entry)
		doc.Entry, doc.Reason = &e, open.Reason
	case err != nil:
		return err
	}
	if output == "json" {
		if e := printJSON(cmd.OutOrStdout(), doc); e != nil {
			return e
		}
	} else {
		doc.print(cmd)
	}
	if err != nil {
		return errSaid
	}
	return nil
}

func (r rules) emissions(all []flow.Emission) []emissionDoc {
	out := []emissionDoc{}
	for _, e := range all {
		port := r.Ports().Name(e.Port)
		if e.Kernel {
			port = "kernel:" + port
		}
		out = append(out, emissionDoc{port, fmt.Sprintf("%x", e.Bytes), r.nameOf(e.Rule)})
	}
	return out
}

func (d *proofDoc) print(cmd *cobra.Command) {
	w := cmd.OutOrStdout()
	if d.Proved {
		fmt.Fprintf(w, "proved: %d entries say what %d rules say\n", d.Entries, d.Rules)
		return
	}
	fmt.Fprintf(w, "not proved: %s\n", d.Reason)
	fmt.Fprintf(w, "  entry   %s %s for rule %s: %s actions=%s\n", d.Entry.Kind, d.Entry.ID, d.Entry.Rule, d.Entry.Match, d.Entry.Action)
	if d.Packet == "" {
		return
	}
	fmt.Fprintf(w, "  packet  %s\n  frame   %s\n  rule    %s\n", d.Packet, d.Frame, d.Rule)
	for _, side := range []struct {
		name string
		out  []emissionDoc
	}{{"rules ", d.Want}, {"device", d.Got}} {
		if len(side.out) == 0 {
			fmt.Fprintf(w, "  %s: nothing leaves\n", side.name)
		}
		for _, e := range side.out {
			fmt.Fprintf(w, "  %s: %s %s\n", side.name, e.Port, e.Bytes)
		}
	}
}
