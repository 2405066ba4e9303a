package peers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// path is one way from the sender to the sink, or to a drop, that can be measured.
type path struct {
	name   string
	does   string
	modes  []Mode // how it is measured
	both   bool   // it also leads from the sink to the sender
	routed bool   // by addresses, so that frames must be sent to the middle's MAC
	needs  string // a program that must be installed
	lay    func(s *stand, t traffic) (*device, error)
}

// device is a path that was laid in a stand.
type device struct {
	// ended returns how many frames have come to their end; nil if the stand's own
	// counter knows.
	ended func() uint64
	// asked is the same where it takes long to ask; nil if ended knows.
	asked func() (uint64, error)
	// processes run the path, besides the kernel and this process.
	processes []int
	// share returns what part of their time since the last call the processes had
	// something to do; nil if they wait without running.
	share func() (float64, error)
}

// Names of paths that ratios are made of.
const (
	xdpDrop      = "xdp-drop"
	xdpRedirect  = "xdp-redirect"
	tcxDrop      = "tcx-drop"
	tcxRedirect  = "tcx-redirect"
	nftDrop      = "nft-ingress-drop"
	linuxBridge  = "linux-bridge"
	goDrop       = "bladeflow-drop"
	goForward    = "bladeflow-forward"
	goSingly     = "bladeflow-forward-singly"
	cacheForward = "bladeflow-cache-hit"
	openVSwitch  = "openvswitch-afxdp"
)

// paths returns every path, in the order of the report.
func paths() []path {
	drops, forwards := []Mode{OneCore}, []Mode{OneCore, ToKernel, TwoCores}
	return []path{
		{name: xdpDrop, does: "native XDP, a program that counts and drops: the floor", modes: drops, lay: layXDP(programProgCountDrop, link.XDPDriverMode)},
		{name: "generic-xdp-drop", does: "the same program in generic mode", modes: drops, lay: layXDP(programProgCountDrop, link.XDPGenericMode)},
		{name: tcxDrop, does: "a TCX program that counts and drops", modes: drops, lay: layTCX(programProgTcxDrop)},
		{name: nftDrop, does: "an nftables netdev ingress chain: counter drop", modes: drops, needs: "nft", lay: layNFT("counter name seen drop", true)},
		{name: goDrop, does: "AF_XDP, classified by the rules, dropped", modes: drops, lay: layDrop},

		{name: xdpRedirect, does: "native XDP, redirected by a devmap", modes: forwards, both: true, lay: layXDP(programProgRedirect, link.XDPDriverMode)},
		{name: "generic-xdp-redirect", does: "the same program in generic mode", modes: forwards, both: true, lay: layXDP(programProgRedirect, link.XDPGenericMode)},
		{name: tcxRedirect, does: "a TCX program with bpf_redirect", modes: forwards, both: true, lay: layTCX(programProgTcxRedirect)},
		{name: "tc-mirred", does: "tc: a u32 filter that matches everything, mirred redirect", modes: forwards, lay: layMirred},
		{name: "nft-fwd", does: "an nftables netdev ingress chain: fwd to", modes: forwards, needs: "nft", lay: layNFT("fwd to "+outsideDev, false)},
		{name: "ip-forward", does: "IPv4 forwarding by one route, the neighbour known", modes: forwards, routed: true, lay: layRouter},
		{name: linuxBridge, does: "a Linux bridge with static forwarding entries", modes: forwards, both: true, lay: layBridge},
		{name: goForward, does: "AF_XDP, classified by the rules, redirected from a tap up to 16 at a time", modes: append(forwards, UserCore), both: true, lay: layForward(true)},
		{name: goSingly, does: "the same, sent by AF_XDP in copy mode", modes: append(forwards, UserCore), both: true, lay: layForward(false)},
		{name: cacheForward, does: "the same, each flow answered by the flow cache from its second frame on", modes: forwards, both: true, lay: layCached},
		{name: openVSwitch, does: "Open vSwitch in user space with AF_XDP ports, one flow", modes: []Mode{UserCore}, needs: "ovs-vswitchd", lay: layOVS},
	}
}

// packages are those of the distribution that bring the programs that paths need.
var packages = map[string]string{"nft": "nftables", "ovs-vswitchd": "openvswitch-switch"}

// missing returns why a path cannot be measured on this machine, or "". With install it
// installs what is missing.
func (p *path) missing(ctx context.Context, install bool) string {
	if p.needs == "" {
		return ""
	}
	_, err := exec.LookPath(p.needs)
	if err == nil {
		return ""
	}
	if !install {
		return p.needs + " is not installed: --install installs " + packages[p.needs]
	}
	cmd := exec.CommandContext(ctx, "apt-get", "install", "-y", "-qq", "--no-install-recommends", packages[p.needs])
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Sprintf("install %s: %v: %s", packages[p.needs], err, bytes.TrimSpace(out))
	}
	return ""
}

