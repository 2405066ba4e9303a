package tcflower

import (
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/flow"
)

// values are a few values of each field, so that rules and packets meet often.
var values = map[flow.Field][]uint64{
	flow.InPort: {1, 2, 3}, flow.SrcMAC: {2, 0x020000000001}, flow.DstMAC: {4, 0x020000000002},
	flow.EthType: {flow.EthIPv4, flow.EthIPv6, flow.EthARP, 0x88cc},
	flow.VLAN:    {0, flow.TagPresent | 5, flow.TagPresent | 3<<13 | 5}, flow.CVLAN: {0, flow.TagPresent | 6},
	flow.SrcLo: {0, 0x0a000001, 0x0a000102}, flow.DstLo: {0, 0x0a000001, 0xc0000201}, flow.SrcHi: {0, 0x20010db8 << 32}, flow.DstHi: {0, 0x20010db8 << 32},
	flow.Proto: {flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP, flow.ProtoICMP, flow.ProtoICMPv6, 47}, flow.TOS: {0, 0x10}, flow.TTL: {1, 64},
	flow.SrcPort: {0, 8, 80}, flow.DstPort: {0, 80, 443}, flow.TCPFlags: {0, 2, 0x12},
	flow.Flags: {flow.FlagIP, flow.FlagIP | flow.FlagL4, 0},
}

// someMatch draws a match that may have any of the contract's fields.
func someMatch(rng *rand.Rand) flow.Match {
	var m flow.Match
	pick := func(f flow.Field) uint64 { return values[f][rng.IntN(len(values[f]))] }
	for f := range flow.NumFields {
		if values[f] == nil || rng.IntN(4) > 0 {
			continue
		}
		mask := f.Max()
		switch {
		case f == flow.Flags:
			mask = []uint64{flow.FlagIP, flow.FlagIP | flow.FlagL4, flow.FlagL4}[rng.IntN(3)]
		case f == flow.VLAN || f == flow.CVLAN:
			mask = []uint64{flow.TagPresent, flow.TagPresent | flow.TagID, mask}[rng.IntN(3)]
		case f == flow.SrcPort || f == flow.DstPort:
			lo := uint16(pick(f))
			m.SetPorts(f, lo, lo+uint16([]int{0, 0, 363, 7}[rng.IntN(4)]))
			continue
		case f == flow.SrcMAC || f == flow.TOS || f == flow.TCPFlags || f >= flow.SrcHi && f <= flow.DstLo:
			mask &= []uint64{^uint64(0), ^uint64(0xff), 0xff, 0xffffffff}[rng.IntN(4)]
		}
		m.Pin(f, pick(f), mask)
	}
	if rng.IntN(3) > 0 && m.Mask.Get(flow.EthType) == 0 {
		m.Pin(flow.EthType, pick(flow.EthType), flow.EthType.Max())
	}
	return m
}

// somePacket draws the key of a packet, near m if it can be.
func somePacket(rng *rand.Rand, m *flow.Match) (flow.Key, bool) {
	var near flow.Match
	for f := range flow.NumFields {
		if values[f] != nil && f != flow.Flags && rng.IntN(2) == 0 {
			near.Pin(f, values[f][rng.IntN(len(values[f]))], f.Max())
		}
	}
	whole := plain(flow.Match{})
	if rng.IntN(3) > 0 {
		if k, ok := flow.Shared(m, &near, &whole); ok {
			return k, true
		}
		if k, ok := flow.Shared(m, &whole); ok && rng.IntN(2) == 0 {
			return k, true
		}
	}
	return flow.Shared(&near, &whole)
}

