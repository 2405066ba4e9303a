package agent

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/flow"
)

// All conversion between the wire's types and ours is in this file: what the blade is
// told on the way in, what it reports on the way out.

// record is what is stored for a blade, decoded but not understood yet.
type record struct {
	api.GenerationSpec
}

// readRecord decodes a stored generation leniently: fields that this program does not
// know are passed over, since the digest tells whether something was missed. Another
// version of the wire is something else: its meaning is unknown.
func readRecord(text []byte) (record, error) {
	var g api.Generation
	err := json.Unmarshal(text, &g.Head)
	if err == nil && (g.APIVersion != api.Version || g.Kind != api.KindGeneration) {
		return record{}, &flow.Fault{Code: "E_SCHEMA", What: "the newest generation", Why: fmt.Sprintf("it is a %s of version %s, and this agent knows %s of %s", g.Kind, g.APIVersion, api.KindGeneration, api.Version),
			Remedy: "upgrade this agent; what is in force stays"}
	}
	if err == nil {
		err = json.Unmarshal(text, &g)
	}
	if err != nil {
		return record{}, unreadable("the newest generation", err)
	}
	return record{g.Spec}, nil
}

func unreadable(what string, err error) error {
	return &flow.Fault{Code: "E_GENERATION", What: what, Why: "it cannot be understood: " + err.Error(), Remedy: "upgrade this agent, or see what the manager publishes; what is in force stays", Err: err}
}

// sums returns the names of the record's shards.
func (r *record) sums() ([][32]byte, error) {
	var out [][32]byte
	for _, text := range r.Shards {
		sum, err := hex.DecodeString(text)
		if err != nil || len(sum) != 32 {
			return nil, unreadable("the newest generation", fmt.Errorf("shard %q: not 64 hexadecimal digits", text))
		}
		out = append(out, [32]byte(sum))
	}
	return out, nil
}

// readShard decodes a part of a generation's rules.
func readShard(text []byte, ports *flow.Ports) ([]flow.Rule, error) {
	var s api.Shard
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, unreadable("a shard of the newest generation", err)
	}
	rules := make([]flow.Rule, 0, len(s.Rules))
	for _, r := range s.Rules {
		rule, err := readRule(r, ports)
		if err != nil {
			return nil, unreadable("rule "+r.Name, err)
		}
		rules = append(rules, rule)
	}
	return rules, nil
}

// edit is what a record says of one rule instead of its shards.
type edit struct {
	text api.TableRule
	rule flow.Rule // valid iff drop is false
	drop bool      // it is no more
}

// edits decodes the record's edits; what was decoded before is not decoded again.
func (r *record) edits(known map[flow.RuleID]edit, ports *flow.Ports) (map[flow.RuleID]edit, error) {
	out := make(map[flow.RuleID]edit, len(r.Put)+len(r.Drop))
	for _, text := range r.Drop {
		id, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			return nil, unreadable("the newest generation", err)
		}
		out[flow.RuleID(id)] = edit{drop: true}
	}
	for _, text := range r.Put {
		id, err := strconv.ParseUint(text.ID, 16, 64)
		e, same := known[flow.RuleID(id)]
		if err == nil && (!same || e.text != text) {
			e = edit{text: text}
			e.rule, err = readRule(text, ports)
		}
		if err != nil {
			return nil, unreadable("rule "+text.Name, err)
		}
		out[flow.RuleID(id)] = e
	}
	return out, nil
}

func readRule(r api.TableRule, ports *flow.Ports) (flow.Rule, error) {
	id, err := strconv.ParseUint(r.ID, 16, 64)
	tier, err2 := flow.ParseTier(r.Tier)
	match, err3 := flow.ParseMatch(r.Match, ports)
	actions, err4 := flow.ParseActions(r.Actions, ports)
	return flow.Rule{ID: flow.RuleID(id), Name: r.Name, Tier: tier, Priority: r.Priority, Match: match, Actions: actions}, cmp.Or(err, err2, err3, err4)
}