func layXDP(program string, mode link.XDPAttachFlags) func(*stand, traffic) (*device, error) {
	return func(s *stand, _ traffic) (*device, error) {
		return &device{}, errors.Join(s.xdp(s.middle, s.inside, program, mode), s.xdp(s.middle, s.outside, program, mode))
	}
}

func layTCX(program string) func(*stand, traffic) (*device, error) {
	return func(s *stand, _ traffic) (*device, error) {
		return &device{}, errors.Join(s.tcx(s.middle, s.inside, program), s.tcx(s.middle, s.outside, program))
	}
}

func layMirred(s *stand, _ traffic) (*device, error) {
	links := s.middle.Links()
	ingress := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: s.inside, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_INGRESS}}
	if err := links.QdiscAdd(ingress); err != nil {
		return nil, fmt.Errorf("ingress qdisc: %w", err)
	}
	err := links.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: s.inside, Parent: netlink.MakeHandle(0xffff, 0), Priority: 1, Protocol: unix.ETH_P_IP},
		Sel:         &netlink.TcU32Sel{Flags: netlink.TC_U32_TERMINAL, Nkeys: 1, Keys: []netlink.TcU32Key{{}}},
		Actions:     []netlink.Action{netlink.NewMirredAction(s.outside)},
	})
	if err != nil {
		return nil, fmt.Errorf("u32 filter with mirred: %w", err)
	}
	return &device{}, nil
}

// layNFT puts one rule on what comes in by the inside. If it drops, its counter is what
// counts.
func layNFT(rule string, drops bool) func(*stand, traffic) (*device, error) {
	return func(s *stand, _ traffic) (*device, error) {
		rules := fmt.Sprintf("table netdev bench {\ncounter seen {}\nchain in { type filter hook ingress device %s priority 0; policy accept; %s; }\n}\n", insideDev, rule)
		if _, err := s.command(rules, "nft", "-f", "-"); err != nil {
			return nil, err
		}
		d := &device{}
		if drops {
			d.asked = s.countedByNFT
		}
		return d, nil
	}
}

// countedByNFT reads `… packets 17 bytes …`.
func (s *stand) countedByNFT() (uint64, error) {
	out, err := s.command("", "nft", "list", "counter", "netdev", "bench", "seen")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(out, "packets ")
	number, _, _ := strings.Cut(after, " ")
	return strconv.ParseUint(number, 10, 64)
}

func layRouter(s *stand, _ traffic) (*device, error) {
	err := s.middle.Do(func() error {
		for name, value := range map[string]string{"ip_forward": "1", "conf/all/rp_filter": "0", "conf/" + insideDev + "/rp_filter": "0"} {
			if err := os.WriteFile("/proc/sys/net/ipv4/"+name, []byte(value), 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	links := s.middle.Links()
	inside, err := links.LinkByIndex(s.inside)
	if err != nil {
		return nil, err
	}
	outside, err := links.LinkByIndex(s.outside)
	if err != nil {
		return nil, err
	}
	network := func(last byte) *netlink.Addr {
		return &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 1, last, 254), Mask: net.CIDRMask(24, 32)}}
	}
	if err := errors.Join(links.AddrAdd(inside, network(1)), links.AddrAdd(outside, network(0))); err != nil {
		return nil, fmt.Errorf("addresses: %w", err)
	}
	if err := links.NeighSet(&netlink.Neigh{LinkIndex: s.outside, State: netlink.NUD_PERMANENT, IP: sinkIP, HardwareAddr: sinkMAC}); err != nil {
		return nil, fmt.Errorf("neighbour: %w", err)
	}
	if err := links.RouteAdd(&netlink.Route{LinkIndex: s.outside, Gw: sinkIP}); err != nil {
		return nil, fmt.Errorf("default route: %w", err)
	}
	return &device{}, nil
}

func layBridge(s *stand, _ traffic) (*device, error) {
	links := s.middle.Links()
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "bfbridge"
	bridge := &netlink.Bridge{LinkAttrs: attrs}
	if err := links.LinkAdd(bridge); err != nil {
		return nil, fmt.Errorf("bridge: %w", err)
	}
	for _, port := range []struct {
		index int
		mac   net.HardwareAddr
	}{{s.inside, senderMAC}, {s.outside, sinkMAC}} {
		dev, err := links.LinkByIndex(port.index)
		if err != nil {
			return nil, err
		}
		if err := links.LinkSetMaster(dev, bridge); err != nil {
			return nil, fmt.Errorf("bridge port: %w", err)
		}
		entry := &netlink.Neigh{LinkIndex: port.index, Family: unix.AF_BRIDGE, State: netlink.NUD_NOARP, Flags: netlink.NTF_MASTER, HardwareAddr: port.mac}
		if err := links.NeighSet(entry); err != nil {
			return nil, fmt.Errorf("forwarding entry: %w", err)
		}
	}
	return &device{}, links.LinkSetUp(bridge)
}
