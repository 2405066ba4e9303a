package manager

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// A manager decides for a whole fabric and listens to the network. It needs no right
// over this machine's kernel, so it refuses to have one: whoever takes a manager over
// has the API's rights and no more. Root without capabilities owns root's files, which
// is all that root has to do with it.

// Unprivileged returns nil iff this process has no CAP_NET_ADMIN, in effect or at
// hand, else a *[flow.Fault].
func Unprivileged() error {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	return unprivileged(string(status))
}

func unprivileged(status string) error {
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if name != "CapEff" && name != "CapPrm" {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(value), 16, 64)
		if err != nil {
			return fmt.Errorf("/proc/self/status: %s: %w", name, err)
		}
		if set&(1<<unix.CAP_NET_ADMIN) != 0 {
			return &flow.Fault{Code: "E_PRIVILEGED", What: "manager", Why: "it has CAP_NET_ADMIN, and a manager must not be able to change this machine's network",
				Remedy: "run it as a user without capabilities, or with --drop-privileges"}
		}
	}
	return nil
}

// Drop starts this program anew, same arguments and environment, without capabilities
// and without the means to get any: an empty bounding set and no_new_privs. It returns
// only if that fails. Capabilities are a thread's and exec takes the calling thread's,
// so the other threads of this process do not matter.
func Drop() error {
	runtime.LockOSThread()
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if err != nil && err != unix.EINVAL { // a kernel that does not know this one
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear ambient capabilities: %w", err)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	if err := unix.Capset(&header, &none[0]); err != nil {
		return fmt.Errorf("drop capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("no new privileges: %w", err)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	return unix.Exec(self, os.Args, os.Environ())
}
