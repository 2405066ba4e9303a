package tcflower

import (
	"context"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/device"
)

// TestProbe asks cards that take less than their model says: what they surely refuse is no
// longer in the model, what they refuse for another reason is, and nothing is left in them.
func TestProbe(t *testing.T) {
	key := func(f *Filter, id KeyID) (mask byte, there bool) {
		k, there := f.Key(id)
		if there {
			mask = k.Mask[len(k.Mask)-1]
		}
		return mask, there
	}
	for _, c := range []struct {
		what    string
		refuses func(f *Filter) (unix.Errno, string)
		size    int
		changes func(m *device.Model)
		refused []string // claims
		unsure  int
	}{
		{what: "all that is claimed", changes: func(*device.Model) {}},
		{what: "no TOS", refuses: func(f *Filter) (unix.Errno, string) {
			if _, there := key(f, KeyTOS); there {
				return unix.EOPNOTSUPP, ""
			}
			return 0, ""
		}, changes: func(m *device.Model) { m.Fields[device.TOS] = device.No }, refused: []string{"ip_tos: any", "ip_tos: prefix", "ip_tos: exact"}},
		{what: "whole MACs only", refuses: func(f *Filter) (unix.Errno, string) {
			if mask, there := key(f, KeyDstMAC); there && mask != 0xff {
				return unix.EINVAL, "card: partial MAC"
			}
			return 0, ""
		}, changes: func(m *device.Model) { m.Fields[device.DstMAC] = device.Exact }, refused: []string{"dst_mac: any", "dst_mac: prefix"}},
		{what: "no VLAN actions, no mirrors", refuses: func(f *Filter) (unix.Errno, string) {
			for _, a := range f.Actions {
				if a.Kind == "vlan" || a.Kind == "mirred" && a.Mirred.How == Mirror {
					return unix.EOPNOTSUPP, "card: unsupported action"
				}
			}
			return 0, ""
		}, changes: func(m *device.Model) { m.Actions = []flow.Op{flow.Drop, flow.Output} }, refused: []string{"mirror", "vlan_push", "vlan_pop"}},
		{what: "a fault at TTL", refuses: func(f *Filter) (unix.Errno, string) {
			if _, there := key(f, KeyTTL); there {
				return unix.EIO, "card: firmware failure"
			}
			return 0, ""
		}, changes: func(*device.Model) {}, unsure: 1},
		{what: "a table for three", size: 3, changes: func(*device.Model) {}, unsure: -1},
	} {
		k := &fake{refuses: c.refuses, size: c.size}
		d := on(t, k, "tcamsim", false)
		want, _ := d.Model(context.Background())
		want.Actions = slices.Clone(want.Actions)
		c.changes(&want)
		answers, err := d.Probe(t.Context())
		if err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		var refused []string
		unsure := 0
		for _, a := range answers {
			switch {
			case !a.Taken && a.Sure:
				refused = append(refused, a.Claim)
			case !a.Taken:
				unsure++
			}
		}
		have, _ := d.Model(t.Context())
		if have.Fields != want.Fields || !slices.Equal(have.Actions, want.Actions) || have.Punt != want.Punt || !slices.Equal(refused, c.refused) || c.unsure >= 0 && unsure != c.unsure {
			t.Errorf("%s: refused %q, %d unsure; fields %v, want %v; actions %v, want %v", c.what, refused, unsure, have.Fields, want.Fields, have.Actions, want.Actions)
		}
		if len(k.filters) > 0 {
			t.Errorf("%s: left are %v", c.what, k.filters)
		}
		if have.Evidence["fields"].Tier != device.Learned {
			t.Errorf("%s: %+v", c.what, have.Evidence["fields"])
		}
	}
}
