package hwtests

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/capacity"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

// FabricReport is what the demo showed of the fabric.
type FabricReport struct {
	Page      string      `json:"page"` // address of the manager's page and API
	Inventory []BladeSeen `json:"inventory"`
	Create    Creation    `json:"create"`
	Move      *Relocation `json:"move"`
	Revert    *Relocation `json:"revert"`
	Differ    int         `json:"differ"` // objects that are not as in the snapshot, after the revert

	// Capacity is the headline of the capacity report, a sentence for each dimension.
	Capacity []string `json:"capacity"`
}

// BladeSeen is one PF of one blade, as its agent has reported it.
type BladeSeen struct {
	Blade    string `json:"blade"`
	Slot     int    `json:"slot"`
	PF       string `json:"pf"`
	Serial   string `json:"serial"`
	Speed    uint64 `json:"speed_bits_per_second"`
	VFs      int    `json:"vfs"`
	TotalVFs int    `json:"total_vfs"`
	Used     int    `json:"used"` // that a vNIC has
	RDMA     int    `json:"rdma"` // devices, of the PF and its VFs
}

// Creation is where a new profile was put, and how long that took.
type Creation struct {
	Profile string  `json:"profile"`
	Blade   string  `json:"blade"`
	Port    string  `json:"port"`
	Seconds float64 `json:"seconds"` // from the command to proved generation
}

// OK reports whether everything is as it should be.
func (r *FabricReport) OK() bool {
	return r != nil && r.Move != nil && r.Revert != nil && len(r.Move.Wrong)+len(r.Revert.Wrong)+r.Differ == 0
}

// Names of what the demo wants of its fabric.
const (
	demoChassis  = "demo"
	demoNetwork  = "plain"
	demoProfile  = "shop"
	demoSnapshot = "before-the-move"
	demoMAC      = 0x02_00_00_00_aa_01
)

// want tells the manager what the chassis is and what shall be on it: the rules of
// demo.yaml, and for each workload of the lab a profile with its address. It returns
// when every blade has proved its generation.
func (d *demo) want(ctx context.Context) error {
	objects, err := ruleSetObjects(demoRules)
	if err != nil {
		return err
	}
	objects = append(objects, api.Network{Head: api.NewHead(api.KindNetwork, demoNetwork)},
		api.Chassis{Head: api.NewHead(api.KindChassis, demoChassis), Spec: api.ChassisSpec{Slots: d.Blades}})
	if err := d.fabric.Apply(ctx, objects...); err != nil {
		return err
	}
	var names []string
	for i, b := range d.fabric.Blades {
		objects = []any{api.Blade{Head: api.NewHead(api.KindBlade, b.Name), Spec: api.BladeSpec{Chassis: demoChassis, Slot: b.Number}}}
		for vf := range b.Workloads {
			p := d.workload(i, vf)
			names = append(names, p.Metadata.Name)
			objects = append(objects, p)
		}
		if err := d.fabric.Apply(ctx, objects...); err != nil {
			return err
		}
	}
	if _, err := d.fabric.Settled(ctx, names...); err != nil {
		return err
	}
	return d.inPlace(ctx)
}

// workload is the profile of one workload of the lab, saved and off if off.
func (d *demo) workload(blade, vf int) api.Profile {
	b := d.fabric.Blades[blade]
	name := fmt.Sprintf("%s-w%0*d", b.Name, len(fmt.Sprint(len(b.Workloads)-1)), vf) // as wide as the last: placed in the order of names
	return api.Profile{Head: api.NewHead(api.KindProfile, name), Spec: api.ProfileSpec{
		VNICs:    []api.VNICSpec{{Name: "eth0", MAC: flow.FormatMAC(b.Workloads[vf].MAC), Network: demoNetwork}},
		RuleSets: []string{"app"}, Where: &api.Pool{Blades: []string{b.Name}}}}
}

// inPlace checks that each workload's profile has the VF that the workload is at: the
// demo's expectations know workloads by their ports.
func (d *demo) inPlace(ctx context.Context) error {
	vnics, err := client.VNICs.List(ctx, d.fabric.API, client.Query{})
	if err != nil {
		return err
	}
	port := map[string]string{}
	for _, v := range vnics.Items {
		port[v.Status.Profile] = v.Status.Blade + " " + v.Status.Port
	}
	for i, b := range d.fabric.Blades {
		for vf := range b.Workloads {
			name, want := d.workload(i, vf).Metadata.Name, fmt.Sprintf("%s nic0/pf0/vf%d", b.Name, vf)
			if port[name] != want {
				return fmt.Errorf("profile %s is at %q, its workload at %q", name, port[name], want)
			}
		}
	}
	return nil
}

// ruleSetObjects reads the documents of a rule file as the API's objects.
func ruleSetObjects(text []byte) ([]any, error) {
	var objects []any
	for dec := yaml.NewDecoder(bytes.NewReader(text)); ; {
		var o map[string]any
		err := dec.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects, nil
		}
		if err != nil {
			return nil, err
		}
		objects = append(objects, o)
	}
}