// content rebuilds the content of a record with its rules.
func (r *record) content(blade fabric.BladeID, ports *flow.Ports, rules []flow.Rule) (fabric.Content, error) {
	c := fabric.Content{Blade: blade, Table: flow.TableSpec{Generation: flow.Generation(r.Number), Rules: rules, Ports: ports}}
	fail := func(err error) (fabric.Content, error) { return c, unreadable("the newest generation", err) }
	var err error
	if r.Default != "" {
		if c.Table.Default, err = flow.ParseActions(r.Default, ports); err != nil {
			return fail(err)
		}
	}
	var uplink flow.Port
	if r.Uplink != "" {
		if uplink, err = ports.Find(r.Uplink); err != nil {
			return fail(err)
		}
	}
	var stations []flow.Station
	for _, s := range r.Stations {
		mac, err := flow.ParseMAC(s.MAC)
		port, err2 := ports.Find(s.Port)
		if err := cmp.Or(err, err2); err != nil {
			return fail(err)
		}
		stations = append(stations, flow.Station{VLAN: s.VLAN, MAC: mac, Port: port})
	}
	if c.Table.Switch, err = flow.NewSwitch(uplink, stations...); err != nil {
		return fail(err)
	}
	for _, o := range r.VNICs {
		b, err := bound(blade, ports, o)
		if err != nil {
			return fail(fmt.Errorf("vNIC %s/%s: %w", o.Profile, o.VNIC, err))
		}
		c.VNICs = append(c.VNICs, b)
	}
	c.Digest, err = fabric.ParseDigest(r.Digest)
	if err != nil {
		return fail(err)
	}
	return c, nil
}

// bound is a vNIC as it is in the content: working, whenever its link may go on.
func bound(blade fabric.BladeID, ports *flow.Ports, o api.Order) (fabric.Bound, error) {
	port, err := ports.Find(o.Port)
	pci, err2 := fabric.ParsePCI(o.PCI)
	mac, err3 := flow.ParseMAC(o.MAC)
	return fabric.Bound{
		VNIC: fabric.VNICName{Profile: o.Profile, VNIC: o.VNIC},
		VF:   fabric.VFID{Blade: blade, PF: fabric.PFID{PCI: pci, Serial: o.Serial}, Index: o.Index},
		Port: port,
		Setting: fabric.Setting{MAC: mac, VLAN: o.VLAN, Trust: o.Trust, Spoof: o.Spoof, Traffic: true,
			QoS: fabric.QoS{Guaranteed: fabric.BitsPerSecond(o.Guaranteed), Maximum: fabric.BitsPerSecond(o.Maximum)}},
	}, cmp.Or(err, err2, err3)
}

// orders returns the vNICs of a content as they may be now: links on where the record
// says so.
func (r *record) orders(vnics []fabric.Bound) []fabric.Bound {
	out := slices.Clone(vnics)
	for i := range out {
		out[i].Setting.Traffic = r.VNICs[i].Connect
	}
	return out
}

// kept is the file that holds the last generation taken.
type kept struct {
	Store      string                     `json:"store"`    // identity of the store it was in
	Revision   int64                      `json:"revision"` // of that store
	Generation json.RawMessage            `json:"generation"`
	Shards     map[string]json.RawMessage `json:"shards"`
}

// keptText is the JSON form of [kept]. It is put together from what was received and
// understood: to marshal it would read through all of it once more.
func keptText(identity string, revision int64, generation []byte, sums [][32]byte, shard func([32]byte) []byte) []byte {
	size := len(generation) + 256
	for _, sum := range sums {
		size += len(shard(sum)) + 72
	}
	name, _ := json.Marshal(identity) // a string always can be
	out := fmt.Appendf(make([]byte, 0, size), `{"store":%s,"revision":%d,"generation":`, name, revision)
	out = append(append(out, generation...), `,"shards":{`...)
	for i, sum := range sums {
		if i > 0 {
			out = append(out, ',')
		}
		out = fmt.Appendf(out, `"%x":`, sum)
		out = append(out, shard(sum)...)
	}
	return append(out, "}}\n"...)
}

// aliveReport says that this agent runs.
func aliveReport(blade string, status api.AliveStatus) any {
	return api.Alive{Head: api.NewHead(api.KindAlive, blade), Status: status}
}

