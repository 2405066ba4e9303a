package tcflower

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Options say which device a [Driver] is for.
type Options struct {
	// Model is what the card can do. The driver takes from it what tc cannot say.
	Model device.Model
	// Ports are the device's ports: representors of one eSwitch.
	Ports []Port
	// Find returns those that are there now, for a card whose representors come and go with
	// its VFs; nil if Ports are all and stay.
	Find func() []Port
	// Look changes nothing: every operation is refused, and no port gets a qdisc.
	Look bool
	// Software lets the kernel itself work the filters, and no card: every filter has
	// skip_hw. It is for tests and for looking at rules with tc.
	Software bool
}

// Driver is a device whose entries are filters of tc flower. It implements
// [offload.Driver]. Every filter is for the card alone (skip_sw): software holds the
// whole table in its own way.
type Driver struct {
	find    func() []Port
	refuses *offload.Outcome // of every operation, if not nil
	close   func() error

	mu    sync.Mutex // guards what follows; held through an Apply
	model device.Model
	site  site
	line  line
}

var (
	_ offload.Driver      = (*Driver)(nil)
	_ offload.PortCounter = (*Driver)(nil)
)

// Open returns a driver for a device, and gives each of its ports a clsact qdisc if it
// has none. It needs CAP_NET_ADMIN in the network namespace of the caller's thread.
func Open(o Options) (*Driver, error) {
	s, err := openSocket()
	if err != nil {
		return nil, err
	}
	d, err := open(o, s)
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	d.close = s.Close
	return d, nil
}

// open is Open with another kernel.
func open(o Options, k kernel) (*Driver, error) {
	d := &Driver{model: narrowed(o), find: o.Find, site: site{slices.Clone(o.Ports), o.Software}, line: line{kernel: k}, close: func() error { return nil }}
	d.look()
	if o.Look {
		d.refuses = &offload.Outcome{Status: offload.Refused, Code: offload.CodeDevice, Text: "the driver was opened to look only"}
		return d, nil
	}
	return d, d.hook(context.Background())
}

// look finds the ports that are there.
func (d *Driver) look() {
	if d.find == nil {
		return
	}
	d.site.ports, d.model.Ports, d.model.Barred = d.find(), nil, nil
	if len(d.site.ports) == 0 {
		d.model.Barred = &device.Refusal{Code: "E_DEVICE_AWAY", Reason: "none of its ports is there", Fix: "none needed, if somebody reloads its driver; else look for the card"}
	}
	for _, p := range d.site.ports {
		d.model.Ports = append(d.model.Ports, p.Port)
	}
}

// hook gives each port the qdisc that filters hang on, if it has none: one that is new, or
// from which somebody took it.
func (d *Driver) hook(ctx context.Context) error {
	var ms []message
	for _, p := range d.site.ports {
		ms = append(ms, clsact(p.Device))
	}
	as, err := d.line.ask(ctx, ms)
	for i, a := range as {
		switch {
		case err != nil:
		case a.errno != 0 && a.errno != unix.EEXIST && a.errno != unix.ENODEV: // one that is gone has no filters
			err = fmt.Errorf("clsact qdisc of device #%d: %s (%w)", d.site.ports[i].Device, a.text, a.errno)
		}
	}
	return err
}

// clsact is the message that makes the two hooks of a device.
func clsact(dev uint32) message {
	w := writer{native.AppendUint32([]byte{0, 0, 0, 0}, dev)}
	for _, v := range []uint32{0xffff0000, 0xfffffff1, 0} {
		w.b = native.AppendUint32(w.b, v)
	}
	w.text(tcaKind, "clsact")
	return message{kind: unix.RTM_NEWQDISC, flags: unix.NLM_F_CREATE | unix.NLM_F_EXCL, body: w.b}
}

// Close closes the socket. The filters stay.
func (d *Driver) Close() error { return d.close() }

// narrowed returns the model as it is through tc flower, with its ports.
func narrowed(o Options) device.Model {
	m := device.ThroughTC(o.Model, o.Software)
	m.Ports = nil
	for _, p := range o.Ports {
		m.Ports = append(m.Ports, p.Port)
	}
	return m
}

// Model returns what the device can do through tc, with the ports that are there.
func (d *Driver) Model(context.Context) (device.Model, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.look()
	return d.model, nil
}

// Installed returns every entry, in the order of IDs, put together from a dump of each
// port: costs about a microsecond and a half for each filter on a fast machine. A foreign
// filter that is in the card is an entry, which matches at least what the filter does, and
// has no actions if that is more.
func (d *Driver) Installed(ctx context.Context) ([]flow.Entry, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	var out []flow.Entry
	for _, fs := range t.sets {
		out = append(out, d.site.assemble(fs))
	}
	for i := range t.foreign {
		if e, there := d.site.foreign(&t.foreign[i]); there {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b flow.Entry) int { return cmp.Compare(a.ID, b.ID) })
	return out, nil
}