// show shows what a fabric is for: what there is, a profile that is created, moved under
// traffic and brought back, and what is left.
func (d *demo) show(ctx context.Context) error {
	r := &FabricReport{Page: d.fabric.API.Server() + "/"}
	d.report.Fabric = r
	if err := d.makeRoom(ctx); err != nil {
		return err
	}
	if err := d.create(ctx, r); err != nil {
		return err
	}
	to := d.fabric.Blades[(d.fabric.index(r.Create.Blade)+1)%d.Blades].Name
	d.Say("moving it to %s, under traffic", to)
	var err error
	if r.Move, err = d.fabric.Relocate(ctx, demoProfile, func() error {
		_, err := d.fabric.API.Move(ctx, demoProfile, api.Move{Blade: to}, false)
		return err
	}); err != nil {
		return err
	}
	d.Say("reverting to snapshot %s, under traffic", demoSnapshot)
	if r.Revert, err = d.fabric.Relocate(ctx, demoProfile, func() error {
		_, err := d.fabric.API.Revert(ctx, api.Revert{Snapshot: demoSnapshot}, false)
		return err
	}); err != nil {
		return err
	}
	diff, err := d.fabric.API.Diff(ctx, demoSnapshot, 0)
	if err != nil {
		return err
	}
	r.Differ = len(diff.Items)
	return d.whatIsLeft(ctx, r)
}

// makeRoom switches the last workload of each blade off: its profile stays, its VF is free.
func (d *demo) makeRoom(ctx context.Context) error {
	var objects []any
	for i := range d.fabric.Blades {
		p := d.workload(i, d.VFs-1)
		p.Spec.Off = true
		objects = append(objects, p)
	}
	if err := d.fabric.Apply(ctx, objects...); err != nil {
		return err
	}
	_, err := d.fabric.Settled(ctx)
	return err
}

// create creates a profile, measures that, and names the state after it.
func (d *demo) create(ctx context.Context, r *FabricReport) error {
	d.Say("creating profile %s", demoProfile)
	begin := time.Now()
	err := d.fabric.Apply(ctx,
		api.RuleSet{Head: api.NewHead(api.KindRuleSet, demoProfile), Spec: api.RuleSetSpec{Tier: "tenant", Rules: []api.Rule{
			{Name: "web", Priority: 50, Match: map[string]any{"ip_proto": "udp", "dst_port": "80"}, Actions: []any{"normal"}}}}},
		api.Profile{Head: api.NewHead(api.KindProfile, demoProfile), Spec: api.ProfileSpec{RuleSets: []string{demoProfile},
			VNICs: []api.VNICSpec{{Name: "eth0", MAC: flow.FormatMAC(demoMAC), Network: demoNetwork, QoS: &api.QoS{Guaranteed: "1G", Maximum: "10G"}}}}})
	if err != nil {
		return err
	}
	where, err := d.fabric.Settled(ctx, demoProfile)
	if err != nil {
		return err
	}
	r.Create = Creation{demoProfile, where.Blade, where.VNICs[0].Port, time.Since(begin).Seconds()}
	_, err = d.fabric.API.Snapshot(ctx, demoSnapshot, api.SnapshotSpec{})
	return err
}

// whatIsLeft reads the inventory of all blades from the manager, and the headline of its
// capacity report.
func (d *demo) whatIsLeft(ctx context.Context, r *FabricReport) error {
	blades, err := client.Blades.List(ctx, d.fabric.API, client.Query{})
	if err != nil {
		return err
	}
	pfs, err := client.PFs.List(ctx, d.fabric.API, client.Query{})
	if err != nil {
		return err
	}
	nics, err := client.NICs.List(ctx, d.fabric.API, client.Query{})
	if err != nil {
		return err
	}
	slot, serial := map[string]int{}, map[string]string{}
	for _, b := range blades.Items {
		slot[b.Metadata.Name] = b.Spec.Slot
	}
	for _, n := range nics.Items {
		serial[n.Metadata.Name] = n.Status.Serial
	}
	for _, p := range pfs.Items {
		card := p.Metadata.Name[:strings.LastIndexByte(p.Metadata.Name, '/')]
		s := BladeSeen{Blade: p.Status.Blade, Slot: slot[p.Status.Blade], PF: p.Status.Name, Serial: serial[card],
			VFs: p.Status.NumVFs, TotalVFs: p.Status.TotalVFs, Used: p.Status.Used, RDMA: len(p.Status.RDMA)}
		for _, vf := range p.Status.VFs {
			s.RDMA += len(vf.RDMA)
		}
		if p.Status.Netdev != nil {
			s.Speed = p.Status.Netdev.BitsPerSecond
		}
		r.Inventory = append(r.Inventory, s)
	}
	r.Capacity, err = d.headline(ctx)
	return err
}

// headline returns the sentences that the capacity report of the manager's fabric begins
// with.
func (d *demo) headline(ctx context.Context) ([]string, error) {
	text, err := d.fabric.API.CapacityInput(ctx, 1)
	if err != nil {
		return nil, err
	}
	in, err := capacity.ParseInput("the manager's capacity input", text)
	if err != nil {
		return nil, err
	}
	report, err := capacity.Report(in)
	if err != nil {
		return nil, err
	}
	return report.Status.Summary, nil
}
