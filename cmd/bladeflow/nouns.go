package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

// noun is a kind of object as the command line speaks of it.
type noun struct {
	name  string // in the singular
	short string // another word for it, or ""
	all   client.Collection[json.RawMessage]
	kind  string   // of its documents
	made  bool     // users write it
	head  []string // of a table
	wide  int      // so many columns are in a narrow table
	row   func(json.RawMessage) ([]string, error)
	blank func() any // a pointer to an object of it, to decode into
}

// newNoun makes a noun of how its objects show in a table. The columns after | are
// those of -o wide.
func newNoun[T any](name, short, kind string, all client.Collection[T], made bool, head string, row func(*T) []string) noun {
	narrow, wide, _ := strings.Cut(head, "|")
	columns := strings.Fields(narrow)
	return noun{name: name, short: short, kind: kind, made: made, all: client.Collection[json.RawMessage](all),
		head: append(columns, strings.Fields(wide)...), wide: len(columns), blank: func() any { return new(T) },
		row: func(raw json.RawMessage) ([]string, error) {
			var v T
			if err := json.Unmarshal(raw, &v); err != nil {
				return nil, err
			}
			return row(&v), nil
		}}
}

// nouns are the kinds that the API serves, in the order of the help.
var nouns = []noun{
	newNoun("chassis", "", api.KindChassis, client.Chassis, true, "NAME SLOTS BLADES | REVISION", func(c *api.Chassis) []string {
		return []string{c.Metadata.Name, strconv.Itoa(c.Spec.Slots), strings.Join(c.Status.Blades, ","), revision(c.Head)}
	}),
	newNoun("blade", "", api.KindBlade, client.Blades, true, "NAME CHASSIS SLOT STATE GENERATION PROVED VFS USED | WANTED DIGEST HARDWARE MIXED SOFTWARE ENTRIES LIMIT DATAPATH REASON", bladeRow),
	newNoun("nic", "", api.KindNIC, client.NICs, false, "NAME VENDOR DEVICE PFS | SLOT SERIAL PART", func(n *api.NICView) []string {
		return []string{n.Metadata.Name, n.Status.Vendor, n.Status.Device, strconv.Itoa(len(n.Status.PFs)), n.Status.Slot, dash(n.Status.Serial), dash(n.Status.Part)}
	}),
	newNoun("pf", "", api.KindPF, client.PFs, false, "NAME LINK SPEED VFS USED FREE | PCI ESWITCH NETDEV DRIVER FIRMWARE TOTAL", pfRow),
	newNoun("vf", "", api.KindVF, client.VFs, false, "NAME VNIC MAC VLAN LINK | PCI REPRESENTOR DRIVER GUARANTEED MAXIMUM TRUST SPOOF FOREIGN", vfRow),
	newNoun("vnic", "", api.KindVNIC, client.VNICs, false, "NAME MAC NETWORK BLADE PORT LINK | GUARANTEED MAXIMUM TRUST SPOOF RDMA", vnicRow),
	newNoun("profile", "", api.KindProfile, client.Profiles, true, "NAME STATE BLADE VNICS RULESETS | POLICY REVISION REASON", profileRow),
	newNoun("network", "net", api.KindNetwork, client.Networks, true, "NAME VLAN | TENANT REVISION", func(n *api.Network) []string {
		return []string{n.Metadata.Name, strconv.Itoa(int(n.Spec.VLAN)), dash(n.Metadata.Tenant), revision(n.Head)}
	}),
	newNoun("ruleset", "set", api.KindRuleSet, client.RuleSets, true, "NAME TIER RULES DEFAULT | TENANT UID REVISION", func(r *api.RuleSet) []string {
		return []string{r.Metadata.Name, r.Spec.Tier, strconv.Itoa(len(r.Spec.Rules)), dash(r.Spec.Default), dash(r.Metadata.Tenant), cmp.Or(r.Metadata.UID, r.Metadata.Name), revision(r.Head)}
	}),
	newNoun("rule", "", api.KindRule, client.Rules, false, "NAME PLACE ENTRIES PACKETS BYTES CODE | HARDWARE CACHE SOFTWARE ID REASON FIX", ruleRow),
	newNoun("policy", "", api.KindPolicy, client.Policies, false, "NAME STATE SETS RULES DEFAULT HARDWARE MIXED SOFTWARE UNREPORTED UNLISTED | DIGEST REASON", policyRow),
	newNoun("generation", "gen", api.KindGeneration, client.Generations, false, "NAME NUMBER RUNNING PROVED RULES VNICS | REVISION MADE DIGEST DEFAULT UPLINK", generationRow),
	newNoun("snapshot", "", api.KindSnapshot, client.Snapshots, true, "NAME REVISION MADE NOTE", func(s *api.Snapshot) []string {
		return []string{s.Metadata.Name, strconv.FormatInt(s.Spec.Revision, 10), at(s.Spec.Made), dash(s.Spec.Note)}
	}),
	newNoun("event", "", api.KindEvent, client.Events, false, "NAME AT WHO VERB CHANGES | ROLE FROM", eventRow),
}

