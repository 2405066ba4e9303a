package flow_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"hash/crc32"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// sums is a second opinion on checksums: it walks a packet and says where checksums
// are, and what each would be if it were right, computed from nothing. Each is over all
// of the packet it covers, so those of fragments and of packets cut short are not there.
type sums struct {
	header, transport int // 0 is none
	proto             byte
	ip                int
	end               int
	start             int // of the transport
	pseudo            []byte
}

func sumsOf(f []byte) sums {
	var s sums
	be := binary.BigEndian
	if len(f) < 14 {
		return s
	}
	at := 12
	for n := 0; n < 2 && len(f) >= at+6 && (be.Uint16(f[at:]) == 0x8100 || be.Uint16(f[at:]) == 0x88a8); n++ {
		at += 4
	}
	kind, b := be.Uint16(f[at:]), f[at+2:]
	ip := at + 2
	switch {
	case kind == 0x0800 && len(b) >= 20 && b[0]>>4 == 4:
		header, total := int(b[0]&15)*4, int(be.Uint16(b[2:]))
		if header < 20 || header > len(b) || total < header {
			return s
		}
		s.ip, s.header = ip, ip+10
		if be.Uint16(b[6:])&0x3fff != 0 || total > len(b) {
			return s
		}
		s.proto, s.start, s.end = b[9], ip+header, ip+total
		s.pseudo = append(slices.Clone(b[12:20]), 0, s.proto, byte((total-header)>>8), byte(total-header))
	case kind == 0x86dd && len(b) >= 40 && b[0]>>4 == 6:
		s.ip = ip
		end := 40 + int(be.Uint16(b[4:]))
		next, off := b[6], 40
		if end > len(b) || end == 40 && next == 0 {
			return s
		}
		dst := b[24:40]
		fragmented := false
		for n := 0; next == 0 || next == 43 || next == 44 || next == 60 || next == 51; n++ {
			if n == 8 || off+8 > end || next == 44 && fragmented {
				return s
			}
			fragmented = fragmented || next == 44
			size := 8 + 8*int(b[off+1])
			switch {
			case next == 44 && be.Uint16(b[off+2:])&0xfff9 != 0:
				return s
			case next == 44:
				size = 8
			case next == 51:
				size = 8 + 4*int(b[off+1])
			case next == 43 && b[off+3] > 0 && size >= 24 && off+size <= end:
				dst = b[off+size-16 : off+size]
			case next == 43 && b[off+3] > 0:
				return s // a routing header without an address to go to
			}
			if off+size > end {
				return s
			}
			next, off = b[off], off+size
		}
		s.proto, s.start, s.end = next, ip+off, ip+end
		s.pseudo = append(append(slices.Clone(b[8:24]), dst...), 0, 0, byte((end-off)>>8), byte(end-off), 0, 0, 0, next)
	default:
		return s
	}
	at, size := 0, 2
	switch {
	case s.proto == flow.ProtoTCP:
		at = 16
	case s.proto == flow.ProtoUDP:
		at = 6
	case s.proto == flow.ProtoSCTP:
		at, size = 8, 4
	case s.proto == flow.ProtoICMPv6 && kind == 0x86dd:
		at = 2
	default:
		return s
	}
	if s.start+at+size <= s.end {
		s.transport = s.start + at
	}
	return s
}