// TestMeaning draws entries and packets that are no fragments and not odd: the filters
// of an answer together match exactly the packets of the entry, those of a guard at
// least these; and the entry is read back from them.
func TestMeaning(t *testing.T) {
	s := site{ports: ports}
	said, refused, met := 0, 0, 0
	rapid.Check(t, func(t *rapid.T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for range 50 {
			e := flow.Entry{ID: 0xb1ad<<48 | 7, Rule: 9, Kind: flow.EntryKind(rng.IntN(3)), Priority: rng.Uint64(), Match: someMatch(rng)}
			if e.Match.Valid() != nil {
				continue
			}
			if e.Kind != flow.GuardEntry {
				e.Actions = someActions(rng)
			}
			fs, why := s.encode(&e)
			if why != nil {
				refused++
				continue
			}
			said++
			var set []*placed
			for i := range fs {
				f := fs[i]
				f.Priority, f.Handle, f.Flags = 7, uint32(i+1), f.Flags|InHW
				f.Keys = f.told()
				set = append(set, &f)
			}
			rng.Shuffle(len(set), func(i, j int) { set[i], set[j] = set[j], set[i] })
			if got := s.assemble(set); !got.Equal(&e) {
				t.Fatalf("read back other than put in:\n have %+v\n want %+v\n %+v", got, e, fs)
			}
			if len(set) > 1 {
				if got := s.assemble(set[1:]); got.Equal(&e) {
					t.Fatalf("a part of the filters is read as the whole: %+v", e)
				}
			}
			for range 20 {
				k, ok := somePacket(rng, &e.Match)
				if !ok {
					continue
				}
				k.Set(flow.InPort, uint64(1+rng.IntN(3)))
				want := e.Match.Matches(&k)
				got := slices.ContainsFunc(fs, func(f placed) bool {
					m, _, err := hear(&f.Filter)
					if err != nil {
						t.Fatal(err)
					}
					p, _ := s.port(f.Device)
					m.Pin(flow.InPort, uint64(p), flow.InPort.Max())
					return m.Matches(&k)
				})
				if want {
					met++
				}
				if want != got && (e.Kind != flow.GuardEntry || want) {
					t.Fatalf("%s entry %+v\npacket %+v: the entry says %v, the filters %v: %+v", e.Kind, e.Match, k, want, got, fs)
				}
			}
		}
	})
	t.Logf("%d entries have filters, %d have none, %d packets met one", said, refused, met)
	if said < 100 || met < 100 {
		t.Error("hardly anything was tried")
	}
}

func someActions(rng *rand.Rand) flow.Actions {
	steps := []flow.Action{{Op: flow.Mirror, Ports: []flow.Port{2}}, {Op: flow.Mirror, Ports: []flow.Port{1, 3}}, {Op: flow.VLANPop},
		{Op: flow.VLANSet, Tag: 9}, {Op: flow.VLANPush, Tag: 5<<13 | 7, Proto: flow.EthVLAN}, {Op: flow.VLANPush, Tag: 7, Proto: flow.EthQinQ}}
	ends := []flow.Action{{Op: flow.Drop}, {Op: flow.Output, Ports: []flow.Port{1}}, {Op: flow.Output, Ports: []flow.Port{3, 2, 1}}}
	for range 6 {
		steps = append(steps, flow.Action{Op: flow.Set, Settings: someSettings(rng)})
	}
	for _, rate := range []uint64{8, 64_000, 1e9, 100e9} {
		steps = append(steps, flow.Action{Op: flow.Police, Rate: rate, Burst: uint32(1 + rng.IntN(1<<20)*int(min(rate/64_000, 1)))})
	}
	var out flow.Actions
	for range rng.IntN(3) {
		out = append(out, steps[rng.IntN(len(steps))])
	}
	return append(out, ends[rng.IntN(len(ends))])
}

// TestNumbers gives numbers to labels that come in any order, in one go and one by one:
// those that got one are in the order of their priorities.
func TestNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNumbers()
		for p := range rapid.SliceOfN(rapid.Uint16Range(1, 65535), 0, 20).Draw(t, "others") {
			n.others[uint16(p+1)] = true
		}
		all, without := 0, 0
		for range rapid.IntRange(1, 8).Draw(t, "rounds") {
			var want []label
			for _, p := range rapid.SliceOfNDistinct(rapid.Uint64(), 1, 200, func(p uint64) uint64 { return p }).Draw(t, "priorities") {
				want = append(want, label{priority: p}, label{priority: p, protocol: 5})
			}
			n.assign(want)
			for _, l := range want {
				if all++; n.of[l] == 0 {
					without++
				}
			}
		}
		var last *label
		for p := 1; p < 1<<16; p++ {
			l, ok := n.at[uint16(p)]
			if !ok {
				continue
			}
			if n.others[uint16(p)] {
				t.Fatalf("%d is another's", p)
			}
			if last != nil && last.priority < l.priority {
				t.Fatalf("%s comes behind %s", &l, last)
			}
			last = &l
		}
		if without > all/4 {
			t.Errorf("%d of %d labels have no number", without, all)
		}
	})
}