func bladeRow(b *api.Blade) []string {
	s := b.Status
	entries, limit, learned := 0, 0, false
	for _, d := range s.Devices {
		entries, limit, learned = entries+d.Entries, limit+d.Limit, learned || d.Learned
	}
	rules := cmp.Or(s.Rules, &api.RuleTile{})
	return []string{b.Metadata.Name, dash(b.Spec.Chassis), number(b.Spec.Slot), s.State, number(s.Running), strconv.FormatBool(s.Proved), strconv.Itoa(s.VFs), strconv.Itoa(s.Used),
		number(s.Wanted), short(s.Digest), strconv.Itoa(rules.Hardware), strconv.Itoa(rules.Mixed), strconv.Itoa(rules.Software),
		strconv.Itoa(entries), room(limit, learned), datapath(s.Links), reason(cmp.Or(s.Reason, s.Error, closedLink(s.Links)))}
}

// closedLink says of the first port by which no frames come and go why that is so; nil if there
// is none.
func closedLink(links []api.Link) *api.Error {
	for _, l := range links {
		if !l.Open {
			return &api.Error{Code: "E_NETDEV", What: "port " + l.Port, Why: fmt.Sprintf("netdev %s: %s", l.Netdev, l.Reason)}
		}
	}
	return nil
}

