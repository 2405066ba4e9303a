// Command vm runs the tests of a package on a stock distribution kernel in QEMU, as root,
// on cards that this machine does not have: two igb cards with seven VFs each, which QEMU
// emulates, and the eSwitch of tcamsim, the kernel module in the folder beside this file,
// on the first of them.
//
//	vm prepare [PACKAGE…]             get QEMU, kernel and headers, build the modules, compile meanwhile
//	vm test [FLAGS] PACKAGE…          run packages' tests there, all in one machine
//	go test -exec bin/vm ./offload/…  the same, a machine for each package
//	vm kernel                         say which kernel that is
//
// The same program is PID 1 of the machine: it loads modules, mounts this checkout (to be
// read only), runs the test binary in the package's folder and says how it ended. There
// is no userland but what a test needs: tc, ip, devlink, rdma, ethtool and lspci of this machine.
//
// Nothing is kept in the checkout. What was downloaded and built is in the user's cache
// folder (bladeflow/vm; BLADEFLOW_VM names another one), by the version of the kernel and
// the content of the module. `make vm` is all of it together; docs/testbed.md says what
// it takes and what it cannot show. Start reading with [run] and [guest].
package main
