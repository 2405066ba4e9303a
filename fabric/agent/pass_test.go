package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// noLiveFrames is in the environment of a process that is to have a kernel without live frames.
const noLiveFrames = "BLADEFLOW_TEST_NO_LIVE_FRAMES"

// withoutLiveFrames has the kernel refuse to run programs (bpf, BPF_PROG_TEST_RUN) for all
// threads of this process, as one before 5.18 refuses to run them on live frames.
func withoutLiveFrames() error {
	const number, firstArgument = 0, 16 // offsets in struct seccomp_data
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: skip, K: value}
	}
	verdict := func(v uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: v}
	}
	code := []unix.SockFilter{load(number), unless(unix.SYS_BPF, 3), load(firstArgument), unless(unix.BPF_PROG_TEST_RUN, 1),
		verdict(unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)), verdict(unix.SECCOMP_RET_ALLOW)}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return fmt.Errorf("refuse to run programs: %w", errno)
	}
	return nil
}

// TestPassByTap runs a daemon on a kernel without live frames: what a rule passes comes to a
// socket of the blade's kernel all the same, by a tap.
func TestPassByTap(t *testing.T) {
	if os.Getenv(noLiveFrames) == "" {
		c := exec.Command(os.Args[0], "-test.run=^TestPassByTap$", "-test.v")
		c.Env = append(os.Environ(), noLiveFrames+"=1")
		out, err := c.CombinedOutput()
		if t.Logf("%s", out); err != nil {
			t.Fatal(err)
		}
		return
	}
	if err := withoutLiveFrames(); err != nil {
		t.Fatal(err)
	}
	var missing error // this kernel's AF_XDP
	inNamespace(t, func(t *testing.T) {
		f := configuration(t, "  datapath: afxdp\n  ports: [{name: nic0/pf0, netdev: rep0}, {name: nic0/pf0/vf0, netdev: rep1}]\n  uplink: nic0/pf0\n")
		rewrite(t, f.Rules[0], strings.Replace(cross, "match: {in_port: vf0}, actions: [{output: uplink}]", "match: {in_port: vf0, dst_port: 7000}, actions: [pass]", 1))
		if err := passed(t, f, &missing); err != nil {
			t.Error(err)
		}
	})
	must.Have(t, "afxdp", missing)
}

// passed sends packets to rep1 until one comes to a socket there. missing is why there is no
// daemon.
func passed(t *testing.T, f File, missing *error) error {
	rep, err := netlink.LinkByName("rep1")
	if err != nil {
		return err
	}
	address, err := netlink.ParseAddr("10.9.0.1/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(rep, address); err != nil {
		return err
	}
	host, err := new(net.ListenConfig).ListenPacket(context.Background(), "udp4", "10.9.0.1:7000")
	if err != nil {
		return err
	}
	defer host.Close()
	var log strings.Builder
	d, err := Open(f, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		*missing = err
		return nil
	}
	if !strings.Contains(log.String(), "by tap devices") {
		t.Errorf("the daemon does not say that it has no live frames: %s", log.String())
	}
	defer running(t, d)()
	until(t, d, "the first generation", func(s *Status) bool { return s.Generation == 1 })

	key, err := flow.ParseKey(fmt.Sprintf("dst_mac=%v,src_mac=02:00:00:00:00:01,ip_proto=udp,src_ip=10.9.0.2,dst_ip=10.9.0.1,ip_ttl=9,src_port=77,dst_port=7000", rep.Attrs().HardwareAddr), nil)
	if err != nil {
		return err
	}
	frame, err := flow.Frame(key, []byte("passed"))
	if err != nil {
		return err
	}
	far, err := netlink.LinkByName("far1")
	if err != nil {
		return err
	}
	wire, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(wire)
	got := make([]byte, 64)
	for range 300 { // netdevs take a while until they are up
		if err := unix.Sendto(wire, frame, 0, &unix.SockaddrLinklayer{Ifindex: far.Attrs().Index}); err != nil {
			return err
		}
		host.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		n, from, err := host.ReadFrom(got)
		if err != nil {
			continue
		}
		if string(got[:n]) != "passed" || from.String() != "10.9.0.2:77" {
			return fmt.Errorf("%q from %v", got[:n], from)
		}
		return nil
	}
	return fmt.Errorf("nothing came to the kernel: %+v", d.datapath.Stats())
}
