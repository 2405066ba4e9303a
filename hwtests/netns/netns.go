// Package netns makes network namespaces and runs functions in them. It
// knows nothing of blades; hwtests/lab builds those out of it. Start reading with
// [NS.Do].
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// Dir is where named namespaces are: `ip netns` looks there too, so a lab can be
// walked into with `ip netns exec`.
const Dir = "/run/netns"

// NS is a network namespace that stays until [NS.Close], whether or not a process
// is in it.
type NS struct {
	Name   string // empty if it has none
	handle netns.NsHandle
	links  *netlink.Handle
}

// New makes a namespace of this name without IPv6 on its netdevs: the kernel then
// sends nothing of its own accord. The error wraps fs.ErrExist if the name is
// taken. Cost: about 1 ms.
func New(name string) (*NS, error) {
	return open(name, func() (netns.NsHandle, error) { return netns.NewNamed(name) })
}

// NewUnnamed makes a namespace like [New] that nobody else can walk into, and that ends
// at the latest with this process and those it starts there.
func NewUnnamed() (*NS, error) { return open("", netns.New) }

func open(name string, enter func() (netns.NsHandle, error)) (*NS, error) {
	n := &NS{Name: name, handle: netns.None()}
	err := keepThread(func() (err error) {
		if n.handle, err = enter(); err != nil {
			return err
		}
		return quiet()
	})
	if err == nil {
		n.links, err = netlink.NewHandleAt(n.handle, unix.NETLINK_ROUTE)
	}
	if err != nil {
		if n.handle.IsOpen() {
			err = errors.Join(err, n.Close())
		}
		return nil, fmt.Errorf("namespace %s: %w", name, err)
	}
	return n, nil
}

// quiet turns IPv6 off for the netdevs the calling thread's namespace will get: no
// router solicitations, no duplicate address detection, no multicast reports.
func quiet() error {
	for _, conf := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without IPv6 is quiet
			return err
		}
	}
	return nil
}

// FD returns the namespace's file descriptor, valid until [NS.Close].
func (n *NS) FD() int { return int(n.handle) }

// Links speaks rtnetlink inside the namespace, from any thread.
func (n *NS) Links() *netlink.Handle { return n.links }

// Do runs f inside the namespace, on the calling goroutine and a locked thread.
// Sockets and BPF attachments that f makes belong to the namespace for good;
// goroutines that f starts run outside of it.
func (n *NS) Do(f func() error) error {
	return keepThread(func() error {
		if err := netns.Set(n.handle); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.Name, err)
		}
		return f()
	})
}

// keepThread runs f, which may change the thread's namespace, and changes it back.
// If that fails the thread stays locked, and so dies with the goroutine.
func keepThread(f func() error) (err error) {
	runtime.LockOSThread()
	home, err := netns.Get()
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	defer home.Close()
	defer func() {
		if back := netns.Set(home); back != nil {
			err = errors.Join(err, fmt.Errorf("leave namespace: %w", back))
			return
		}
		runtime.UnlockOSThread()
	}()
	return f()
}

// Close removes the name and lets go of the namespace. The kernel ends it, and its
// netdevs, as soon as no process and no socket is left in it.
func (n *NS) Close() error {
	if n.links != nil {
		n.links.Close()
	}
	var err error
	if n.Name != "" {
		err = Remove(n.Name)
	}
	return errors.Join(err, n.handle.Close())
}

// Remove takes away a name that some process left behind. A name that is not there
// is no error.
func Remove(name string) error {
	path := filepath.Join(Dir, name)
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	err := os.Remove(path)
	if errors.Is(err, unix.EBUSY) {
		err = removeHidden(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// removeHidden removes a name whose mount is out of reach: the first `ip netns add` of a
// machine mounts the directory over itself, with all that is mounted in it, so that what
// was there before is mounted twice and only the upper one can be unmounted. In a mount
// namespace of its own a thread takes both away and removes the name, which the kernel
// then detaches everywhere. The thread ends with its goroutine.
func removeHidden(path string) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		for covered := err == nil; covered; covered = unix.Unmount(Dir, unix.MNT_DETACH) == nil {
			for unix.Unmount(path, unix.MNT_DETACH) == nil {
			}
		}
		if err == nil {
			err = os.Remove(path)
		}
		done <- err
	}()
	return <-done
}

// Names lists the named namespaces of this machine, whoever made them.
func Names() ([]string, error) {
	entries, err := os.ReadDir(Dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names, nil
}
