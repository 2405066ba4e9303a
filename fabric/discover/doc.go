// Package discover reads one blade: its NICs, physical and virtual functions,
// representors and RDMA devices.
//
// There is one reader, [ReadFS], over a file tree with a sysfs in it. It is the
// truth for the running system and for a recorded tree alike, so what a test or a
// support bundle shows is what a live blade would show. On the running system
// [Live] also asks netlink, devlink, sriovnet and rdmamap, and reports every answer
// that differs from the reading as a finding; only what sysfs does not have, the
// eSwitch mode and the firmware of cards without RDMA, is taken from devlink.
//
// Odd trees are expected: a missing file, a dangling link or a strange value is a
// [fabric.Finding] and never a panic. The package changes nothing on the blade.
//
// Start reading with [ReadFS].
package discover
