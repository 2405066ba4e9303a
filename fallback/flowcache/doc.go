// Package flowcache answers known flows in the kernel, before their frames reach a
// socket: an exact-match cache that an XDP program asks on every port, and that the
// software datapath fills with the verdicts it has reached. A frame that is not in it,
// or that the program cannot parse, goes up to the port's AF_XDP socket.
//
// It decides nothing about packets: what is in it was decided by a table, and is gone
// with that table's epoch. It can be lost at any time and only speed is lost. With a
// directory for its pins it outlives its owner and goes on answering without one.
//
// Start reading at [Cache] and the essay in table.go; internal/xdp/bpf/cache.c is the
// program.
package flowcache
