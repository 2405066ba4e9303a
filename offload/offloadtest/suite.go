package offloadtest

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Options is what the suite has to know about a driver's surroundings.
type Options struct {
	// Ports are at least two ports that entries may name.
	Ports []flow.Port
	// Send lets one frame come in by a port and returns when the device has handled
	// it. Nil leaves out what needs traffic.
	Send func(t *testing.T, d offload.Driver, frame []byte, in flow.Port)
}

// Run holds a driver to the contract of [offload.Driver]. newDriver returns a driver
// for an empty device; it is called once for each part, and cleans up with t.Cleanup.
func Run(t *testing.T, newDriver func(t *testing.T) offload.Driver, o Options) {
	part := func(name string, f func(c *conform)) {
		t.Run(name, func(t *testing.T) {
			c := &conform{T: t, d: newDriver(t), o: o}
			m, err := c.d.Model(t.Context())
			if err != nil {
				t.Fatal("model:", err)
			}
			c.m = m
			f(c)
		})
	}
	part("Empty", (*conform).empty)
	part("RoundTrip", (*conform).roundTrip)
	part("Duplicate", (*conform).duplicate)
	part("Missing", (*conform).missing)
	part("InOrder", (*conform).inOrder)
	part("Refusals", (*conform).refusals)
	part("Full", (*conform).full)
	part("Masks", (*conform).masks)
	part("Counters", (*conform).counters)
	part("Cancelled", (*conform).cancelled)
	part("ReadWhileWriting", (*conform).readWhileWriting)
}

// conform is one part of the suite on one empty device.
type conform struct {
	*testing.T
	d offload.Driver
	m device.Model
	o Options
}

func (c *conform) apply(ops ...offload.Op) []offload.Outcome {
	c.Helper()
	out := c.d.Apply(c.Context(), ops)
	if len(out) != len(ops) {
		c.Fatalf("%d outcomes for %d ops", len(out), len(ops))
	}
	for i, o := range out {
		if (o.Status == offload.Done) != (o.Code == "" && o.Text == "") {
			c.Errorf("%s %016x: %s with code %q and text %q: there are words iff it is not done", ops[i].Kind, uint64(ops[i].Entry.ID), o.Status, o.Code, o.Text)
		}
		if o.Code != "" && !strings.HasPrefix(o.Code, "E_") {
			c.Errorf("%s %016x: code %q does not begin with E_", ops[i].Kind, uint64(ops[i].Entry.ID), o.Code)
		}
	}
	return out
}

// must applies one operation that has to be done.
func (c *conform) must(kind offload.OpKind, e flow.Entry) offload.Outcome {
	c.Helper()
	out := c.apply(offload.Op{Kind: kind, Entry: e})[0]
	if out.Status != offload.Done {
		c.Fatalf("%s %+v: %s: %s: %s", kind, e, out.Status, out.Code, out.Text)
	}
	return out
}

// refused applies one operation that has to be refused with a code.
func (c *conform) refused(kind offload.OpKind, e flow.Entry, code string) {
	c.Helper()
	before := c.installed()
	out := c.apply(offload.Op{Kind: kind, Entry: e})[0]
	if out.Status != offload.Refused || code != "" && out.Code != code {
		c.Errorf("%s %016x: %s %s, want refused %s", kind, uint64(e.ID), out.Status, out.Code, code)
	}
	c.holds(before...)
}

func (c *conform) installed() []flow.Entry {
	c.Helper()
	have, err := c.d.Installed(c.Context())
	if err != nil {
		c.Fatal("installed:", err)
	}
	slices.SortFunc(have, byID)
	return have
}

func byID(a, b flow.Entry) int { return cmp.Compare(a.ID, b.ID) }

