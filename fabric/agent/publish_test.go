package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// vf returns a VF of the tests' card.
func vf(blade string, index int) fabric.VFID {
	return fabric.VFID{Blade: fabric.BladeID(blade), PF: fabric.PFID{PCI: fabric.PCI{Bus: 3}}, Index: index}
}

// content makes a content of rules in one line each and of vNICs.
func content(t *testing.T, blade string, vnics []fabric.Bound, lines ...string) fabric.Content {
	t.Helper()
	c := fabric.Content{Blade: fabric.BladeID(blade), VNICs: vnics, Table: flow.TableSpec{Ports: testPorts}}
	for _, line := range lines {
		r, err := flow.ParseRule(line, testPorts)
		if err != nil {
			t.Fatal(err)
		}
		r.Name, r.Tier = "web/"+r.Name+"@p", flow.TierTenant
		c.Table.Rules = append(c.Table.Rules, r)
	}
	var stations []flow.Station
	for _, v := range vnics {
		stations = append(stations, flow.Station{VLAN: v.Setting.VLAN, MAC: v.Setting.MAC, Port: v.Port})
	}
	var err error
	if c.Table.Switch, err = flow.NewSwitch(1, stations...); err != nil {
		t.Fatal(err)
	}
	c.Digest = c.Sum()
	return c
}

// published returns the record and the shards of a content, as a manager writes them:
// shards of perShard rules, all links allowed.
func published(number uint64, c fabric.Content, perShard int) (*api.Generation, map[[32]byte][]byte) {
	g := &api.Generation{Head: api.NewHead(api.KindGeneration, string(c.Blade)), Spec: api.GenerationSpec{
		Number: number, Digest: c.Digest.String(), Uplink: testPorts.Name(c.Table.Switch.Uplink()), Rules: len(c.Table.Rules)}}
	for _, s := range c.Table.Switch.Stations() {
		g.Spec.Stations = append(g.Spec.Stations, api.Station{VLAN: s.VLAN, MAC: flow.FormatMAC(s.MAC), Port: testPorts.Name(s.Port)})
	}
	for _, v := range c.VNICs {
		s := v.Setting
		g.Spec.VNICs = append(g.Spec.VNICs, api.Order{Profile: v.VNIC.Profile, VNIC: v.VNIC.VNIC, Port: testPorts.Name(v.Port), Connect: true,
			VFID: api.VFID{PCI: v.VF.PF.PCI.String(), Serial: v.VF.PF.Serial, Index: v.VF.Index},
			Setting: api.Setting{MAC: flow.FormatMAC(s.MAC), VLAN: s.VLAN, Guaranteed: uint64(s.QoS.Guaranteed), Maximum: uint64(s.QoS.Maximum),
				Trust: s.Trust, Spoof: s.Spoof}})
	}
	shards := map[[32]byte][]byte{}
	for part := range slices.Chunk(wireRules(c), perShard) {
		value := marshal(api.Shard{Rules: part})
		sum := sha256.Sum256(value)
		shards[sum] = value
		g.Spec.Shards = append(g.Spec.Shards, fmt.Sprintf("%x", sum))
	}
	return g, shards
}

func wireRules(c fabric.Content) (out []api.TableRule) {
	for _, r := range c.Table.Rules {
		out = append(out, api.TableRule{ID: fmt.Sprintf("%016x", uint64(r.ID)), Name: r.Name, Tier: r.Tier.String(), Priority: r.Priority,
			Match: flow.FormatMatch(&r.Match, testPorts), Actions: flow.FormatActions(r.Actions, testPorts)})
	}
	return out
}

// edited makes of g a record that keeps to other shards, which hold base.
func edited(g *api.Generation, shards []string, base []api.TableRule, now []api.TableRule) {
	was := map[string]api.TableRule{}
	for _, r := range base {
		was[r.ID] = r
	}
	g.Spec.Shards, g.Spec.Put, g.Spec.Drop = shards, nil, nil
	for _, r := range now {
		if was[r.ID] != r {
			g.Spec.Put = append(g.Spec.Put, r)
		}
		delete(was, r.ID)
	}
	for id := range was {
		g.Spec.Drop = append(g.Spec.Drop, id)
	}
}

func marshal(v any) []byte {
	out, err := json.Marshal(v)
	if err != nil {
		panic(err) // the wire's types are plain
	}
	return out
}

// write puts a record and shards into a store.
func write(ctx context.Context, s store.Store, blade string, g any, shards map[[32]byte][]byte) error {
	ops := []store.Op{store.Put(store.Generation(blade), marshal(g))}
	for sum, value := range shards {
		ops = append(ops, store.Put(store.Shard(blade, sum), value))
	}
	_, err := s.Txn(ctx, nil, ops)
	return err
}