// datapath says how software gets frames: where its XDP programs are, or afpacket. A blade
// whose ports differ has more than one word.
func datapath(links []api.Link) string {
	var words []string
	for _, l := range links {
		if w := cmp.Or(l.XDP, l.Mode); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	return dash(strings.Join(words, ","))
}

func pfRow(p *api.PFView) []string {
	s := p.Status
	dev := cmp.Or(s.Netdev, &api.Netdev{})
	return []string{p.Metadata.Name, dash(dev.Link), bitRate(dev.BitsPerSecond), strconv.Itoa(s.NumVFs), strconv.Itoa(s.Used), strconv.Itoa(s.Free),
		s.PCI, dash(s.ESwitch), dash(dev.Name), dash(s.Driver), dash(s.Firmware), strconv.Itoa(s.TotalVFs)}
}

func vfRow(v *api.VFView) []string {
	s := v.Status
	set := cmp.Or(s.State, &api.VFState{})
	link := "-"
	if s.State != nil {
		link = onOff(set.Link)
	}
	rep := cmp.Or(s.Representor, &api.Netdev{})
	return []string{v.Metadata.Name, dash(s.VNIC), dash(set.MAC), number(set.VLAN), link,
		s.PCI, dash(rep.Name), dash(s.Driver), bitRate(set.Guaranteed), bitRate(set.Maximum), strconv.FormatBool(set.Trust), strconv.FormatBool(set.Spoof), strconv.FormatBool(s.Foreign)}
}

func vnicRow(v *api.VNICView) []string {
	qos := cmp.Or(v.Spec.QoS, &api.QoS{})
	return []string{v.Metadata.Name, v.Spec.MAC, v.Spec.Network, dash(v.Status.Blade), dash(v.Status.Port), onOff(v.Status.Link),
		dash(qos.Guaranteed), dash(qos.Maximum), strconv.FormatBool(v.Spec.Trust), strconv.FormatBool(v.Spec.Spoof), strconv.FormatBool(v.Spec.RDMA)}
}

func profileRow(p *api.Profile) []string {
	s := cmp.Or(p.Status, &api.ProfileStatus{})
	return []string{p.Metadata.Name, s.State, dash(s.Blade), strconv.Itoa(len(p.Spec.VNICs)), dash(strings.Join(p.Spec.RuleSets, ",")),
		dash(p.Spec.Policy), revision(p.Head), reason(s.Reason)}
}

func ruleRow(r *api.RuleView) []string {
	s := r.Status
	return []string{r.Metadata.Name, s.Place, strconv.Itoa(s.Entries), strconv.FormatUint(s.Hardware.Packets+s.Cache.Packets+s.Software.Packets, 10), strconv.FormatUint(s.Hardware.Bytes+s.Cache.Bytes+s.Software.Bytes, 10), dash(s.Code),
		strconv.FormatUint(s.Hardware.Packets, 10), strconv.FormatUint(s.Cache.Packets, 10), strconv.FormatUint(s.Software.Packets, 10), s.ID, dash(s.Reason), dash(s.Fix)}
}

func policyRow(p *api.PolicyView) []string {
	s := p.Status
	var at api.RuleTile
	unreported, unlisted := 0, 0
	for _, set := range s.Sets {
		at.Hardware, at.Mixed, at.Software = at.Hardware+set.Hardware, at.Mixed+set.Mixed, at.Software+set.Software
		unreported, unlisted = unreported+set.Unreported, unlisted+set.Unlisted
	}
	return []string{p.Metadata.Name, s.State, strconv.Itoa(len(s.Sets)), strconv.Itoa(s.Total), dash(s.Default), strconv.Itoa(at.Hardware), strconv.Itoa(at.Mixed), strconv.Itoa(at.Software), strconv.Itoa(unreported), strconv.Itoa(unlisted),
		short(s.Digest), reason(s.Reason)}
}

func generationRow(g *api.GenerationView) []string {
	running, proved := "-", false
	if s := g.Status; s != nil {
		running, proved = number(s.Generation), s.Proved && s.Digest == g.Spec.Digest
	}
	return []string{g.Metadata.Name, number(g.Spec.Number), running, strconv.FormatBool(proved), strconv.Itoa(g.Spec.Rules), strconv.Itoa(len(g.Spec.VNICs)),
		strconv.FormatInt(g.Spec.Revision, 10), at(g.Spec.Made), short(g.Spec.Digest), dash(g.Spec.Default), dash(g.Spec.Uplink)}
}

func eventRow(e *api.Event) []string {
	return []string{e.Metadata.Name, at(e.Spec.At), e.Spec.Who, e.Spec.Verb, dash(strings.Join(touched(e.Spec.Changes), ", ")), e.Spec.Role, dash(e.Spec.From)}
}

// touched writes changes as `created network front`.
func touched(changes []api.Touched) []string {
	var out []string
	for _, t := range changes {
		out = append(out, t.How+" "+kindWord(t)+" "+t.Name)
	}
	return out
}

// How cells are written: nothing is a dash, so that columns stay columns.

func dash(s string) string { return cmp.Or(s, "-") }

func number[N int | uint16 | uint64](n N) string {
	if n == 0 {
		return "-"
	}
	return fmt.Sprint(n)
}

// room says how many entries fit, `-` if nobody knows, and whether a device only showed
// it by refusing more.
func room(limit int, learned bool) string {
	if learned {
		return number(limit) + " (learned)"
	}
	return number(limit)
}

func revision(h api.Head) string { return strconv.FormatInt(h.Metadata.Revision, 10) }

func short(digest string) string { return dash(digest[:min(len(digest), 12)]) }

func onOff(on bool) string {
	if on {
		return "on"
	}
	return "off"
}

func at(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format(time.RFC3339)
}

func reason(e *api.Error) string {
	if e == nil {
		return "-"
	}
	return e.Error() + " [" + e.Code + "]"
}

// bitRate writes bits a second as users do: 25G.
func bitRate(bits uint64) string {
	if bits == 0 {
		return "-"
	}
	for _, u := range []struct {
		of   uint64
		name string
	}{{1e12, "T"}, {1e9, "G"}, {1e6, "M"}, {1e3, "K"}} {
		if bits%u.of == 0 {
			return strconv.FormatUint(bits/u.of, 10) + u.name
		}
	}
	return strconv.FormatUint(bits, 10)
}

// findNoun returns the noun that a word, singular or plural, means.
func findNoun(word string, among func(noun) bool) (noun, error) {
	var known []string
	for _, n := range nouns {
		if !among(n) {
			continue
		}
		known = append(known, n.name)
		if word = strings.ToLower(word); word == n.name || word == string(n.all) || word == n.short && word != "" {
			return n, nil
		}
	}
	return noun{}, usage(fmt.Sprintf("noun %q", word), "there is no such kind of object here", flow.Suggest(word, known...))
}

func anyNoun(noun) bool    { return true }
func madeNoun(n noun) bool { return n.made }

// names returns the words for the nouns, for help and completion.
func nounNames(among func(noun) bool) []string {
	var out []string
	for _, n := range nouns {
		if among(n) {
			out = append(out, n.name)
		}
	}
	slices.Sort(out)
	return out
}
