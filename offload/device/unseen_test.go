package device

import (
	"math/bits"
	"math/rand/v2"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// TestUnseen checks that entries which would not mean to a card what they say are not
// taken, with the words of the refusal.
func TestUnseen(t *testing.T) {
	check := func(model, text, code string) {
		t.Helper()
		m, err := Load(model)
		if err != nil {
			t.Fatal(err)
		}
		match, err := flow.ParseMatch(text, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = m.admitMatch(&match)
		if r, refused := err.(*Refusal); code == "" && err != nil || code != "" && (!refused || r.Code != code || r.Fix == "") {
			t.Errorf("%s, %s: %v, want %q", model, text, err, code)
		}
	}
	check("ice", "vlan_id=5,dst_ip=10.0.0.0/8", "")
	check("ice", "dst_ip=10.0.0.0/8", "")
	check("ice", "vlan_id=none", "E_FIELD_UNSUPPORTED")
	check("ice", "vlan_id=5,cvlan_id=none", "E_FIELD_UNSUPPORTED")
	check("ice", "dst_ip=0.0.0.0/1", "E_MASK_UNSUPPORTED")
	check("ice", "src_ip=10.0.0.0/8,dst_ip=0.0.0.0/8", "E_MASK_UNSUPPORTED")
	check("ice", "dst_mac=00:00:00:00:00:00/01:00:00:00:00:00", "E_MASK_UNSUPPORTED")
	check("ice", "ip_proto=tcp,dst_port=0-1023", "E_MASK_UNSUPPORTED")
	check("ice", "ip_proto=tcp,dst_port=1024-2047", "")
	check("ice", "ip_proto=tcp", "E_FIELD_NEEDED")
	check("ice", "vlan_prio=0", "")
	check("ice", "eth_type=arp", "")
	check("bnxt", "vlan_id=none,dst_ip=10.0.0.0/8", "")
	check("bnxt", "dst_ip=10.0.0.0/8", "E_FIELD_NEEDED")
	check("bnxt", "vlan_id=none,dst_ip=10.0.0.1/255.0.0.255", "E_MASK_UNSUPPORTED")
	check("bnxt", "vlan_id=none,dst_ip=0.0.0.0/8", "")
	check("bnxt", "vlan_id=none,eth_type=arp,src_mac=00:00:00:00:00:00", "E_MASK_UNSUPPORTED")
	check("bnxt", "vlan_id=0,eth_type=arp", "E_MASK_UNSUPPORTED")
	check("bnxt", "vlan_id=none,eth_type=ipv4,ip_proto=0", "E_MASK_UNSUPPORTED")
	check("nfp", "dst_ip=0.0.0.0/8", "")
	check("nfp", "vlan_id=none,dst_ip=10.0.0.0/8", "E_FIELD_UNSUPPORTED")
	check("nfp", "vlan_id=0", "E_MASK_UNSUPPORTED")
	check("nfp", "dst_mac=02:00:00:00:00:01", "")
	check("nfp", "eth_type=0x88cc", "E_FIELD_UNSUPPORTED")
	check("nfp", "ip_proto=tcp,tcp_flags=+syn-ack", "E_FIELD_UNSUPPORTED")
	check("mlx5", "dst_ip=10.0.0.0/8", "E_FIELD_NEEDED")
	check("mlx5", "vlan_id=none,dst_ip=0.0.0.0/1", "")
	check("mlx5", "vlan_id=5", "")
	check("mlx5", "vlan_id=5,cvlan_id=none", "E_FIELD_UNSUPPORTED")
	check("mlx5", "vlan_id=none,ip_proto=sctp,dst_port=5", "E_PROTOCOL_NEEDED")
}

// without reports whether m says that a tag is not there.
func without(m *flow.Match, tag flow.Field) bool {
	return m.Mask.Get(tag)&flow.TagPresent != 0 && m.Value.Get(tag)&flow.TagPresent == 0
}

// reaches is what a card matches of an entry, as its driver's source has it.
var reaches = map[string]func(n *flow.Match, k *flow.Key) bool{
	// What is wanted to be zero is not looked at, nor a protocol without a port, nor
	// whether a tag is missing.
	"ice": func(n *flow.Match, k *flow.Key) bool {
		w := *n
		free := func(f flow.Field, mask uint64) {
			w.Mask.Set(f, w.Mask.Get(f)&^mask)
			w.Value.Set(f, w.Value.Get(f)&^mask)
		}
		for _, f := range []flow.Field{flow.VLAN, flow.CVLAN} {
			if without(&w, f) || nameless(&w, f) {
				free(f, f.Max())
			}
		}
		for _, f := range []flow.Field{flow.SrcMAC, flow.DstMAC, flow.SrcLo, flow.DstLo, flow.SrcPort, flow.DstPort} {
			upper := map[flow.Field]flow.Field{flow.SrcLo: flow.SrcHi, flow.DstLo: flow.DstHi}[f] // IPv6 is looked at
			if w.Value.Get(f) == 0 && (upper == 0 || w.Mask.Get(upper) == 0) {
				free(f, f.Max())
			}
		}
		if w.SrcPort.Lo == 0 {
			w.SrcPort = flow.PortRange{}
		}
		if w.DstPort.Lo == 0 {
			w.DstPort = flow.PortRange{}
		}
		if w.Mask.Get(flow.SrcPort)|w.Mask.Get(flow.DstPort) == 0 && w.SrcPort.Any() && w.DstPort.Any() {
			free(flow.Proto, flow.Proto.Max())
			free(flow.Flags, flow.FlagL4)
		}
		return w.Matches(k)
	},
	// A frame type that is not IP is not looked at, nor whether a tag is missing; in older
	// kernels nor one of zeros, and of what TCP flags have to be clear only some are.
	"nfp": func(n *flow.Match, k *flow.Key) bool {
		w := *n
		if t := w.Value.Get(flow.EthType); t != flow.EthIPv4 && t != flow.EthIPv6 {
			w.Mask.Set(flow.EthType, 0)
			w.Value.Set(flow.EthType, 0)
		}
		for _, f := range []flow.Field{flow.VLAN, flow.CVLAN} {
			if without(&w, f) || w.Value.Get(f)&(flow.TagID|flow.TagPrio) == 0 && !nameless(&w, f) {
				w.Mask.Set(f, 0)
				w.Value.Set(f, 0)
			}
		}
		const ack = 1 << 4
		if w.Value.Get(flow.TCPFlags)&ack == 0 {
			w.Mask.Set(flow.TCPFlags, w.Mask.Get(flow.TCPFlags)&^ack)
		}
		return w.Matches(k)
	},
	// Nothing said of tags is no tag. Zeros are not looked at where there is no mask, and of
	// an address as many leading bits as a mask seems to have.
	"bnxt": func(n *flow.Match, k *flow.Key) bool {
		w := *n
		if w.Mask.Get(flow.VLAN)&flow.TagPresent == 0 {
			w.Pin(flow.VLAN, 0, flow.TagPresent)
		}
		for _, f := range []flow.Field{flow.SrcMAC, flow.DstMAC, flow.Proto} {
			if w.Value.Get(f) == 0 {
				w.Mask.Set(f, 0)
			}
		}
		if w.Value.Get(flow.VLAN)&flow.TagID == 0 {
			w.Mask.Set(flow.VLAN, w.Mask.Get(flow.VLAN)&^flow.TagID)
		}
		for lo, hi := range map[flow.Field]flow.Field{flow.SrcLo: flow.SrcHi, flow.DstLo: flow.DstHi} {
			if w.Value.Get(flow.EthType) == flow.EthIPv4 {
				mask := uint32(w.Mask.Get(lo))
				w.Mask.Set(lo, uint64(^uint32(0)<<bits.TrailingZeros32(mask)))
				continue
			}
			length := 0
			for _, word := range []uint32{uint32(w.Mask.Get(hi) >> 32), uint32(w.Mask.Get(hi)), uint32(w.Mask.Get(lo) >> 32), uint32(w.Mask.Get(lo))} {
				length += 32 - bits.TrailingZeros32(word)
			}
			w.Mask.Set(hi, ^(^uint64(0) >> min(length, 64)))
			w.Mask.Set(lo, ^(^uint64(0) >> max(0, length-64)))
			w.Value.Set(hi, w.Value.Get(hi)&w.Mask.Get(hi))
			w.Value.Set(lo, w.Value.Get(lo)&w.Mask.Get(lo))
		}
		return w.Matches(k)
	},
	// Nothing said of tags is no tag; a tag without a second leaves that one open.
	"mlx5": func(n *flow.Match, k *flow.Key) bool {
		w := *n
		if w.Mask.Get(flow.VLAN)&flow.TagPresent == 0 {
			w.Pin(flow.VLAN, 0, flow.TagPresent)
		}
		if !without(&w, flow.VLAN) && without(&w, flow.CVLAN) {
			w.Mask.Set(flow.CVLAN, 0)
			w.Value.Set(flow.CVLAN, 0)
		}
		return w.Matches(k)
	},
}

// TestReaches plays what drivers make of an entry, over all packets of small
// universes: whatever their models take is answered as it is written, also when it was
// narrowed or split for the card.
func TestReaches(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	for name, reaches := range reaches {
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		taken := 0
		agree := func(n *flow.Match, u *flowtest.Universe) {
			t.Helper()
			taken++
			for i := range u.Keys {
				if k := &u.Keys[i]; n.Matches(k) != reaches(n, k) {
					t.Fatalf("%s takes %+v, which as written matches %v: %t", name, n, k, n.Matches(k))
				}
			}
		}
		us := flowtest.Universes()
		for range 4000 {
			u := us[rng.IntN(len(us))]
			match := u.Match(rng)
			parts := m.Split(&match)
			for i := range parts {
				if m.admitMatch(&parts[i]) == nil {
					agree(&parts[i], u)
				}
			}
			k := u.Keys[rng.IntN(len(u.Keys))]
			if n, ok := m.Narrow(&match, &k); ok && match.Matches(&k) {
				if !n.Matches(&k) || !match.Covers(&n) {
					t.Fatalf("%s: %+v around %v is narrowed to %+v", name, match, k, n)
				}
				agree(&n, u)
			}
			if len(parts) > 2 && m.Tags == TagsSaid && match.SrcPort.Any() && match.DstPort.Any() {
				t.Fatalf("%s: %+v is split in %d", name, match, len(parts))
			}
		}
		if taken < 100 {
			t.Errorf("%s took %d", name, taken)
		}
	}
}
