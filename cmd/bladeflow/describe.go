package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/ruleset"
)

func describeCommand() *cobra.Command {
	var on connection
	cmd := &cobra.Command{
		Use:   "describe NOUN NAME",
		Short: "show one object with what belongs to it",
		Long: `Show one object of the fabric: all that is known of it, what belongs to it, and who changed it last.
Kinds are ` + list(nounNames(anyNoun)) + `. -o json and yaml are the object alone.`,
		Example: `  bladeflow describe blade b1
  bladeflow describe profile web`,
		Args:              needs("bladeflow describe blade b1", "NOUN", "NAME"),
		ValidArgsFunction: completeNoun(anyNoun),
	}
	output := outputFlag(cmd, "text", "json", "yaml")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		n, err := findNoun(args[0], anyNoun)
		if err != nil {
			return err
		}
		c, err := on.open()
		if err != nil {
			return err
		}
		raw, err := n.all.Get(cmd.Context(), c, args[1])
		if err != nil {
			return n.bladeless(cmd.Context(), c, args[1], err)
		}
		switch *output {
		case "json":
			return printJSON(cmd.OutOrStdout(), raw)
		case "yaml":
			return printYAML(cmd.OutOrStdout(), raw)
		}
		d := describing{cmd, c, cmd.OutOrStdout(), args[1]}
		return d.text(n, raw)
	}
	return cmd
}

// bladeless returns err, which says that there is no object of a name, with those that have the
// name on their blades, if there are any: `nic0` is one of each.
func (n *noun) bladeless(ctx context.Context, c *client.Client, name string, err error) error {
	fault, ok := errors.AsType[*flow.Fault](err)
	if !ok || !errors.Is(err, client.ErrNotFound) {
		return err
	}
	all, listing := n.all.List(ctx, c, client.Query{})
	if listing != nil {
		return err
	}
	var have []string
	for _, raw := range all.Items {
		if h, err := headOf(raw); err == nil && strings.HasSuffix(h.Metadata.Name, "/"+name) {
			have = append(have, h.Metadata.Name)
		}
	}
	if len(have) == 0 {
		return err
	}
	more := *fault
	more.Why, more.Remedy = "each blade has its own", "say which: "+list(have)
	return &more
}

// describing is one `describe`.
type describing struct {
	*cobra.Command
	client *client.Client
	out    io.Writer
	name   string
}

// text prints an object's columns one a line, then what belongs to it.
func (d *describing) text(n noun, raw json.RawMessage) error {
	row, err := n.row(raw)
	if err != nil {
		return err
	}
	h, err := headOf(raw)
	if err != nil {
		return err
	}
	var lines [][]string
	for i, head := range n.head {
		lines = append(lines, []string{strings.ToLower(head) + ":", row[i]})
	}
	for _, name := range slices.Sorted(maps.Keys(h.Metadata.Labels)) {
		lines = append(lines, []string{"label:", name + "=" + h.Metadata.Labels[name]})
	}
	if err := printTable(d.out, lines); err != nil {
		return err
	}
	if err := d.belongings(n, raw); err != nil || !n.made {
		return err
	}
	return d.changes(n)
}

// belongings prints what belongs to an object.
func (d *describing) belongings(n noun, raw json.RawMessage) error {
	blade, _, _ := strings.Cut(d.name, "/")
	below := func(name string) bool { return strings.HasPrefix(name, d.name+"/") }
	switch n.name {
	case "chassis":
		return related(d, "blades", "blade", client.Query{}, func(b *api.Blade) bool { return b.Spec.Chassis == d.name })
	case "blade":
		return d.blade(raw)
	case "nic":
		if err := d.tables(blade, below); err != nil {
			return err
		}
		return related(d, "functions", "pf", client.Query{Blade: blade}, func(p *api.PFView) bool { return below(p.Metadata.Name) })
	case "pf":
		return related(d, "functions", "vf", client.Query{Blade: blade}, func(v *api.VFView) bool { return below(v.Metadata.Name) })
	case "profile":
		return d.profile(raw)
	case "network":
		return related(d, "vNICs", "vnic", client.Query{}, func(v *api.VNICView) bool { return v.Spec.Network == d.name })
	case "ruleset":
		return d.ruleSet(raw)
	case "policy":
		return d.policy(raw)
	case "generation":
		return d.generation(raw)
	case "event":
		return d.event(raw)
	}
	return nil
}

// related prints the objects of another kind that belong to the one described.
func related[T any](d *describing, title, of string, q client.Query, belongs func(*T) bool) error {
	n, err := findNoun(of, anyNoun)
	if err != nil {
		return err
	}
	all, err := n.all.List(d.Context(), d.client, q)
	if err != nil {
		return err
	}
	var items []json.RawMessage
	for _, raw := range all.Items {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		if belongs(&v) {
			items = append(items, raw)
		}
	}
	rows, err := tableOf(n, items, false)
	if err != nil {
		return err
	}
	return d.section(title, rows)
}

