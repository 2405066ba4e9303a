package flowtest_test

import (
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestFrames parses frames of every kind: keys are possible, kinds are what they are
// called, and between them everything the parser can find out occurs.
func TestFrames(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	flags := map[uint64]int{}
	tags := map[int]int{}
	for range 20_000 {
		for kind := range flowtest.NumFrameKinds {
			f := flowtest.FrameOf(rng, kind)
			k, err := flow.Parse(f, 2)
			if err != nil {
				if kind != flowtest.Truncated && kind != flowtest.Hostile {
					t.Fatalf("%s frame %x: %v", kind, f, err)
				}
				continue
			}
			if !flow.Possible(&k) {
				t.Fatalf("%s frame %x has the impossible key %x", kind, f, k)
			}
			got := k.Get(flow.Flags)
			flags[got]++
			three := k.Get(flow.EthType) == flow.EthVLAN || k.Get(flow.EthType) == flow.EthQinQ
			if isIP := kind == flowtest.IPv4 || kind == flowtest.IPv6; isIP && !three && got&^flow.FlagL4 != flow.FlagIP {
				t.Fatalf("%s frame %x has flags %x", kind, f, got)
			}
			n := int(k.Get(flow.VLAN)>>12&1 + k.Get(flow.CVLAN)>>12&1)
			if three {
				n++
			}
			tags[n]++
		}
	}
	const ip, l4, first, later, odd = flow.FlagIP, flow.FlagL4, flow.FlagFragFirst, flow.FlagFragLater, flow.FlagOdd
	for _, want := range []uint64{0, odd, ip, ip | l4, ip | odd, ip | l4 | odd, ip | l4 | first, ip | first, ip | later, ip | later | odd, ip | l4 | first | odd} {
		if flags[want] == 0 {
			t.Errorf("no frame has flags %05b", want)
		}
	}
	for n := range 4 {
		if tags[n] == 0 {
			t.Errorf("no frame has %d tags", n)
		}
	}
}