// holds checks that exactly these entries are in the device, bit for bit.
func (c *conform) holds(want ...flow.Entry) {
	c.Helper()
	want = slices.SortedFunc(slices.Values(want), byID)
	have := c.installed()
	for i := range max(len(have), len(want)) {
		switch {
		case i >= len(have):
			c.Fatalf("entry %016x is not there", uint64(want[i].ID))
		case i >= len(want):
			c.Fatalf("entry %016x should not be there", uint64(have[i].ID))
		case !have[i].Equal(&want[i]):
			c.Fatalf("read back other than put in:\n have %+v\n want %+v", have[i], want[i])
		}
	}
}

func (c *conform) empty() {
	c.holds()
	counts, err := c.d.Counters(c.Context())
	if err != nil || len(counts) > 0 {
		c.Errorf("counters of an empty device: %v, %v", counts, err)
	}
	if err := c.d.Barrier(c.Context()); err != nil {
		c.Error("barrier:", err)
	}
}

// roundTrip puts in every kind of entry the model admits, reads each back, and takes
// it out again.
func (c *conform) roundTrip() {
	all := c.every()
	if len(all) < 2 {
		c.Fatal("the model admits hardly any entry")
	}
	for _, e := range all {
		c.must(offload.Add, e)
		c.holds(e)
		if err := c.d.Barrier(c.Context()); err != nil {
			c.Fatal("barrier:", err)
		}
		if out := c.must(offload.Remove, e); out.Final != (flow.Counter{}) {
			c.Errorf("an entry that saw no packet ends with %+v", out.Final)
		}
		c.holds()
	}
	c.Logf("%d kinds of entries", len(all))
}

func (c *conform) duplicate() {
	e := c.some(1)[0]
	c.must(offload.Add, e)
	c.refused(offload.Add, e, offload.CodeExists)
	other := c.some(2)[1]
	other.ID = e.ID
	c.refused(offload.Add, other, offload.CodeExists)
	c.holds(e)
}

func (c *conform) missing() {
	two := c.some(2)
	c.refused(offload.Remove, two[0], offload.CodeMissing)
	c.must(offload.Add, two[1])
	c.refused(offload.Remove, two[0], offload.CodeMissing)
	c.must(offload.Remove, two[1])
	c.refused(offload.Remove, two[1], offload.CodeMissing)
	c.must(offload.Add, two[1]) // the same entry may come back
	c.holds(two[1])
}

// inOrder applies a list whose outcomes say in which order it was carried out.
func (c *conform) inOrder() {
	two := c.some(2)
	a, b := two[0], two[1]
	ops := []offload.Op{{Kind: offload.Remove, Entry: a}, {Kind: offload.Add, Entry: a}, {Kind: offload.Add, Entry: a},
		{Kind: offload.Add, Entry: b}, {Kind: offload.Remove, Entry: a}, {Kind: offload.Remove, Entry: a}}
	want := []string{offload.CodeMissing, "", offload.CodeExists, "", "", offload.CodeMissing}
	for i, out := range c.apply(ops...) {
		if out.Code != want[i] {
			c.Errorf("op %d, %s: %s %s, want %q", i, ops[i].Kind, out.Status, out.Code, want[i])
		}
	}
	c.holds(b)
	if out := c.apply(); len(out) != 0 {
		c.Errorf("outcomes without operations: %v", out)
	}
}

// refusals asks for entries that the model says cannot be.
func (c *conform) refusals() {
	e := c.some(1)[0]
	for _, a := range []flow.Actions{
		{{Op: flow.Pass}}, {{Op: flow.Normal}},
		{{Op: flow.VLANPush, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Proto: flow.EthVLAN}, {Op: flow.Drop}},
		{{Op: flow.Mirror, Ports: []flow.Port{c.o.Ports[0], c.o.Ports[0]}}, {Op: flow.Output, Ports: []flow.Port{c.o.Ports[0]}}},
	} {
		e.Actions = a
		if c.m.Admit(&e.Match, a, e.Kind) != nil {
			c.refused(offload.Add, e, "")
		}
	}
	e.Actions = flow.Actions{{Op: flow.Drop}}
	var m flow.Match
	m.Pin(flow.CTState, 1, 0xff)
	if c.m.Admit(&m, e.Actions, e.Kind) != nil {
		e.Match = m
		c.refused(offload.Add, e, "")
	}
}

