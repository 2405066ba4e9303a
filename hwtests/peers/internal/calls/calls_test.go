package calls

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestMaker makes frames of several lengths and numbers, and lets the kernel count them.
func TestMaker(t *testing.T) {
	counter, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 16, MaxEntries: 1})
	must.Have(t, "xdp", err)
	defer counter.Close()
	const xdpData, xdpDataEnd, xdpDrop = 0, 4, 1
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "Apache-2.0", Instructions: asm.Instructions{
		asm.LoadMem(asm.R7, asm.R1, xdpData, asm.Word), asm.LoadMem(asm.R6, asm.R1, xdpDataEnd, asm.Word),
		asm.Sub.Reg(asm.R6, asm.R7),
		asm.StoreImm(asm.RFP, -4, 0, asm.Word),
		asm.LoadMapPtr(asm.R1, counter.FD()), asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "end"),
		asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R0, 8), asm.StoreXAdd(asm.R0, asm.R6, asm.DWord),
		asm.Mov.Imm(asm.R0, xdpDrop).WithSymbol("end"), asm.Return()}})
	must.Have(t, "xdp", err)
	defer program.Close()
	const loopback = 1
	var made, before [2]uint64
	for _, length := range []int{14, 64, 1514} {
		m, err := NewMaker(program.FD(), loopback, make([]byte, length))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		for _, n := range []int{1, 64, 1000} {
			if err := m.Make(n); err != nil {
				t.Fatalf("%d frames of %d bytes: %v", n, length, err)
			}
			if err := counter.Lookup(uint32(0), &made); err != nil {
				t.Fatal(err)
			}
			// A signal may have ended it early.
			if frames, bytes := made[0]-before[0], made[1]-before[1]; frames > uint64(n) || bytes != frames*uint64(length) {
				t.Errorf("the kernel saw %d frames with %d bytes, of %d with %d each", frames, bytes, n, length)
			}
			before = made
		}
	}
	if made[0] == 0 {
		t.Error("no frames")
	}
}

// TestNap asks for a nap that ends.
func TestNap(t *testing.T) {
	Nap(time.Microsecond)
}
