package xdp

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// loaded is the cache's objects, and its memory.
func loaded(t testing.TB) (*CacheObjects, *Memory) {
	t.Helper()
	must.Have(t, "xdp", rlimit.RemoveMemlock())
	o := &CacheObjects{}
	must.Have(t, "xdp", LoadCacheObjects(o, nil))
	t.Cleanup(func() { o.Close() })
	m, err := Map(o.Control, o.Sets, o.Book, o.Ports, o.Devices)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Unmap(); err != nil {
			t.Error(err)
		}
	})
	return o, m
}

// TestMemory writes at both ends of the memory and reads them back by system calls: Go
// and the kernel must agree on every offset.
func TestMemory(t *testing.T) {
	o, m := loaded(t)
	if size := binary.Size(CacheEntry{}); size != 128 {
		t.Errorf("an entry of %d bytes is not two cache lines", size)
	}
	m.State.Epoch, m.State.Transfer.Bytes = 3, 5
	var s CacheState
	if err := o.Control.Lookup(uint32(0), &s); err != nil || s != *m.State {
		t.Errorf("the kernel reads %+v, %v", s, err)
	}
	last := uint32(len(m.Sets) - 1)
	m.Sets[last].Way[3].Line = 7
	var set CacheSet
	if err := o.Sets.Lookup(last, &set); err != nil || set != m.Sets[last] {
		t.Errorf("the kernel reads %+v, %v", set, err)
	}
	p := CachePort{Ifindex: 1, Unsent: 2}
	if err := o.Ports.Put(uint32(len(m.Ports)-1), p); err != nil || m.Ports[len(m.Ports)-1] != p {
		t.Errorf("a port reads as %+v, %v", m.Ports[len(m.Ports)-1], err)
	}
	if _, err := Map(o.Sets, o.Sets, o.Book, o.Ports, o.Devices); err == nil {
		t.Error("mapped sets as state")
	}
	if _, err := Map(o.Control, o.Sets, o.Book, o.Ports, o.Out); err == nil {
		t.Error("mapped a map that cannot be mapped")
	}
}

// loopback is the ifindex that a test run has as its ingress.
const loopback = 1

// checkKey runs the program's parser on a frame and compares it with flow.Parse. It
// reports whether the program parsed it at all.
func checkKey(t *testing.T, parser *ebpf.Program, frame []byte) bool {
	t.Helper()
	if len(frame) < 14 || len(frame) > 3000 {
		return false // a test run takes no such frame
	}
	ret, out, err := parser.Test(frame)
	if err != nil {
		t.Fatalf("%x: %v", frame, err)
	}
	const xdpDrop, xdpPass = 1, 2
	if ret == xdpDrop {
		return false
	}
	var got flow.Key
	if ret != xdpPass || len(out) != len(frame)+8*len(got) {
		t.Fatalf("%x: returned %d and %d bytes", frame, ret, len(out))
	}
	for i := range got {
		got[i] = binary.LittleEndian.Uint64(out[8*i:])
	}
	if want, err := flow.Parse(frame, 7); err != nil || got != want {
		t.Fatalf("%x:\n got %x\nwant %x, %v", frame, got, want, err)
	}
	if got.Get(flow.Flags)&flow.FlagOdd != 0 {
		t.Fatalf("%x: parsed, although it is odd", frame)
	}
	if !bytes.Equal(out[8*len(got):], frame) {
		t.Fatalf("%x: changed", frame)
	}
	return true
}

// TestParse compares the parsers on random frames: the same key, or up to Go.
func TestParse(t *testing.T) {
	o, m := loaded(t)
	m.Devices[loopback] = 7
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	parsed, all := 0, flowtest.Count(t, "BLADEFLOW_FRAMES", 100_000)
	for range all {
		f := flowtest.Frame(rng)
		for range rng.IntN(3) { // and near misses of it
			if len(f) > 0 {
				f[rng.IntN(min(len(f), 60))] = byte(rng.Uint32())
			}
		}
		if checkKey(t, o.CacheKey, f) {
			parsed++
		}
	}
	if parsed < all/5 {
		t.Errorf("parsed %d frames of %d", parsed, all)
	}
	t.Logf("%d frames of %d have a key, the others go to Go", parsed, all)
}

// FuzzParse is TestParse on what the fuzzer finds.
func FuzzParse(f *testing.F) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		f.Add(flowtest.Frame(rng))
	}
	o, m := loaded(f)
	m.Devices[loopback] = 7
	f.Fuzz(func(t *testing.T, frame []byte) { checkKey(t, o.CacheKey, frame) })
}