// full fills the device to the brim.
func (c *conform) full() {
	if c.m.Entries == 0 || c.m.Entries > 20_000 {
		c.Skipf("the model says %d entries", c.m.Entries)
	}
	all := c.some(c.m.Entries + 1)
	last := all[c.m.Entries]
	in := all[:c.m.Entries]
	for chunk := range slices.Chunk(in, 256) {
		var ops []offload.Op
		for _, e := range chunk {
			ops = append(ops, offload.Op{Kind: offload.Add, Entry: e})
		}
		for i, out := range c.apply(ops...) {
			if out.Status != offload.Done {
				c.Fatalf("add %016x: %s %s %s", uint64(chunk[i].ID), out.Status, out.Code, out.Text)
			}
		}
	}
	c.holds(in...)
	c.refused(offload.Add, last, offload.CodeFull)
	c.must(offload.Remove, in[0])
	c.must(offload.Add, last)
	c.holds(append(slices.Clone(in[1:]), last)...)
}

// masks uses up the mask slots of a device that counts them.
func (c *conform) masks() {
	if c.m.Masks == 0 {
		c.Skip("the model has no limit of masks")
	}
	seen := map[device.Mask]bool{}
	for _, e := range c.every() {
		e.Priority = 1
		mask := device.MaskOf(&e.Match)
		switch {
		case seen[mask]:
		case len(seen) == c.m.Masks:
			c.refused(offload.Add, e, offload.CodeMask)
			return
		default:
			seen[mask] = true
			c.must(offload.Add, e)
		}
	}
	c.Skipf("only %d masks can be made, the model has %d", len(seen), c.m.Masks)
}

func (c *conform) counters() {
	two := c.some(2)
	c.must(offload.Add, two[0])
	c.must(offload.Add, two[1])
	if n := c.counts(); len(n) != 2 || n[two[0].ID] != (flow.Counter{}) {
		c.Fatalf("counters of two new entries: %v", n)
	}
	if c.o.Send == nil {
		c.Skip("no traffic here")
	}
	k, ok := flow.Shared(&two[0].Match)
	if !ok {
		c.Fatal("no packet matches the entry")
	}
	k.Set(flow.InPort, uint64(c.o.Ports[1]))
	frame, err := flow.Frame(k, make([]byte, 64))
	if err != nil {
		c.Fatal(err)
	}
	const packets = 10
	for range packets {
		c.o.Send(c.T, c.d, frame, c.o.Ports[1])
	}
	if err := c.d.Barrier(c.Context()); err != nil {
		c.Fatal("barrier:", err)
	}
	want := flow.Counter{Packets: packets, Bytes: packets * uint64(len(frame))}
	if c.m.CounterLag == 0 {
		if n := c.counts(); n[two[0].ID] != want || n[two[1].ID] != (flow.Counter{}) {
			c.Errorf("counters: %v, want %v for the first", n, want)
		}
	}
	if out := c.must(offload.Remove, two[0]); out.Final != want {
		c.Errorf("final counter %+v, want %+v", out.Final, want)
	}
	c.must(offload.Add, two[0])
	if n := c.counts(); n[two[0].ID] != (flow.Counter{}) {
		c.Errorf("an entry that came back counts from %+v", n[two[0].ID])
	}
}

func (c *conform) counts() map[flow.EntryID]flow.Counter {
	c.Helper()
	counts, err := c.d.Counters(c.Context())
	if err != nil {
		c.Fatal("counters:", err)
	}
	out := map[flow.EntryID]flow.Counter{}
	for _, n := range counts {
		out[n.Entry] = n.Counter
	}
	return out
}

