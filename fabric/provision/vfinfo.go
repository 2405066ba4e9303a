package provision

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// The kernel tells of all VFs of a PF in one attribute, whose length has 16 bits: with the
// counters of each VF it overflows at some 220 of them, and what is read then is wrong or
// nothing. Without counters there is room for some 330, more than any driver of PFs in the
// kernel has. So this reader asks for none, has room for a message of any length, and
// holds the number of VFs that it reads against the number that the kernel says there are.
// Of a PF whose driver cannot tell of VFs there is that number and nothing else; and the kernel
// leaves out single VFs of which the driver cannot tell now (nfp has such), which in an answer
// that is too short for a list to have gone round is no fault.

// The reader's words to rtnetlink.
const (
	filterVF        = 1 << 0 // RTEXT_FILTER_VF: tell of VFs
	filterSkipStats = 1 << 3 // RTEXT_FILTER_SKIP_STATS: but no counters
	longestMessage  = 1 << 19
	longestList     = 1 << 16 // whose length an attribute can say
)

// readVFs returns what the kernel says of each VF of a netdev, in the namespace of the
// calling thread. Cost: one request, and some 200 bytes for each VF.
func readVFs(index int) ([]netlink.VfInfo, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	ne := binary.NativeEndian
	b := make([]byte, unix.SizeofNlMsghdr+unix.SizeofIfInfomsg+unix.SizeofRtAttr+4)
	ne.PutUint32(b, uint32(len(b)))
	ne.PutUint16(b[4:], unix.RTM_GETLINK)
	ne.PutUint16(b[6:], unix.NLM_F_REQUEST)
	ne.PutUint32(b[unix.SizeofNlMsghdr+4:], uint32(index))
	a := b[unix.SizeofNlMsghdr+unix.SizeofIfInfomsg:]
	ne.PutUint16(a, unix.SizeofRtAttr+4)
	ne.PutUint16(a[2:], unix.IFLA_EXT_MASK)
	ne.PutUint32(a[4:], filterVF|filterSkipStats)
	if err := unix.Sendto(fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, err
	}
	reply := make([]byte, longestMessage)
	n, _, flags, _, err := unix.Recvmsg(fd, reply, nil, 0)
	switch {
	case err != nil:
		return nil, err
	case flags&unix.MSG_TRUNC != 0:
		return nil, tooMany(index, fmt.Errorf("an answer of more than %d bytes", longestMessage))
	case n < unix.SizeofNlMsghdr+4:
		return nil, errors.New("a short answer from rtnetlink")
	}
	if ne.Uint16(reply[4:]) == unix.NLMSG_ERROR {
		return nil, unix.Errno(-int32(ne.Uint32(reply[unix.SizeofNlMsghdr:])))
	}
	return decodeVFs(index, reply[unix.SizeofNlMsghdr:max(unix.SizeofNlMsghdr, min(n, int(ne.Uint32(reply))))])
}

// decodeVFs reads the body of a link message: the VFs that the driver tells of, nil if there are
// none.
func decodeVFs(index int, body []byte) ([]netlink.VfInfo, error) {
	want, tells := 0, false
	for rest := body[min(len(body), unix.SizeofIfInfomsg):]; len(rest) >= unix.SizeofRtAttr; {
		length := int(binary.NativeEndian.Uint16(rest))
		if length < unix.SizeofRtAttr || length > len(rest) {
			return nil, tooMany(index, errors.New("an attribute that ends behind its message"))
		}
		switch kind := binary.NativeEndian.Uint16(rest[2:]); {
		case kind == unix.IFLA_NUM_VF && length >= unix.SizeofRtAttr+4:
			want = int(binary.NativeEndian.Uint32(rest[unix.SizeofRtAttr:]))
		case kind == unix.IFLA_VFINFO_LIST:
			tells = true
		}
		rest = rest[min(len(rest), (length+3)&^3):]
	}
	if want == 0 || !tells {
		return nil, nil
	}
	link, err := deserialize(body)
	if err != nil {
		return nil, tooMany(index, err)
	}
	if have := link.Attrs().Vfs; len(have) == want || len(have) < want && len(body) < longestList {
		return have, nil
	}
	return nil, tooMany(index, fmt.Errorf("it tells of %d VFs, and says that there are %d", len(link.Attrs().Vfs), want))
}

// deserialize is netlink.LinkDeserialize, which trusts in lengths: where a list's own has
// gone round, what follows is anything.
func deserialize(body []byte) (link netlink.Link, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("an attribute that is cut short: %v", r)
		}
	}()
	return netlink.LinkDeserialize(nil, body)
}

func tooMany(index int, err error) error {
	return &flow.Fault{Code: "E_VF_MANY", What: fmt.Sprintf("VFs of netdev #%d", index), Why: err.Error(),
		Remedy: "have fewer VFs on one PF: rtnetlink tells of some 330 at most", Err: err}
}