// section prints a table under a title, unless it has only a head.
func (d *describing) section(title string, rows [][]string) error {
	if len(rows) < 2 {
		return nil
	}
	fmt.Fprintf(d.out, "\n%s:\n", title)
	return printTable(d.out, rows)
}

// tables prints the match tables of a blade that PFs share whose names belong.
func (d *describing) tables(blade string, belongs func(name string) bool) error {
	n, err := findNoun("blade", anyNoun)
	if err != nil {
		return err
	}
	raw, err := n.all.Get(d.Context(), d.client, blade)
	if err != nil {
		return err
	}
	var b api.Blade
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	mine := func(v *api.Device) bool {
		return slices.ContainsFunc(v.PFs, func(pf string) bool { return belongs(blade + "/" + pf) })
	}
	claims := [][]string{{"CLAIM", "VALUE", "EVIDENCE", "FROM"}}
	for i := range b.Status.Devices {
		if v := &b.Status.Devices[i]; mine(v) {
			for _, c := range v.Claims {
				claims = append(claims, []string{c.Name, c.Value, dash(c.Tier), c.Source})
			}
		}
	}
	closed := [][]string{{"PORT", "NETDEV", "SINCE", "WHY"}}
	for _, l := range b.Status.Links {
		if !l.Open && belongs(blade+"/"+l.Port) {
			closed = append(closed, []string{l.Port, l.Netdev, l.Since.Format(time.RFC3339), l.Reason})
		}
	}
	return cmp.Or(d.section("match tables", deviceRows(b.Status.Devices, mine)), d.section("ports by which no packets come to software", closed),
		d.section("what the card can do, and how that is known", claims))
}

// deviceRows says of devices how full they are, and which limits they showed themselves.
func deviceRows(devices []api.Device, of func(*api.Device) bool) [][]string {
	rows := [][]string{{"DEVICE", "MODEL", "PFS", "ENTRIES", "LIMIT", "GUARDS", "MASKS", "LIMIT", "FOREIGN"}}
	for i := range devices {
		if v := &devices[i]; of(v) {
			rows = append(rows, []string{v.Name, v.Model, strings.Join(v.PFs, ","), strconv.Itoa(v.Entries), room(v.Limit, v.Learned), strconv.Itoa(v.Guards),
				strconv.Itoa(v.Masks), room(v.MaskLimit, v.MasksLearned), strconv.Itoa(v.Foreign)})
		}
	}
	return rows
}

func (d *describing) blade(raw json.RawMessage) error {
	var b api.Blade
	if err := json.Unmarshal(raw, &b); err != nil {
		return err
	}
	rows := deviceRows(b.Status.Devices, func(*api.Device) bool { return true })
	strange := [][]string{{"DEVICE", "ENTRY", "CLASS", "KIND", "MATCH", "ACTIONS"}}
	for _, v := range b.Status.Devices {
		for _, e := range v.Strange {
			strange = append(strange, []string{v.Name, e.ID, e.Class, e.Kind, e.Match, e.Actions})
		}
	}
	links := [][]string{{"PORT", "NETDEV", "MODE", "XDP", "FAIL", "OPEN", "SINCE", "WHY NOT"}}
	for _, l := range b.Status.Links {
		links = append(links, []string{l.Port, l.Netdev, l.Mode, dash(l.XDP), dash(l.Fail), fmt.Sprint(l.Open), l.Since.Format(time.RFC3339), l.Reason})
	}
	events := [][]string{{"AT", "CODE", "OBJECT", "WHAT HAPPENED"}}
	for _, e := range b.Status.Events {
		events = append(events, []string{e.At.Format(time.RFC3339), e.Code, e.Object, e.Text})
	}
	here := client.Query{Blade: d.name}
	return cmp.Or(d.section("devices", rows), d.section("entries that are not as they should be", strange), d.section("links of the software datapath", links),
		d.section("what happened lately", events), related(d, "functions", "pf", here, func(*api.PFView) bool { return true }),
		related(d, "vNICs", "vnic", here, func(*api.VNICView) bool { return true }),
		related(d, "rules that software answers, wholly or in part", "rule", here, func(r *api.RuleView) bool { return r.Status.Place == "software" || r.Status.Place == "mixed" }),
		related(d, "rules of which the blade has not said yet where they live", "rule", here, func(r *api.RuleView) bool { return r.Status.Place == api.Unreported }))
}

func (d *describing) profile(raw json.RawMessage) error {
	var p api.Profile
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	err := related(d, "vNICs", "vnic", client.Query{}, func(v *api.VNICView) bool { return v.Status.Profile == d.name })
	if err != nil || p.Status == nil || p.Status.State != "waiting" {
		return err
	}
	all, err := d.client.Candidates(d.Context(), d.name)
	if err != nil {
		return err
	}
	return d.section("where it could be", candidateRows(all.Items))
}

