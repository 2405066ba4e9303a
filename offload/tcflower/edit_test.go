package tcflower

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload/device"
)

// someSettings draws what a set action may set.
func someSettings(rng *rand.Rand) []flow.Setting {
	all := []flow.Setting{{Field: flow.SrcMAC, Mask: flow.SrcMAC.Max()}, {Field: flow.DstMAC, Mask: flow.DstMAC.Max()}}
	lo := uint64(1<<32 - 1)
	if rng.IntN(2) == 0 {
		lo = ^uint64(0)
	}
	for _, f := range []flow.Field{flow.SrcLo, flow.DstLo} {
		if lo == ^uint64(0) {
			all = append(all, flow.Setting{Field: f - 1, Mask: ^uint64(0)})
		}
		all = append(all, flow.Setting{Field: f, Mask: lo})
	}
	all = append(all, flow.Setting{Field: flow.TOS, Mask: []uint64{0xff, 0xfc, 0x03, 0x18}[rng.IntN(4)]}, flow.Setting{Field: flow.TTL, Mask: flow.TTL.Max()},
		flow.Setting{Field: flow.SrcPort, Mask: flow.SrcPort.Max()}, flow.Setting{Field: flow.DstPort, Mask: flow.DstPort.Max()})
	var out []flow.Setting
	for i := 0; i < len(all); i++ {
		upper := all[i].Field == flow.SrcHi || all[i].Field == flow.DstHi
		if rng.IntN(4) == 0 {
			out = append(out, all[i])
			if upper {
				out = append(out, all[i+1])
			}
		}
		if upper {
			i++
		}
	}
	if len(out) == 0 {
		out = append(out, all[0])
	}
	for i := range out {
		out[i].Value = rng.Uint64() & out[i].Mask
	}
	slices.SortFunc(out, func(a, b flow.Setting) int { return int(a.Field) - int(b.Field) })
	return out
}

// edited is a frame as pedit leaves it.
func edited(frame []byte, h flow.Headers, edits []Edit) []byte {
	out := slices.Clone(frame)
	for _, e := range edits {
		at := map[uint16]int{HeaderEth: 0, HeaderIPv4: h.IP, HeaderIPv6: h.IP, HeaderTCP: h.Ports, HeaderUDP: h.Ports}[e.Header] + int(e.Offset)
		for k := range e.Mask {
			out[at+k] = out[at+k]&e.Mask[k] | e.Value[k]
		}
	}
	return out
}

// withoutSums is a frame with zeros where its checksums are.
func withoutSums(frame []byte, h flow.Headers) []byte {
	out := slices.Clone(frame)
	if out[h.IP]>>4 == 4 {
		copy(out[h.IP+10:], []byte{0, 0})
	}
	if h.Sum > 0 {
		copy(out[h.Sum:], []byte{0, 0})
	}
	return out
}

// TestSet writes settings for packets of every kind that has them and reads them back: nothing
// is lost or added, and what the edits do to a frame is what [flow.Put] does, but for checksums,
// which the csum action names exactly where they change.
func TestSet(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	said := 0
	for range 20_000 {
		var m flow.Match
		var k flow.Key
		v6 := rng.IntN(2) == 0
		k.Set(flow.EthType, flow.EthIPv4)
		if v6 {
			k.Set(flow.EthType, flow.EthIPv6)
			k.Set(flow.SrcHi, rng.Uint64())
			k.Set(flow.DstHi, rng.Uint64())
		}
		k.Set(flow.SrcLo, rng.Uint64()>>32)
		k.Set(flow.DstLo, rng.Uint64()>>32)
		k.Set(flow.Proto, []uint64{flow.ProtoTCP, flow.ProtoUDP}[rng.IntN(2)])
		k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
		k.Set(flow.TTL, 64)
		k.Set(flow.TOS, rng.Uint64N(256))
		k.Set(flow.SrcPort, rng.Uint64N(1<<16))
		if rng.IntN(2) == 0 {
			k.Set(flow.VLAN, flow.TagPresent|5)
		}
		for _, f := range []flow.Field{flow.EthType, flow.Proto} {
			if rng.IntN(5) > 0 {
				m.Pin(f, k.Get(f), f.Max())
			}
		}
		m.Pin(flow.VLAN, k.Get(flow.VLAN), flow.TagPresent|flow.TagID)
		m.Pin(flow.Flags, flow.FlagIP|flow.FlagL4, flow.FlagIP|flow.FlagL4)
		a := flow.Action{Op: flow.Set, Settings: someSettings(rng)}
		if (flow.Actions{a, {Op: flow.Drop}}).Valid() != nil {
			t.Fatalf("not valid: %+v", a)
		}
		steps, why := setActions(&a, &m, device.StackOf(&m))
		if why != nil {
			continue
		}
		said++
		back, err := readSet(&steps[0])
		if err != nil || !back.Equal(a) {
			t.Fatalf("%+v is read back as %+v, %v", a, back, err)
		}
		frame, err := flow.Frame(k, make([]byte, 20))
		if err != nil {
			t.Fatal(err)
		}
		h := flow.Locate(&k, frame)
		want := slices.Clone(frame)
		flow.Put(want, h, a.Settings)
		if got := edited(frame, h, steps[0].Edits); !bytes.Equal(withoutSums(got, h), withoutSums(want, h)) {
			t.Fatalf("%+v of %x is %x, want %x", a, frame, got, want)
		}
		sums := uint32(0)
		if len(steps) > 1 {
			sums = steps[1].Csum
		}
		if changed := !v6 && !bytes.Equal(want[h.IP+10:h.IP+12], frame[h.IP+10:h.IP+12]); changed && sums&CsumIPv4 == 0 {
			t.Fatalf("%+v changes the checksum of IP, and csum is %#x", a, sums)
		}
		l4 := map[uint64]uint32{flow.ProtoTCP: CsumTCP, flow.ProtoUDP: CsumUDP}[k.Get(flow.Proto)]
		if changed := !bytes.Equal(want[h.Sum:h.Sum+2], frame[h.Sum:h.Sum+2]); changed && sums&l4 == 0 {
			t.Fatalf("%+v changes the checksum of protocol %d, and csum is %#x", a, k.Get(flow.Proto), sums)
		}
	}
	if t.Logf("%d of 20000 were said", said); said < 2000 {
		t.Error("hardly anything was said")
	}
}

// TestPolice writes rates and bursts and reads them back, exactly or not at all.
func TestPolice(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 0))
	for range 20_000 {
		a := flow.Action{Op: flow.Police, Rate: 1 + rng.Uint64N(flow.MaxRate>>rng.IntN(48)), Burst: 1 + rng.Uint32N(flow.MaxBurst>>rng.IntN(30))}
		step, why := policeAction(&a)
		if why != nil {
			if a.Rate%8 == 0 && float64(a.Burst)*8/float64(a.Rate) < 200 {
				t.Fatalf("%+v: %v", a, why)
			}
			continue
		}
		next := Action{Cookie: be.AppendUint32([]byte{nextAction}, a.Burst)}
		if back, err := readPolice(&step, &next); err != nil || !back.Equal(a) {
			t.Fatalf("%+v is read back as %+v, %v", a, back, err)
		}
		if took := float64(step.Police.Burst) / ticksPerSecond * float64(step.Police.Rate); took < float64(a.Burst)-1 || took > float64(a.Burst)+float64(step.Police.Rate)/ticksPerSecond+1 {
			t.Fatalf("%+v: the burst is %v bytes in ticks", a, took)
		}
	}
	if _, err := readPolice(&Action{Kind: "police"}, nil); err == nil {
		t.Error("a police action of somebody else's is read")
	}
}
