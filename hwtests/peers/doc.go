// Package peers measures the software datapath beside what one would use instead: XDP,
// TCX, tc, nftables, IP forwarding, a Linux bridge. It lays one path after the other
// between a sender and a sink, in namespaces of its own, and changes nothing outside of
// them:
//
//	sender            device under test            sink
//	bfsend ──veth── bfin [path] bfout ──veth── bfsink
//
// How it measures. Wall clock says little on a machine that does other work too, so all
// figures are CPU time, of the scheduler, for each frame that comes to its end. Frames
// are made inside the kernel (XDP live frames, 20 ns each; sending from user space takes
// 650 and would hide what is measured) and end in an XDP program that counts them. In
// each repetition every path is measured once, in a stand of its own, and ratios are
// between figures of one repetition: what slows the machine down for a while slows all.
//
// On one core everything is on one CPU, and all of it counts: sender, both veth pairs,
// path, sink, threads of the kernel. The sender makes some frames and waits until they
// have come to their end, so that a path in user space gets the CPU without losing any.
// The Go runtime is not told of the sender's system calls: its watcher would else wake for
// them on that CPU every 20 µs, which in an agent, that sends nothing so, it does not.
// On two cores the sender has its own, which does not count; the path gets frames from
// the netdev's NAPI in a thread of the kernel on its own CPU. Frames then come from the
// cache of another CPU and pages go back there, which costs more than many a path: the
// two kinds of figures cannot be compared with each other.
//
// What it does not show: real cards, more than one queue, rates without loss, and paths
// whose frames begin and end in sockets, but for the round trips.
//
// Start reading with [Run].
package peers
