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
// each in size bytes. There is no list of them if tells is below 0.
func told(says, tells, size int) []byte {
	var list []byte
	for i := range max(0, tells) {
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
	if tells < 0 {
		return body
	}
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
		if err != nil || len(vfs) != tells {
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
	check(300, 299, 200, true) // the driver cannot tell of all
	check(300, 0, 200, true)
	check(330, 299, 300, false)
	check(400, 400, 200, false) // the length of the list has gone round
	if vfs, err := decodeVFs(1, told(8, -1, 0)); err != nil || len(vfs) > 0 {
		t.Errorf("a driver that cannot tell of VFs: %v, %v", vfs, err)
	}
	for n := range len(told(3, 3, 60)) {
		if vfs, err := decodeVFs(1, told(3, 3, 60)[:n]); err == nil && len(vfs) != 0 && len(vfs) != 3 {
			t.Errorf("cut at %d: %d VFs", n, len(vfs))
		}
	}
}

// FuzzDecodeVFs breaks messages: what is read is all VFs or none, and nothing panics.
func FuzzDecodeVFs(f *testing.F) {
	for _, size := range []int{0, 60, 200} {
		f.Add(told(3, 3, size))
	}
	f.Add(told(400, 400, 200))
	short := make([]byte, unix.SizeofIfInfomsg)
	short = attribute(short, unix.IFLA_NUM_VF, []byte{1, 0, 0, 0})
	for _, kind := range []uint16{unix.IFLA_VF_MAC, unix.IFLA_VF_TRUST, unix.IFLA_VF_VLAN_LIST} {
		f.Add(attribute(short, unix.IFLA_VFINFO_LIST, attribute(nil, unix.IFLA_VF_INFO, attribute(nil, kind, nil))))
	}
	f.Add(attribute(attribute(short, unix.IFLA_LINKINFO, attribute(nil, unix.IFLA_INFO_KIND, nil)), unix.IFLA_VFINFO_LIST, nil))
	f.Fuzz(func(t *testing.T, body []byte) {
		vfs, err := decodeVFs(1, body)
		if fault, ok := errors.AsType[*flow.Fault](err); err != nil && (!ok || len(vfs) > 0) {
			t.Errorf("%d VFs, %v, %v", len(vfs), err, fault)
		}
	})
}
