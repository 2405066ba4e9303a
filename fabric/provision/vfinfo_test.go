package provision

import (
	"encoding/binary"
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// attribute appends one to a message, its length in 16 bits as the kernel has it.
func attribute(b []byte, kind uint16, value []byte) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint16(b, uint16(unix.SizeofRtAttr+len(value)))
	b = ne.AppendUint16(b, kind)
	b = append(b, value...)
	return append(b, make([]byte, (len(value)+3)&^3-len(value))...)
}

// told is the body of a message about a netdev that says it has VFs and tells of some,
// each in size bytes.
func told(says, tells, size int) []byte {
	var list []byte
	for i := range tells {
		mac := make([]byte, 36) // struct ifla_vf_mac
		binary.NativeEndian.PutUint32(mac, uint32(i))
		mac[4], mac[9] = 2, byte(i)
		info := attribute(nil, unix.IFLA_VF_MAC, mac)
		for len(info) < size {
			info = attribute(info, 200, make([]byte, min(200, size-len(info)-4)))
		}
		list = attribute(list, unix.IFLA_VF_INFO, info)
	}
	body := make([]byte, unix.SizeofIfInfomsg)
	body = attribute(body, unix.IFLA_IFNAME, []byte("eth0\x00"))
	body = attribute(body, unix.IFLA_NUM_VF, binary.NativeEndian.AppendUint32(nil, uint32(says)))
	return attribute(body, unix.IFLA_VFINFO_LIST, list)
}

// TestDecodeVFs reads what the kernel tells of VFs, and takes nothing for all where it
// tells of less than there are.
func TestDecodeVFs(t *testing.T) {
	check := func(says, tells, size int, ok bool) {
		t.Helper()
		vfs, err := decodeVFs(1, told(says, tells, size))
		if !ok {
			if f, is := errors.AsType[*flow.Fault](err); !is || f.Code != "E_VF_MANY" {
				t.Errorf("says %d, tells of %d: %d VFs, %v", says, tells, len(vfs), err)
			}
			return
		}
		if err != nil || len(vfs) != says {
			t.Fatalf("says %d, tells of %d: %d VFs, %v", says, tells, len(vfs), err)
		}
		for i, vf := range vfs {
			if vf.ID != i || vf.Mac[5] != byte(i) {
				t.Errorf("VF %d is %+v", i, vf)
			}
		}
	}
	check(0, 0, 0, true)
	check(7, 7, 200, true)
	check(300, 300, 200, true)
	check(300, 299, 200, false)
	check(300, 0, 200, false)
	check(400, 400, 200, false) // the length of the list has gone round
	for n := range len(told(3, 3, 60)) {
		if vfs, err := decodeVFs(1, told(3, 3, 60)[:n]); err == nil && len(vfs) != 0 && len(vfs) != 3 {
			t.Errorf("cut at %d: %d VFs", n, len(vfs))
		}
	}
}
