package fallback_test

import (
	"context"
	"encoding/binary"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestSetForKernel has the kernel judge the checksums of what the datapath sets. Frames for
// addresses, ports and a MAC that nobody has are given those of a host, which is the
// kernel at the far end of a cable. Its sockets get every datagram whose checksum was
// right and none whose was wrong; it answers SYN and echo request, for which it has to
// find their sums right, too.
func TestSetForKernel(t *testing.T) {
	for _, k := range kinds {
		t.Run(k.name, func(t *testing.T) { setForKernel(t, k) })
	}
}

func setForKernel(t *testing.T, k kind) {
	inNamespace(t)
	pass, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	must.Have(t, "xdp", err)
	t.Cleanup(func() { pass.Close() })
	config := fallback.Config{Links: map[flow.Port]fallback.Link{}}
	cables := map[flow.Port]*cable{1: layCable(t, "a", pass), 2: layCable(t, "b", pass)}
	for port, c := range cables {
		l, err := k.open(c.rep)
		must.Have(t, k.feature, err)
		t.Cleanup(func() { l.Close() })
		config.Links[port] = l
	}
	host := listen(t, "farb")
	table := strings.NewReplacer("MAC", host.mac).Replace(`
name=udp4,priority=9,in_port=#1,ip_proto=udp,dst_ip=10.9.9.9,dst_port=53 actions=set(dst_mac=MAC,src_ip=10.1.0.2,dst_ip=10.2.0.1,ip_tos=0x10/0xfc,ip_ttl=33,src_port=4000,dst_port=8080),output:#2
name=udp6,priority=9,in_port=#1,ip_proto=udp,dst_ip=fd09::9,dst_port=53 actions=set(dst_mac=MAC,src_ip=fd00::1:2),set(dst_ip=fd00::2,ip_ttl=3,src_port=4000,dst_port=8080),output:#2
name=syn4,priority=9,in_port=#1,ip_proto=tcp,dst_ip=10.9.9.9,dst_port=80 actions=set(dst_mac=MAC,src_ip=10.1.0.2,dst_ip=10.2.0.1,src_port=4000,dst_port=8081),output:#2
name=syn6,priority=9,in_port=#1,ip_proto=tcp,dst_ip=fd09::9,dst_port=80 actions=set(dst_mac=MAC,src_ip=fd00::1:2,dst_ip=fd00::2,src_port=4000,dst_port=8081),output:#2
name=echo6,priority=9,in_port=#1,ip_proto=icmpv6,icmp_type=128 actions=set(dst_mac=MAC,src_ip=fd00::1:2,dst_ip=fd00::2),output:#2
name=ack4,priority=9,in_port=#2,src_ip=10.2.0.1,tcp_flags=+syn+ack actions=drop
name=ack6,priority=9,in_port=#2,src_ip=fd00::2,tcp_flags=+syn+ack actions=drop
name=reply6,priority=9,in_port=#2,src_ip=fd00::2,ip_proto=icmpv6,icmp_type=129 actions=drop`)
	var rules []flow.Rule
	for line := range strings.SplitSeq(strings.TrimSpace(table), "\n") {
		r, err := flow.ParseRule(line, nil)
		if err != nil {
			t.Fatal(err)
		}
		rules = append(rules, r)
	}
	tab, err := flow.NewTable(flow.TableSpec{Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	d := run(t, config)
	swap(t, d, tab)

	const udp4, udp6 = "dst_mac=02:00:00:00:00:99,ip_proto=udp,src_ip=10.7.7.7,dst_ip=10.9.9.9,ip_ttl=9,src_port=77,dst_port=53",
		"dst_mac=02:00:00:00:00:99,ip_proto=udp,src_ip=fd07::7,dst_ip=fd09::9,ip_ttl=9,src_port=77,dst_port=53"
	for _, text := range []string{udp4, udp6} {
		for n := byte(0); n < 30; n++ {
			payload := []byte{n, 1, 2, 3}[:3+n%2] // of both parities
			frame := summed(t, text, payload)
			switch {
			case n%3 == 1:
				frame[len(frame)-1] ^= 4 // the sum is of something else
			case n%3 == 2 && text == udp4: // there is none
				copy(frame[len(frame)-len(payload)-2:], []byte{0, 0})
			}
			cables[1].send(t, frame)
		}
	}
	for _, text := range []string{
		"dst_mac=02:00:00:00:00:99,ip_proto=tcp,src_ip=10.7.7.7,dst_ip=10.9.9.9,ip_ttl=9,src_port=77,dst_port=80,tcp_flags=+syn",
		"dst_mac=02:00:00:00:00:99,ip_proto=tcp,src_ip=fd07::7,dst_ip=fd09::9,ip_ttl=9,src_port=77,dst_port=80,tcp_flags=+syn",
		"dst_mac=02:00:00:00:00:99,ip_proto=icmpv6,src_ip=fd07::7,dst_ip=fd09::9,ip_ttl=9,icmp_type=128,icmp_code=0",
	} {
		cables[1].send(t, summed(t, text, []byte("odd")))
	}
	for i, socket := range host.sockets {
		for n := byte(0); n < 30; n++ {
			if n%3 == 1 {
				continue // was wrong, and still is
			}
			b := make([]byte, 64)
			socket.SetReadDeadline(time.Now().Add(5 * time.Second))
			m, from, err := socket.ReadFrom(b)
			if err != nil || m < 3 || b[0] != n {
				t.Fatalf("socket %d: %x from %v, %v; want datagram %d", i, b[:m], from, err, n)
			}
			if a := from.(*net.UDPAddr); a.Port != 4000 || !a.IP.Equal([]net.IP{net.ParseIP("10.1.0.2"), net.ParseIP("fd00::1:2")}[i]) {
				t.Fatalf("datagram %d comes from %v", n, a)
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; {
		got := d.Counters()
		missing := ""
		for _, name := range []string{"ack4", "ack6", "reply6"} {
			if got[flow.NewRuleID("", name)].Packets == 0 {
				missing += " " + name
			}
		}
		if missing == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the kernel has not answered:%s", missing)
		}
		time.Sleep(time.Millisecond)
	}
}

// listener is the kernel as a host.
type listener struct {
	mac     string
	sockets []net.PacketConn // UDP port 8080 of IPv4 and of IPv6
}

// listen gives a netdev addresses and sockets, and says where the neighbours are that the
// datapath makes up.
func listen(t *testing.T, netdev string) listener {
	t.Helper()
	dev, err := netlink.LinkByName(netdev)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"10.2.0.1/8", "fd00::2/16"} {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			t.Fatal(err)
		}
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD
		}
		if err := netlink.AddrAdd(dev, a); err != nil {
			t.Fatal(err)
		}
	}
	// The kernel takes packets for an address of IPv6 from when a job of its own has seen it.
	waitFor(t, "the address", func() bool {
		routes, err := netlink.RouteGet(net.ParseIP("fd00::2"))
		return err == nil && len(routes) > 0 && routes[0].Type == unix.RTN_LOCAL
	})
	for _, ip := range []string{"10.1.0.2", "fd00::1:2"} {
		n := &netlink.Neigh{LinkIndex: dev.Attrs().Index, IP: net.ParseIP(ip), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr(ourSource)}
		if err := netlink.NeighAdd(n); err != nil {
			t.Fatal(err)
		}
	}
	h := listener{mac: dev.Attrs().HardwareAddr.String()}
	var c net.ListenConfig
	for _, at := range []struct{ network, address string }{{"udp4", "10.2.0.1:8080"}, {"udp6", "[fd00::2]:8080"}} {
		s, err := c.ListenPacket(context.Background(), at.network, at.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		h.sockets = append(h.sockets, s)
	}
	for _, at := range []struct{ network, address string }{{"tcp4", "10.2.0.1:8081"}, {"tcp6", "[fd00::2]:8081"}} {
		s, err := c.Listen(context.Background(), at.network, at.address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
	}
	return h
}

// summed returns the frame of a packet with a payload and the right checksums.
func summed(t *testing.T, text string, payload []byte) []byte {
	t.Helper()
	k, err := flow.ParseKey("src_mac=02:b1:ad:ef:10:77,"+text, nil)
	if err != nil {
		t.Fatal(err)
	}
	frame, err := flow.Frame(k, payload)
	if err != nil {
		t.Fatal(err)
	}
	h, be := flow.Locate(&k, frame), binary.BigEndian
	sum := uint32(h.Proto)
	start, addresses := h.IP+20, frame[h.IP+12:h.IP+20]
	if k.Get(flow.EthType) == flow.EthIPv6 {
		start, addresses = h.IP+40, frame[h.IP+8:h.IP+40]
	}
	sum += uint32(len(frame) - start)
	for _, part := range [][]byte{addresses, frame[start:]} {
		for i, b := range part {
			sum += uint32(b) << (8 * (1 - i%2))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	if be.PutUint16(frame[h.Sum:], ^uint16(sum)); sum == 0xffff {
		be.PutUint16(frame[h.Sum:], 0xffff)
	}
	return frame
}
