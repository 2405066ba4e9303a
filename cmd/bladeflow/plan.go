package main

import (
	"cmp"
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
that answer most packets of a trace, and to pieces around them, and the hit rate is printed. The plan is checked before it is printed.`,
		Example: `  bladeflow plan --rules web.yaml --device softnic -o json >plan.json
  bladeflow plan --rules acl.rules --from classbench --device flat1k --heat acl.trace`,
	}
	in.flags(cmd)
	deviceFlag(cmd, &dev)
	_ = cmd.MarkFlagRequired("device")
	cmd.Flags().StringVar(&heat, "heat", "", "trace that says which rules are hot, - for standard input")
	output := outputFlag(cmd, "table", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m, err := device.Load(dev)
		if err != nil {
			return err
		}
		m = device.Planned(m)
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
		doc, err := planOf(cmd, t, m, p, heat != "")
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

// deviceFlag adds --device, which takes a shipped model or a file.
func deviceFlag(cmd *cobra.Command, dev *string) {
	cmd.Flags().StringVar(dev, "device", "", "device model: "+list(append(device.List(), "a file (with a dot or slash in its name)")))
	_ = cmd.RegisterFlagCompletionFunc("device", cobra.FixedCompletions(device.List(), cobra.ShellCompDirectiveDefault))
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

func planOf(cmd *cobra.Command, t rules, m device.Model, p packets, heated bool) (*planDoc, error) {
	winners := make([]int32, len(p.keys))
	var traffic offload.Traffic
	if heated {
		doing(cmd, "looking up %d packets", len(p.keys))
		matcher.Compile(t.Table).Lookup(&matcher.Batch{Keys: p.keys, Rules: winners})
		traffic = trafficOf(t, p.keys, winners)
	}
	doing(cmd, "planning %d rules for %s", t.Len(), m.Name)
	plan := new(offload.Planner).Plan(t.Table, t.Table, nil, m, traffic)
	doing(cmd, "proving %d entries", len(plan.Entries))
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
		doing(cmd, "asking the device for %d packets", len(p.keys))
		f, err := fill(m, plan.Entries)
		if err != nil {
			return nil, err
		}
		doc.rates(t, f, p.keys, winners)
	}
	return doc, nil
}

// trafficOf counts packets by rule and by key.
func trafficOf(t rules, keys []flow.Key, winners []int32) offload.Traffic {
	traffic, at := offload.Traffic{Rules: offload.Heat{}}, map[flow.Key]int{}
	for i, w := range winners {
		rule := t.Rule(int(w)).ID
		traffic.Rules[rule]++
		n, seen := at[keys[i]]
		if !seen {
			n = len(traffic.Flows)
			at[keys[i]] = n
			traffic.Flows = append(traffic.Flows, offload.Flow{Key: keys[i], Rule: rule})
		}
		traffic.Flows[n].Packets++
	}
	return traffic
}

// rates sets the share of packets that the device would answer, and the share that
// the best rules filling it would answer if no rule depended on another.
func (d *planDoc) rates(t rules, f *filled, keys []flow.Key, winners []int32) {
	weights := make([]int, t.Len()+1)
	hits := 0
	for i := range keys {
		weights[winners[i]]++
		if e := f.answers(&keys[i]); e != nil && !e.Punt() {
			hits++
		}
	}
	slices.SortFunc(weights, func(a, b int) int { return cmp.Compare(b, a) })
	best := 0
	for i, w := range weights {
		if f.model.Entries == 0 || i < f.model.Entries {
			best += w
		}
	}
	rate, bound := float64(hits)/float64(max(1, len(keys))), float64(best)/float64(max(1, len(keys)))
	d.HitRate, d.HitRateBound = &rate, &bound
}

// filled is a device of a model that holds a plan's entries.
type filled struct {
	model   device.Model
	entries []flow.Entry
	search  *matcher.Classifier // of a table with a rule for each entry, in their order
}

// fill puts entries, from the highest priority down, into a device.
func fill(m device.Model, entries []flow.Entry) (*filled, error) {
	spec := flow.TableSpec{}
	for i, e := range entries {
		spec.Rules = append(spec.Rules, flow.Rule{ID: flow.RuleID(e.ID), Priority: int32(len(entries) - i), Match: e.Match, Actions: flow.Actions{{Op: flow.Drop}}})
	}
	t, err := flow.NewTable(spec)
	if err != nil {
		return nil, err
	}
	return &filled{m, entries, matcher.Compile(t)}, nil
}

// answers returns the entry that the device lets answer a packet, or nil.
func (f *filled) answers(k *flow.Key) *flow.Entry {
	if slices.ContainsFunc(f.model.Missed, func(m flow.Match) bool { return m.Matches(k) }) {
		return nil
	}
	i, ok := f.search.Table().Index(f.search.LookupOne(k).ID)
	if !ok || i == len(f.entries) {
		return nil
	}
	return &f.entries[i]
}

func (d *planDoc) print(cmd *cobra.Command, t rules) error {
	w := cmd.OutOrStdout()
	rows := [][]string{{"KIND", "RULE", "PRIORITY", "MATCH", "ACTION"}}
	for _, e := range d.Entries {
		rows = append(rows, []string{e.Kind, e.Rule, strconv.FormatUint(e.Priority, 10), e.Match, e.Action})
	}
	if err := printTable(w, rows); err != nil {
		return err
	}
	if len(d.Refused) > 0 {
		fmt.Fprintln(w)
		rows = [][]string{{"IN SOFTWARE", "CODE", "WHY"}}
		for _, r := range d.Refused {
			name := r.Rule
			if r.Partly {
				name += " (partly)"
			}
			rows = append(rows, []string{name, r.Code, r.Reason})
		}
		if err := printTable(w, rows); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\n%d of %s entries used (%s, %s) for %s\n", d.Used.Entries, limit(d.Used.Limit), count(d.Used.Guards, "guard"), count(d.Used.Pieces, "piece"), count(t.Len(), "rule"))
	if d.HitRate != nil {
		fmt.Fprintf(w, "hit rate %.3f, at most %.3f with so many entries\n", *d.HitRate, *d.HitRateBound)
	}
	return nil
}
