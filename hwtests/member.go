package hwtests

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// Membership makes the blades of a chassis members of a fabric: what is wanted of them
// comes from its store, and what they are goes there.
type Membership struct {
	Dial func(ctx context.Context, blade string) (store.Store, error) // with the blade's own certificate
	Keep string                                                       // directory for the last generations
}

// join makes the blade's agent a member's.
func (b *Blade) join(m *Membership, c Config) error {
	look := func() (fabric.Inventory, []fabric.Finding, error) { return discover.Read(b.SysRoot) }
	inv, _, err := look()
	if err != nil {
		return err
	}
	b.Member, err = agent.NewFabric(agent.FabricConfig{Blade: b.Name, Ports: b.Ports, Inventory: look, Counters: b.passed, Log: c.Log, Keep: filepath.Join(m.Keep, b.Name+".json"),
		Dial: func(ctx context.Context) (store.Store, error) { return m.Dial(ctx, b.Name) }})
	if err != nil {
		return err
	}
	b.vfs = &witness{VFs: VFs(b.Blade, inv), blade: b}
	config := b.Agent.Config
	config.Source, config.Wake, config.Report = b.Member, b.Member.Wake(), b.Member.Report
	config.Blade, config.VFs = fabric.BladeID(b.Name), b.vfs
	config.Devices[0].PFs = []string{b.Ports.Name(lab.Uplink)}
	b.Agent = agent.New(config)
	return nil
}

// passed reads what has passed the card's side of each port's cable. The blade's tree
// is written once and so has no counters in it. A port that cannot be read is left out.
func (b *Blade) passed() []discover.Counter {
	var out []discover.Counter
	for _, at := range b.Attached {
		link, err := at.Front.NS.Links().LinkByName(at.Front.Name)
		if err != nil {
			continue
		}
		s := link.Attrs().Statistics
		in, sent := flow.Counter{Packets: s.RxPackets, Bytes: s.RxBytes}, flow.Counter{Packets: s.TxPackets, Bytes: s.TxBytes}
		if at.Workload != nil { // what the card received, the workload sent
			in, sent = sent, in
		}
		out = append(out, discover.Counter{Port: at.Name, Received: in, Sent: sent})
	}
	return out
}

// VFs returns what the blade's emulated VFs are made of.
func VFs(b *lab.Blade, inv fabric.Inventory) *provision.Emulated {
	netdev := func(d lab.Netdev) provision.Netdev { return provision.Netdev{Links: d.NS.Links(), Name: d.Name} }
	parts := map[string]provision.Parts{}
	for _, at := range b.Attached {
		parts[at.Name] = provision.Parts{Workload: netdev(at.Outside), Card: netdev(at.Front), Representor: netdev(at.Representor)}
	}
	return provision.NewEmulated(fabric.BladeID(b.Name), inv, parts)
}

// Told is one setting that a VF got, with the time just before and just after,
// CLOCK_MONOTONIC in ns.
type Told struct {
	VF            fabric.VFID
	Setting       fabric.Setting
	Before, After int64

	// Table is what was in force just before a link went on, and Proved whether what
	// the card held then, read by the witness itself, agrees with it. Both are nil for
	// other settings.
	Table  *flow.Table
	Proved error
}

// witness are VFs of which is kept what they were told. It asks neither agent nor
// manager: it reads the card, and holds it against the datapath's table.
type witness struct {
	VFs   *provision.Emulated
	blade *Blade

	mu   sync.Mutex
	told []Told // guarded by mu
}

// Read implements [provision.VFs].
func (w *witness) Read() (map[fabric.VFID]fabric.VFState, error) { return w.VFs.Read() }

// Write implements [provision.VFs].
func (w *witness) Write(vf fabric.VFID, s fabric.Setting) error {
	t := Told{VF: vf, Setting: s}
	if s.Traffic {
		t.Table, t.Proved = w.blade.Datapath.Table(), w.blade.prove()
	}
	t.Before = monotonic()
	err := w.VFs.Write(vf, s)
	t.After = monotonic()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.told = append(w.told, t)
	return err
}

// Told returns what the blade's VFs were told so far, in order.
func (b *Blade) Told() []Told {
	b.vfs.mu.Lock()
	defer b.vfs.mu.Unlock()
	return append([]Told(nil), b.vfs.told...)
}

// prove reads the card and holds it against the table in force.
func (b *Blade) prove() error {
	ctx := context.Background()
	model, err := b.Hardware.Model(ctx)
	if err != nil {
		return err
	}
	installed, err := b.Hardware.Installed(ctx)
	if err != nil {
		return err
	}
	return verify.Check(b.Datapath.Table(), installed, model)
}