func fold(parts ...[]byte) uint16 {
	var sum uint64
	for _, p := range parts {
		for i, c := range p {
			sum += uint64(c) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// repair makes all checksums right. A UDP checksum that is 0 stays, unless all is set.
func repair(f []byte, all bool) []byte {
	f = slices.Clone(f)
	s := sumsOf(f)
	be := binary.BigEndian
	if s.header > 0 {
		be.PutUint16(f[s.header:], 0)
		be.PutUint16(f[s.header:], fold(f[s.ip:][:int(f[s.ip]&15)*4]))
	}
	switch {
	case s.transport == 0 || s.proto == flow.ProtoUDP && be.Uint16(f[s.transport:]) == 0 && !all:
	case s.proto == flow.ProtoSCTP:
		be.PutUint32(f[s.transport:], 0)
		binary.LittleEndian.PutUint32(f[s.transport:], crc32.Checksum(f[s.start:s.end], crc32.MakeTable(crc32.Castagnoli)))
	default:
		be.PutUint16(f[s.transport:], 0)
		sum := fold(s.pseudo, f[s.start:s.end])
		if sum == 0 && s.proto == flow.ProtoUDP {
			sum = 0xffff
		}
		be.PutUint16(f[s.transport:], sum)
	}
	return f
}

// setKey is k after settings: what a rule behind would see. It is the meaning of set in
// a line.
func setKey(k flow.Key, settings []flow.Setting) flow.Key {
	for _, s := range settings {
		ip := k.Get(flow.Flags)&flow.FlagIP != 0
		switch v := s.IPVersion(); {
		case v != 0 && (!ip || v != k.Get(flow.EthType)), s.SetsPort() && k.Get(flow.Flags)&flow.FlagL4 == 0,
			(s.Field == flow.TOS || s.Field == flow.TTL) && !ip:
			continue
		}
		k.Set(s.Field, k.Get(s.Field)&^s.Mask|s.Value)
	}
	return k
}

// checkSet checks what a set action does to one frame, and returns the result.
func checkSet(t *testing.T, frame []byte, set flow.Action) []byte {
	t.Helper()
	before := slices.Clone(frame)
	got := flow.Act(flow.Actions{set, {Op: flow.Output, Ports: []flow.Port{2}}}, &flow.Switch{}, 1, frame, 1)
	if len(got) != 1 || len(got[0].Bytes) != len(frame) {
		t.Fatalf("%x: %+v emits %+v", frame, set, got)
	}
	if !bytes.Equal(frame, before) {
		t.Fatalf("%x was changed to %x", before, frame)
	}
	out := got[0].Bytes
	k, err := flow.Parse(frame, 1)
	if err != nil {
		t.Fatal(err)
	}
	after, err := flow.Parse(out, 1)
	if want := setKey(k, set.Settings); err != nil || after != want {
		t.Fatalf("%x: %+v\nmakes %x\nkey  %s\nwant %s %v", frame, set, out, flow.FormatKey(after, nil), flow.FormatKey(want, nil), err)
	}
	return out
}

// TestSetKeepsChecksums sets fields of packets of every kind whose checksums are right,
// and of others. Right ones are right afterwards; wrong ones are wrong by as much; nothing
// else changes.
func TestSetKeepsChecksums(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 41))
	seen := map[byte]int{}
	var l4 flow.Match
	l4.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	for range 60_000 {
		frame := flowtest.Frame(rng)
		if len(frame) < 14 {
			continue
		}
		set := flowtest.Set(rng, &l4)
		k, _ := flow.Parse(frame, 1)
		right := repair(frame, rng.IntN(4) > 0)
		out := checkSet(t, right, set)
		if want := repair(out, false); !bytes.Equal(out, want) {
			t.Fatalf("%s\n%x: %+v\nmakes %x\nwant  %x", flow.FormatKey(k, nil), right, set, out, want)
		}
		s := sumsOf(right)
		if s.transport > 0 && !bytes.Equal(out, right) {
			seen[s.proto]++
		}
		// The same with each checksum off by something.
		wrong := slices.Clone(right)
		for _, at := range []int{s.header, s.transport} {
			if at > 0 && s.proto != flow.ProtoUDP {
				wrong[at] ^= byte(1 + rng.IntN(255))
			}
		}
		off := checkSet(t, wrong, set)
		for _, at := range []int{s.header, s.transport} {
			if at == 0 || s.proto == flow.ProtoUDP {
				continue
			}
			be := binary.BigEndian
			if at == s.transport && s.proto == flow.ProtoSCTP {
				if be.Uint32(off[at:])^be.Uint32(out[at:]) != be.Uint32(wrong[at:])^be.Uint32(right[at:]) {
					t.Fatalf("%x and %x: %+v makes %x and %x", right, wrong, set, out, off)
				}
				continue
			}
			by := func(x, y []byte) uint32 {
				return (uint32(be.Uint16(x[at:])) + 0xffff - uint32(be.Uint16(y[at:]))) % 0xffff
			}
			if by(off, out) != by(wrong, right) {
				t.Fatalf("%x and %x: %+v makes %x and %x", right, wrong, set, out, off)
			}
		}
	}
	for _, proto := range []byte{flow.ProtoTCP, flow.ProtoUDP, flow.ProtoSCTP, flow.ProtoICMPv6} {
		if seen[proto] == 0 {
			t.Errorf("no checksum of protocol %d was looked at", proto)
		}
	}
	t.Log("packets by protocol:", seen)
}

// TestSetCutShort cuts packets at every length: what is in the frame is set, and the
// checksum if it is in the frame moves as that of the whole packet does.
func TestSetCutShort(t *testing.T) {
	set, err := flow.ParseActions("set(src_mac=02:00:00:00:00:07,dst_ip=192.0.2.7,ip_ttl=9,dst_port=7),set(dst_ip=2001:db8::7),drop", nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 42))
	for range 200 {
		whole := repair(flowtest.FrameOf(rng, []flowtest.FrameKind{flowtest.IPv4, flowtest.IPv6}[rng.IntN(2)]), true)
		s := sumsOf(whole)
		both := func(f []byte) []byte { return checkSet(t, checkSet(t, f, set[0]), set[1]) }
		want := both(whole)
		for n := 14; n < len(whole); n++ {
			out, cut := both(whole[:n]), slices.Clone(want[:n])
			if s.proto == flow.ProtoSCTP && s.transport > 0 && n < s.end && n > s.transport { // stays: not all of it is here
				copy(cut[s.transport:], whole[s.transport:min(n, s.transport+4)])
			} else if s.transport > 0 && n == s.transport+1 {
				cut[s.transport] = whole[s.transport] // half of it is
			}
			k, _ := flow.Parse(whole[:n], 1)
			if k.Get(flow.Flags)&flow.FlagIP == 0 { // no whole IP header: only MACs can be set
				cut = append(slices.Clone(want[:12]), whole[12:n]...)
			} else if k.Get(flow.Flags)&flow.FlagL4 == 0 && s.proto != flow.ProtoICMPv6 && s.start > 0 && n > s.start {
				copy(cut[s.start:], whole[s.start:n]) // not all of the ports is here
			}
			if !bytes.Equal(out, cut) {
				t.Fatalf("%x cut to %d bytes:\n got %x\nwant %x", whole, n, out, cut)
			}
		}
	}
}