// Counters returns what each entry has answered, as the kernel says it: a card's counters
// may be as old as the model says.
func (d *Driver) Counters(ctx context.Context) ([]offload.Count, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	t, err := d.read(ctx)
	if err != nil {
		return nil, err
	}
	var out []offload.Count
	for id, fs := range t.sets {
		n := offload.Count{Entry: id}
		for _, f := range fs {
			n.Packets += f.Actions[0].Stats.Packets
			n.Bytes += f.Actions[0].Stats.Bytes
		}
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b offload.Count) int { return cmp.Compare(a.Entry, b.Entry) })
	return out, nil
}

// Barrier waits for an RCU grace period: a packet that met an older filter in the kernel
// is done with it. Drivers answer for their cards before they return.
func (d *Driver) Barrier(context.Context) error {
	const global = 1 // MEMBARRIER_CMD_GLOBAL, which is synchronize_rcu in the kernel
	if _, _, errno := unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0); errno != 0 {
		return fmt.Errorf("barrier: %w", errno)
	}
	return nil
}

// place is where a tc priority is: on one port.
type place struct {
	device uint32
	prio   uint16
}

// table is what a device holds, as it was read.
type table struct {
	numbers map[uint32]numbers // by device
	handles map[place]uint32   // the highest in use
	uses    map[place]int      // filters with this label
	sets    map[flow.EntryID][]*placed
	foreign []Filter
}

// read reads all ports that are there: one that goes meanwhile has no filters.
func (d *Driver) read(ctx context.Context) (*table, error) {
	d.look()
	t := &table{map[uint32]numbers{}, map[place]uint32{}, map[place]int{}, map[flow.EntryID][]*placed{}, nil}
	for _, p := range d.site.ports {
		n := newNumbers()
		t.numbers[p.Device] = n
		records, err := d.line.dump(ctx, p.Device, Egress)
		if err != nil {
			return nil, fmt.Errorf("labels of port %d: %w", p.Port, err)
		}
		for i := range records {
			if records[i].Chain != book {
				continue
			}
			if l, ok := parseLabel(&records[i]); ok {
				n.take(l, records[i].Priority)
			}
		}
		filters, err := d.line.dump(ctx, p.Device, Ingress)
		if err != nil {
			return nil, fmt.Errorf("filters of port %d: %w", p.Port, err)
		}
		for _, f := range filters {
			t.note(f, n)
		}
	}
	return t, nil
}

// note sorts a filter in. Those of other chains are met only where a foreign filter of
// the first one jumps to them. One that has our mark and whose label was lost is ours still:
// an entry that nobody takes for right.
func (t *table) note(f Filter, n numbers) {
	if f.Chain != 0 {
		return
	}
	l, labelled := n.at[f.Priority]
	id, _, marked := owner(&f)
	if !labelled {
		n.others[f.Priority] = true
		marked = marked && offload.Ours(id)
	}
	if !marked {
		n.others[f.Priority] = true
		t.foreign = append(t.foreign, f)
		return
	}
	t.add(id, &placed{f, l})
}

func (t *table) add(id flow.EntryID, p *placed) {
	t.sets[id] = append(t.sets[id], p)
	at := place{p.Device, p.Priority}
	t.handles[at] = max(t.handles[at], p.Handle)
	t.uses[at]++
}

// Apply carries out ops in order, in as few sends as it can: those that touch an entry
// twice wait for each other. It costs one dump, and one answer of the kernel for every
// 256 filters.
func (d *Driver) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := make([]offload.Outcome, len(ops))
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(ops) == 0 {
		return out
	}
	if d.refuses != nil {
		fill(out, *d.refuses)
		return out
	}
	t, err := d.read(ctx)
	if err == nil && slices.ContainsFunc(ops, func(op offload.Op) bool { return op.Kind == offload.Add }) {
		err = d.hook(ctx)
	}
	for from := 0; from < len(ops); {
		to, seen := from, map[flow.EntryID]bool{}
		for to < len(ops) && to-from < 4*batchSize && !seen[ops[to].Entry.ID] {
			seen[ops[to].Entry.ID] = true
			to++
		}
		switch {
		case ctx.Err() != nil:
			fill(out[from:to], unknown(ctx.Err()))
		case err != nil:
			fill(out[from:to], offload.Outcome{Status: offload.Refused, Code: offload.CodeDevice, Text: "the device could not be read or made ready: " + err.Error()})
		default:
			r := round{d: d, t: t, ops: ops[from:to], out: out[from:to], filters: make([][]*placed, to-from)}
			r.run(ctx)
		}
		from = to
	}
	return out
}

func fill(out []offload.Outcome, with offload.Outcome) {
	for i := range out {
		out[i] = with
	}
}