// candidateRows says of every blade and PF whether a profile fits and if not, why.
func candidateRows(all []api.Candidate) [][]string {
	rows := [][]string{{"PLACE", "FITS", "FREE", "GUARANTEEABLE", "WHY NOT"}}
	for _, c := range all {
		rows = append(rows, []string{c.Blade, strconv.FormatBool(c.Fits), "-", "-", reason(c.WhyNot)})
		for _, p := range c.PFs {
			rows = append(rows, []string{c.Blade + "/" + p.Name, strconv.FormatBool(p.WhyNot == nil), strconv.Itoa(p.FreeVFs), p.Guaranteeable, reason(p.WhyNot)})
		}
	}
	return rows
}

func (d *describing) ruleSet(raw json.RawMessage) error {
	sets, ports, err := ruleSetOf(d.name, raw)
	if err != nil {
		return err
	}
	rows := [][]string{{"RULE", "PRIORITY", "MATCH", "ACTIONS"}}
	for _, s := range sets {
		for i := range s.Rules {
			r := &s.Rules[i]
			_, name, _ := strings.Cut(r.Name, "/")
			rows = append(rows, []string{name, strconv.Itoa(int(r.Priority)), dash(flow.FormatMatch(&r.Match, ports)), flow.FormatActions(r.Actions, ports)})
		}
	}
	return cmp.Or(d.section("rules", rows),
		related(d, "where they are", "rule", client.Query{}, func(r *api.RuleView) bool { return strings.HasPrefix(r.Status.Name, d.name+"/") }))
}

// ruleSetOf reads a rule set as the API has it.
func ruleSetOf(name string, raw json.RawMessage) ([]*ruleset.Set, *flow.Ports, error) {
	ports := flow.OpenPorts()
	sets, err := ruleset.Decode(ruleset.JSON, name, raw, ports)
	return sets, ports, err
}

// policy prints the sets of a blade, and its rules in the order in which they are asked.
func (d *describing) policy(raw json.RawMessage) error {
	var p api.PolicyView
	if err := json.Unmarshal(raw, &p); err != nil {
		return err
	}
	sets := [][]string{{"TIER", "SET", "RULES", "PRIORITIES", "DEFAULT", "HARDWARE", "MIXED", "SOFTWARE", "UNREPORTED", "UNLISTED", "PROFILES"}}
	for _, s := range p.Status.Sets {
		priorities := "-"
		if s.Rules > 0 {
			priorities = fmt.Sprintf("%d-%d", s.Lowest, s.Highest)
		}
		sets = append(sets, []string{s.Tier, s.Name, strconv.Itoa(s.Rules), priorities, strconv.FormatBool(s.Default), strconv.Itoa(s.Hardware), strconv.Itoa(s.Mixed), strconv.Itoa(s.Software), strconv.Itoa(s.Unreported), strconv.Itoa(s.Unlisted), dash(strings.Join(s.Profiles, ","))})
	}
	rules := [][]string{{"RULE", "TIER", "PRIORITY", "MATCH", "ACTIONS", "PLACE", "PACKETS"}}
	for _, r := range p.Status.Rules {
		rules = append(rules, []string{r.Name, r.Tier, strconv.Itoa(int(r.Priority)), dash(r.Match), r.Actions, dash(r.Place), strconv.FormatUint(r.Packets, 10)})
	}
	return cmp.Or(d.section("sets, in the order in which their tiers are asked", sets), d.section("rules, in the order in which they are asked", rules))
}

func (d *describing) generation(raw json.RawMessage) error {
	var g api.GenerationView
	if err := json.Unmarshal(raw, &g); err != nil {
		return err
	}
	rows := [][]string{{"VNIC", "PORT", "MAC", "VLAN", "GUARANTEED", "MAXIMUM", "CONNECT"}}
	for _, o := range g.Spec.VNICs {
		rows = append(rows, []string{o.Profile + "/" + o.VNIC, o.Port, o.MAC, number(o.VLAN), bitRate(o.Guaranteed), bitRate(o.Maximum), strconv.FormatBool(o.Connect)})
	}
	return d.section("vNICs", rows)
}

func (d *describing) event(raw json.RawMessage) error {
	var e api.Event
	if err := json.Unmarshal(raw, &e); err != nil {
		return err
	}
	rows := [][]string{{"HOW", "KIND", "NAME", "TENANT"}}
	for _, t := range e.Spec.Changes {
		rows = append(rows, []string{t.How, strings.ToLower(t.Kind), t.Name, t.Tenant})
	}
	return d.section("changes", rows)
}

// lately is how many of an object's changes are shown; `get events` has the others.
const lately = 5

// changes prints who changed the object last.
func (d *describing) changes(n noun) error {
	all, err := client.Events.List(d.Context(), d.client, client.Query{})
	if err != nil {
		return err
	}
	rows := [][]string{{"REVISION", "AT", "WHO", "VERB", "HOW"}}
	for _, e := range slices.Backward(all.Items) {
		for _, t := range e.Spec.Changes {
			if t.Kind == n.kind && t.Name == d.name && len(rows) <= lately {
				rows = append(rows, []string{e.Metadata.Name, at(e.Spec.At), e.Spec.Who, e.Spec.Verb, t.How})
			}
		}
	}
	return d.section("last changes", rows)
}