// TestSetCases is what is easily got wrong, one by one.
func TestSetCases(t *testing.T) {
	check := func(name, actions, frame, want string) {
		t.Helper()
		list, err := flow.ParseActions(actions+",output:#2", nil)
		if err != nil {
			t.Fatal(name, err)
		}
		f, err := hex.DecodeString(frame)
		if err != nil {
			t.Fatal(name, err)
		}
		got := flow.Act(list, &flow.Switch{}, 1, f, 1)
		if len(got) != 1 || hex.EncodeToString(got[0].Bytes) != want {
			t.Errorf("%s: %s on\n     %s\n got %x\nwant %s", name, actions, frame, got[0].Bytes, want)
		}
	}
	const (
		eth  = "020000000003020000000002"
		ip4  = "0800" + "4500001c000000004011" // 28 bytes, UDP
		hdr  = "66cc"                          // the checksum of that from 10.0.0.1 to 10.0.0.2
		from = "0a000001"
		to   = "0a000002"
	)
	udp := func(sum string) string { return "03e80035" + "0008" + sum }
	check("UDP without a checksum", "set(dst_ip=10.0.0.3)", eth+ip4+hdr+from+to+udp("0000"), eth+ip4+"66cb"+from+"0a000003"+udp("0000"))
	check("UDP, a sum that would be 0", "set(dst_port=54)", eth+ip4+hdr+from+to+udp("0001"), eth+ip4+hdr+from+to+"03e80036"+"0008"+"ffff")
	check("the same again changes nothing", "set(dst_port=53,dst_ip=10.0.0.2)", eth+ip4+"ffff"+from+to+udp("ffff"), eth+ip4+"ffff"+from+to+udp("ffff"))
	check("an address of the other version", "set(dst_ip=2001:db8::1)", eth+ip4+hdr+from+to+udp("0001"), eth+ip4+hdr+from+to+udp("0001"))
	check("some bits of tos", "set(ip_tos=0x0c/0x1c)", eth+"0800"+"45e3001c000000004011"+"65e9"+from+to+udp("0000"),
		eth+"0800"+"45ef001c000000004011"+"65dd"+from+to+udp("0000"))
	check("after a tag", "vlan_push:5,set(ip_ttl=63)", eth+ip4+hdr+from+to+udp("0000"), eth+"81000005"+"0800"+"4500001c00000000"+"3f11"+"67cc"+from+to+udp("0000"))
	check("after a tag is off", "vlan_pop,set(ip_ttl=63)", eth+"81000005"+ip4+hdr+from+to+udp("0000"), eth+"0800"+"4500001c00000000"+"3f11"+"67cc"+from+to+udp("0000"))
	check("a MAC of what is no IP", "set(dst_mac=02:00:00:00:00:09,ip_ttl=3)", eth+"0806"+"0001", "020000000009020000000002"+"0806"+"0001")
	check("what rules could not see stays", "vlan_pop,set(ip_ttl=63)", eth+"81000005"+"81000005"+"81000005"+ip4+hdr+from+to+udp("0000"),
		eth+"81000005"+"81000005"+ip4+hdr+from+to+udp("0000"))
	const six = "86dd" + "60000000" + "0020" + "2b40" // a routing header before UDP
	const a, b, c = "20010db8000000000000000000000001", "20010db8000000000000000000000002", "20010db8000000000000000000000003"
	routing := func(left string) string { return "11" + "02" + "00" + left + "00000000" + c }
	check("the last of a routing header counts", "set(dst_ip=2001:db8::9)", eth+six+a+b+routing("01")+udp("1234"),
		eth+six+a+b[:31]+"9"+routing("01")+udp("1234"))
	check("a routing header that is through", "set(dst_ip=2001:db8::9)", eth+six+a+b+routing("00")+udp("1234"),
		eth+six+a+b[:31]+"9"+routing("00")+udp("122d"))
}