// cancelled applies operations when there is no time left: nothing is claimed.
func (c *conform) cancelled() {
	ctx, cancel := context.WithCancel(c.Context())
	cancel()
	for _, out := range c.d.Apply(ctx, []offload.Op{{Kind: offload.Add, Entry: c.some(1)[0]}}) {
		if out.Status == offload.Refused {
			c.Errorf("refused: %s %s: a cancelled operation is done or unknown", out.Code, out.Text)
		}
	}
}

// readWhileWriting reads beside a writer, which the contract allows.
func (c *conform) readWhileWriting() {
	all := c.some(min(32, cmp.Or(c.m.Entries, 32)))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, e := range all {
			c.d.Apply(c.Context(), []offload.Op{{Kind: offload.Add, Entry: e}})
		}
	}()
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		have := c.installed()
		for i := range have {
			at := slices.IndexFunc(all, func(e flow.Entry) bool { return e.ID == have[i].ID })
			if at < 0 || !have[i].Equal(&all[at]) {
				c.Fatalf("read %+v while writing", have[i])
			}
		}
		c.counts()
	}
	c.holds(all...)
}

// some returns n entries that the device holds at the same time: one mask, one
// priority, no two the same, and packets that match them.
func (c *conform) some(n int) []flow.Entry {
	c.Helper()
	act := c.anActions()
	for _, f := range []flow.Field{flow.DstMAC, flow.SrcMAC, flow.VLAN, flow.DstPort, flow.SrcPort} {
		if uint64(n) > f.Max()&^flow.TagPresent>>1 {
			continue
		}
		var out []flow.Entry
		for i := range n {
			m := flow.Match{}
			m.Pin(f, 1+uint64(i), f.Max())
			e := flow.Entry{ID: id(i), Rule: flow.RuleID(i + 1), Priority: 7, Match: m, Actions: act}
			if c.m.Admit(&e.Match, e.Actions, e.Kind) != nil {
				break
			}
			out = append(out, e)
		}
		if len(out) == n {
			return out
		}
	}
	c.Fatalf("the model admits no %d entries that differ in one field", n)
	return nil
}

// id returns the i-th ID; some look like bladeflow's, some like another's.
func id(i int) flow.EntryID {
	if i%7 == 3 {
		return flow.EntryID(i + 1)
	}
	return 0xb1ad<<48 | flow.EntryID(i+1)
}

// anActions returns actions that the device has.
func (c *conform) anActions() flow.Actions {
	for _, a := range []flow.Actions{{{Op: flow.Drop}}, {{Op: flow.Output, Ports: c.o.Ports[:1]}}} {
		if c.m.Does(a[0].Op) {
			return a
		}
	}
	c.Fatal("the model can neither drop nor output")
	return nil
}

// every returns an entry for each way of matching, each list of actions, each kind
// and the extremes of each number, as far as the model admits them.
func (c *conform) every() []flow.Entry {
	var out []flow.Entry
	add := func(e flow.Entry) {
		e.ID = id(len(out))
		if err := e.Match.Valid(); err != nil {
			c.Fatal(err)
		}
		if c.m.Admit(&e.Match, e.Actions, e.Kind) == nil {
			out = append(out, e)
		}
	}
	base := flow.Entry{Rule: 1, Priority: 7, Actions: c.anActions()}
	for _, m := range matches(c.o.Ports) {
		e := base
		e.Match = m
		add(e)
	}
	for _, a := range actions(c.o.Ports) {
		e := base
		e.Actions = a
		add(e)
	}
	for _, kind := range []flow.EntryKind{flow.RuleEntry, flow.GuardEntry, flow.PieceEntry} {
		for _, n := range []uint64{0, 1, 1 << 31, 1<<63 | 1, 1<<64 - 1} {
			e := base
			e.Kind, e.Rule, e.Priority = kind, flow.RuleID(n), n
			if kind == flow.GuardEntry {
				e.Actions = nil
			}
			add(e)
		}
	}
	return out
}

