package hwtests

import (
	"context"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/flow"
)

// What scenarios want of their fabric: a chassis, one network, and a workload that gets
// web packets.

// goal is how long a profile's creation, move and revert may take, from command to
// proved generation.
const goal = 2 * time.Second

// webMAC is where the web profile's vNIC is reached.
const webMAC = 0x02_00_00_00_aa_01

// webProfile is a workload that answers web packets.
func webProfile() api.Profile {
	return api.Profile{Head: api.NewHead(api.KindProfile, "web"), Spec: api.ProfileSpec{RuleSets: []string{"web"},
		VNICs: []api.VNICSpec{{Name: "eth0", MAC: flow.FormatMAC(webMAC), Network: "front"}}}}
}

// webRules lets packets to one UDP port through.
func webRules(port int) api.RuleSet {
	return api.RuleSet{Head: api.NewHead(api.KindRuleSet, "web"), Spec: api.RuleSetSpec{Tier: "tenant", Default: "drop", Rules: []api.Rule{
		{Name: "web", Priority: 10, Match: map[string]any{"ip_proto": "udp", "dst_port": port}, Actions: []any{"normal"}}}}}
}

// describe describes the chassis, and a network and rules for the web profile.
func (f *Fabric) describe(ctx context.Context) error {
	objects := []any{
		api.Chassis{Head: api.NewHead(api.KindChassis, "c1"), Spec: api.ChassisSpec{Slots: len(f.Blades)}},
		api.Network{Head: api.NewHead(api.KindNetwork, "front")},
		webRules(80),
	}
	for _, b := range f.Blades {
		objects = append(objects, api.Blade{Head: api.NewHead(api.KindBlade, b.Name), Spec: api.BladeSpec{Chassis: "c1", Slot: b.Number}})
	}
	return f.Apply(ctx, objects...)
}

// other is the other one of two blades.
func other(blade string) string { return map[string]string{"b1": "b2", "b2": "b1"}[blade] }
