package agent

import (
	"fmt"
	"runtime"

	"github.com/vishvananda/netns"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// homed are VFs that are read and written in one network namespace, whichever the calling
// thread is in: what reads them opens sockets of its own.
type homed struct {
	provision.VFs
	home netns.NsHandle
}

// Read implements [provision.VFs].
func (h *homed) Read() (out map[fabric.VFID]fabric.VFState, err error) {
	err = h.in(func() (err error) {
		out, err = h.VFs.Read()
		return err
	})
	return out, err
}

// Write implements [provision.VFs].
func (h *homed) Write(vf fabric.VFID, s fabric.Setting) error {
	return h.in(func() error { return h.VFs.Write(vf, s) })
}

// in calls f on a thread in the namespace. To enter where one is takes a privilege for
// nothing.
func (h *homed) in(f func() error) error {
	ended := make(chan error)
	go func() {
		runtime.LockOSThread()
		here, err := netns.Get()
		if err == nil {
			defer here.Close()
		}
		if err == nil && here.Equal(h.home) {
			err := f()
			runtime.UnlockOSThread()
			ended <- err
			return
		}
		if err := netns.Set(h.home); err != nil {
			ended <- fmt.Errorf("enter the network namespace: %w", err)
			return
		}
		ended <- f() // the thread ends with it, so that nobody inherits the namespace
	}()
	return <-ended
}