// matches returns matches on every field: whole, by prefix, by odd masks, by ranges.
func matches(ports []flow.Port) []flow.Match {
	out := []flow.Match{{}}
	pin := func(f flow.Field, v, mask uint64) {
		var m flow.Match
		m.Pin(f, v&mask, mask)
		out = append(out, m)
	}
	for f := range flow.NumFields {
		all := f.Max()
		switch f {
		case flow.InPort:
			pin(f, uint64(ports[1]), all)
		case flow.SrcPort, flow.DstPort:
			for _, r := range []flow.PortRange{{Lo: 80, Hi: 80}, {Lo: 80, Hi: 443}, {Lo: 0, Hi: 1023}, {Lo: 1, Hi: 65535}, {Lo: 65534, Hi: 65535}} {
				var m flow.Match
				m.SetPorts(f, r.Lo, r.Hi)
				out = append(out, m)
			}
			var m flow.Match
			m.SetPortMask(f, 0x0101, 0x0f0f)
			out = append(out, m)
		case flow.VLAN, flow.CVLAN:
			pin(f, 0, flow.TagPresent)
			pin(f, flow.TagPresent, flow.TagPresent)
			pin(f, flow.TagPresent|100, flow.TagPresent|flow.TagID)
			pin(f, flow.TagPresent|5<<13|100, all)
			pin(f, flow.TagPresent|0x10, flow.TagPresent|0x30)
		case flow.Flags:
			for bit := uint64(1); bit <= flow.FlagOdd; bit <<= 1 {
				pin(f, bit, bit)
				pin(f, 0, bit)
			}
		default:
			pin(f, 0x0123456789abcdef, all)
			pin(f, 0, all)
			pin(f, 0x0123456789abcdef, all&^(all>>3))
			pin(f, 0x0123456789abcdef, all&0x5555555555555555)
		}
	}
	for _, l := range []int{1, 8, 24, 31, 32} {
		var m flow.Match
		m.Pin(flow.EthType, flow.EthIPv4, 0xffff)
		mask := uint64(0xffffffff) << (32 - l) & 0xffffffff
		m.Pin(flow.DstLo, 0x0a010203&mask, mask)
		out = append(out, m)
	}
	var five flow.Match // an exact five-tuple with everything around it
	for f, v := range map[flow.Field]uint64{flow.InPort: uint64(ports[0]), flow.EthType: flow.EthIPv6, flow.SrcHi: 0x20010db8 << 32, flow.SrcLo: 1,
		flow.DstHi: 0x20010db8 << 32, flow.DstLo: 2, flow.Proto: flow.ProtoTCP, flow.SrcPort: 1024, flow.DstPort: 443} {
		five.Pin(f, v, f.Max())
	}
	five.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4|flow.FlagFragLater)
	return append(out, five)
}

// actions returns lists of every action in many combinations.
func actions(ports []flow.Port) []flow.Actions {
	out := flow.Action{Op: flow.Output, Ports: ports[:1]}
	drop := flow.Action{Op: flow.Drop}
	steps := []flow.Action{{Op: flow.Mirror, Ports: ports[1:2]}, {Op: flow.VLANPop}, {Op: flow.VLANSet, Tag: 100}, {Op: flow.VLANSet, Tag: 0},
		{Op: flow.VLANPush, Tag: 5<<13 | 100, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Tag: 4095, Proto: flow.EthQinQ}}
	all := []flow.Actions{{drop}, {out}, {{Op: flow.Output, Ports: ports}}, {{Op: flow.Output, Ports: slices.Repeat(ports[:1], 2)}}}
	for i, s := range steps {
		all = append(all, flow.Actions{s, out}, flow.Actions{s, drop})
		for _, then := range steps[i:] {
			all = append(all, flow.Actions{s, then, out}, flow.Actions{then, s, out})
		}
	}
	return all
}