// TestSetOnly the fields that a set names change beside checksums.
func TestSetOnly(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 43))
	var l4 flow.Match
	l4.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	for range 20_000 {
		frame := flowtest.Frame(rng)
		k, err := flow.Parse(frame, 1)
		if err != nil {
			continue
		}
		out := checkSet(t, frame, flowtest.Set(rng, &l4))
		h := flow.Locate(&k, frame)
		for i := range frame {
			in := func(at, n int) bool { return at > 0 && i >= at && i < at+n }
			six := k.Get(flow.EthType) == flow.EthIPv6
			may := i < 12 || in(h.IP, 2) || in(h.Ports, 4) || in(h.Sum, 2) || in(h.CRC, 4) ||
				six && (in(h.IP+7, 1) || in(h.IP+8, 32)) || !six && (in(h.IP+8, 1) || in(h.IP+10, 10))
			if frame[i] != out[i] && !(may && (i < 12 || h.IP > 0)) {
				t.Fatalf("%x: byte %d of %x has changed", frame, i, out)
			}
		}
	}
}

// FuzzSet: whatever the frame and the settings, what comes out is as long, has the key
// that the settings say, and is right where it was right.
func FuzzSet(f *testing.F) {
	var l4 flow.Match
	l4.Pin(flow.Flags, flow.FlagL4, flow.FlagL4)
	rng := rand.New(rand.NewPCG(1, 44))
	for kind := range flowtest.NumFrameKinds {
		f.Add(flowtest.FrameOf(rng, kind), uint64(kind))
	}
	f.Fuzz(func(t *testing.T, frame []byte, choice uint64) {
		if len(frame) < 14 {
			return
		}
		set := flowtest.Set(rand.New(rand.NewPCG(choice, 45)), &l4)
		right := repair(frame, choice%2 == 0)
		out := checkSet(t, right, set)
		if want := repair(out, false); !bytes.Equal(out, want) {
			t.Fatalf("%x: %+v\nmakes %x\nwant  %x", right, set, out, want)
		}
	})
}
