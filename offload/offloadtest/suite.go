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
	// Base is what every entry of the suite matches, where it does not say otherwise,
	// for drivers that take no entry without it.
	Base flow.Match
	// Admits says which of the entries that the model admits the driver can take. Nil is
	// all of them. The others have to be refused.
	Admits func(e *flow.Entry) bool
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
		{{Op: flow.Set, Settings: []flow.Setting{{Field: flow.SrcMAC, Value: 2, Mask: flow.SrcMAC.Max()}}}, {Op: flow.Drop}},
		{{Op: flow.Police, Rate: 1e6, Burst: 1500}, {Op: flow.Drop}},
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
	var plain flow.Match // nothing that a device may miss
	plain.Pin(flow.Flags, 0, flow.FlagFragFirst|flow.FlagFragLater|flow.FlagOdd)
	k, ok := flow.Shared(&two[0].Match, &plain)
	if !ok {
		c.Fatalf("no packet matches %+v", two[0].Match)
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