// generationReport says how far the blade has come.
func generationReport(blade string, s *Status) any {
	out := api.GenerationStatus{Record: s.Record, Generation: s.Generation, Digest: s.Digest, Since: s.Since, Proved: s.Proved, Mismatches: s.Mismatches,
		VFs: []api.VFState{}, Devices: []api.Device{}, Links: []api.Link{}, Events: []api.BladeEvent{}}
	for _, v := range s.VFs {
		out.VFs = append(out.VFs, api.VFState{VFID: api.VFID{PCI: v.PCI, Serial: v.Serial, Index: v.Index}, Link: v.Link, Ours: v.Ours,
			Setting: api.Setting{MAC: v.MAC, VLAN: v.VLAN, Guaranteed: v.Guaranteed, Maximum: v.Maximum, Trust: v.Trust, Spoof: v.Spoof}})
	}
	for _, d := range s.Devices {
		w := api.Device{Name: d.Name, Model: d.Model, PFs: d.PFs, Entries: d.Entries, Limit: d.Limit, Learned: d.Learned, Foreign: d.Foreign,
			Guards: d.Guards, Masks: d.Masks, MaskLimit: d.MaskLimit, MasksLearned: d.MasksLearned}
		for _, c := range d.Claims {
			w.Claims = append(w.Claims, api.Claim(c))
		}
		for _, e := range d.Strange {
			w.Strange = append(w.Strange, api.Entry(e))
		}
		out.Devices = append(out.Devices, w)
	}
	for _, l := range s.Links {
		out.Links = append(out.Links, api.Link{Port: l.Port, Netdev: l.Netdev, Mode: l.Mode, XDP: l.XDP, Fail: l.Fail, Open: l.Open, Since: l.Since, Reason: l.Reason})
	}
	for _, e := range s.Events {
		out.Events = append(out.Events, api.BladeEvent(e))
	}
	if s.Error != nil {
		out.Error = &api.Error{Code: s.Error.Code, What: "blade " + blade, Why: s.Error.Text}
	}
	return api.BladeStatus{Head: api.NewHead(api.KindBladeStatus, blade), Status: out}
}

// portsReport says what has passed functions, without saying when.
func portsReport(blade string, counters []discover.Counter) api.Ports {
	out := api.PortsStatus{Ports: []api.PortCount{}}
	for _, c := range counters {
		out.Ports = append(out.Ports, api.PortCount{Port: c.Port, Received: api.Count(c.Received), Sent: api.Count(c.Sent)})
	}
	return api.Ports{Head: api.NewHead(api.KindPorts, blade), Status: out}
}

// mostRules is how many rules a report lists. It keeps a report below 300 KB: those
// that counted most, and what they counted, are what a fabric wants to know.
const mostRules = 1024

// rulesReport says where rules live and what they have counted.
func rulesReport(blade string, s *Status) api.Rules {
	out := api.RulesStatus{Generation: s.Generation, At: s.Reconciled, Packets: []api.TierPackets{}, Rules: []api.RuleState{}}
	for _, p := range s.Packets {
		out.Packets = append(out.Packets, api.TierPackets(p))
	}
	for _, r := range s.Rules {
		place := r.Place
		switch {
		case place == "hardware" && !r.Whole:
			place = "mixed"
			out.Mixed++
		case place == "hardware":
			out.Hardware++
		default:
			out.Software++
		}
		out.Rules = append(out.Rules, api.RuleState{Name: r.Name, ID: r.ID, Place: place, Entries: r.Entries, Code: r.Code, Reason: r.Reason, Fix: r.Fix,
			Hardware: api.Count(r.Hardware), Cache: api.Count(r.Cache), Software: api.Count(r.Software)})
	}
	if extra := len(out.Rules) - mostRules; extra > 0 {
		least := slices.SortedFunc(slices.Values(out.Rules), func(a, b api.RuleState) int {
			return cmp.Compare(b.Hardware.Packets+b.Cache.Packets+b.Software.Packets, a.Hardware.Packets+a.Cache.Packets+a.Software.Packets)
		})[mostRules:]
		gone := map[string]bool{}
		for _, r := range least {
			gone[r.ID] = true
		}
		out.Rules = slices.DeleteFunc(out.Rules, func(r api.RuleState) bool { return gone[r.ID] })
		out.Omitted = extra
	}
	return api.Rules{Head: api.NewHead(api.KindRules, blade), Status: out}
}
