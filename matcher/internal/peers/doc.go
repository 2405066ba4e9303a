// Package peers compares the matcher with DPDK's rte_acl: the same rules, the same
// packets, one processor, one run, CPU time of the thread on both sides.
//
// It holds only a benchmark and, in the folder rteacl, the program in C that measures
// rte_acl; `make bench-peers` builds it from the distribution's libdpdk-dev and runs
// both. Nothing of bladeflow depends on it.
package peers
