package afpacket

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/afpacket/internal/ring"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// What links and kernels do is tested in fallback, where they meet.

func TestWhole(t *testing.T) {
	macs := []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}
	rest := []byte{8, 0, 'x', 'y'}
	check := func(status uint32, want ...byte) {
		t.Helper()
		space := bytes.Join([][]byte{make([]byte, ring.HeadRoom), macs, rest}, nil)
		got := whole(ring.Frame{Space: space, Status: status, TCI: 0xb123, TPID: 0x88a8})
		if want := bytes.Join([][]byte{macs, want, rest}, nil); !bytes.Equal(got, want) {
			t.Errorf("status %#x:\n got %x\nwant %x", status, got, want)
		}
	}
	check(unix.TP_STATUS_USER)
	check(unix.TP_STATUS_VLAN_VALID, 0x81, 0x00, 0xb1, 0x23)
	check(unix.TP_STATUS_VLAN_VALID|unix.TP_STATUS_VLAN_TPID_VALID, 0x88, 0xa8, 0xb1, 0x23)
	check(unix.TP_STATUS_VLAN_TPID_VALID)
}

// TestProgram runs the program behind the tap on marks.
func TestProgram(t *testing.T) {
	p, err := ebpf.NewProgram(unmarkedDropped())
	must.Have(t, "xdp", err)
	defer p.Close()
	const next, drop = 1<<32 - 1, 2
	for mark, want := range map[uint32]uint32{0: drop, Mark: next, Mark + 1: drop, Mark &^ 1: drop, 1<<32 - 1: drop} {
		ctx := struct{ Len, PacketType, Mark uint32 }{Mark: mark}
		got, err := p.Run(&ebpf.RunOptions{Data: make([]byte, 60), Context: ctx})
		if err != nil {
			t.Fatal(err)
		}
		if got != want {
			t.Errorf("mark %#x: %d, want %d", mark, int32(got), int32(want))
		}
	}
}

func TestFaults(t *testing.T) {
	check := func(err error, code string) {
		t.Helper()
		var f *flow.Fault
		if !errors.As(err, &f) || f.Code != code || f.Remedy == "" {
			t.Errorf("got %v, want a fault %s with a remedy", err, code)
		}
	}
	_, err := Open(1 << 20)
	check(err, "E_AFPACKET")
}
