// Package lab is an emulated chassis on one Linux machine, made of network
// namespaces and veth pairs, its cards those of package softnic:
//
//	workload w0        card                               host of blade 1
//	eth0 ──veth── v0 [softnic] ──hit──► v1, p0
//	               └─miss─► r0 ═════════veth════════════ rep0
//	eth0 ──veth── v1 [softnic]     r1 ══veth════════════ rep1
//
//	fabric
//	b1 ───veth─── p0 [softnic]     ru ══veth════════════ uprep
//	b2 ───veth─── p0 of blade 2
//
// Each box is a namespace. The fabric is a hub: what leaves one blade's uplink
// arrives at all others'. At each far end, eth0 and the wires of the fabric, and
// at each representor an observer (package observe) records what arrives, so that
// it can be compared with flow.Judge emission by emission.
//
// The lab makes the machine and looks at it. It never decides where a packet
// goes, installs no entry and runs no software datapath: who uses it does that.
// [Doctor] says what is missing where it does not work.
//
// What has to be right for frames not to vanish silently, found by losing them:
//   - both ends of a redirect need NAPI: GRO is on at every netdev before its peer
//     goes up, or the kernel refuses to redirect to the peer;
//   - no checksum offload, or frames arrive with half a checksum;
//   - no VLAN offload, or XDP sees the frame without its tag;
//   - room for two tags more than a workload's 1500 bytes;
//   - a queueing discipline where frames are sent, or a full ring drops them
//     instead of saying so to the sender;
//   - IPv6 off, or the kernel adds frames of its own;
//   - at most 16 frames at a time for one port, or a frame behind them: Linux puts redirected
//     frames into a ring by the 16 and wakes its reader with the last of a batch, and not if
//     the program of the devmap drops all of those, as softnic's does with copies of several
//     that are for other ports;
//   - no netdev named like a word of ip(8).
//
// Start reading with [Up] and [Blade].
package lab
