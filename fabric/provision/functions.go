package provision

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"

	"github.com/bladeflow/bladeflow/fabric"
)

// Functions shapes real cards: by sysfs, and by devlink where the mode of an eSwitch
// changes.
type Functions struct {
	Inventory func() (fabric.Inventory, error)
}

var _ PFs = (*Functions)(nil)

// Shapes implements PFs. Cost: a reading of the inventory.
func (f *Functions) Shapes() (map[fabric.PFID]PFState, error) {
	out := map[fabric.PFID]PFState{}
	inv, err := f.Inventory()
	if err != nil {
		return nil, err
	}
	for _, nic := range inv.NICs {
		for i := range nic.PFs {
			if pf := &nic.PFs[i]; pf.TotalVFs > 0 {
				out[fabric.PFID{PCI: pf.PCI, Serial: nic.Serial}] = PFState{ShapeOf(pf), pf.TotalVFs, pf.Driver}
			}
		}
	}
	return out, nil
}

// sysfs is where the kernel shows PCI functions.
const sysfs = "/sys/bus/pci"

// Reshape implements PFs.
func (f *Functions) Reshape(pf fabric.PFID, s ShapeStep) error {
	dir := filepath.Join(sysfs, "devices", pf.PCI.String())
	switch s.Kind {
	case SetVFs:
		up := linked(dir, nil)
		if err := write(filepath.Join(dir, "sriov_numvfs"), strconv.Itoa(s.VFs)); err != nil {
			return err
		}
		for end := time.Now().Add(linkWait); len(linked(dir, up)) < len(up) && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		return nil
	case SetESwitch:
		d, err := netlink.DevLinkGetDeviceByName("pci", pf.PCI.String())
		if err == nil {
			err = netlink.DevLinkSetEswitchMode(d, string(s.ESwitch))
		}
		return err
	default:
		return eachVF(dir, s.Kind == BindVFs)
	}
}

// linkWait is how long a PF may be without the link that it had before its VFs came or went: igb
// begins anew then, and refuses rates of VFs until the link is back.
const linkWait = 3 * time.Second

// linked returns the netdevs of a PF that have a link: of these, or of all if there are none. One
// that is gone needs none.
func linked(pf string, these []string) (out []string) {
	files := these
	if len(these) == 0 {
		files, _ = filepath.Glob(pf + "/net/*/carrier") // the pattern is none that could be wrong
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == "1" || len(these) > 0 && errors.Is(err, fs.ErrNotExist) {
			out = append(out, file)
		}
	}
	return out
}

// eachVF takes drivers off the VFs of a PF, or has the kernel look for them.
func eachVF(pf string, bind bool) error {
	vfs, err := filepath.Glob(pf + "/virtfn*")
	if err != nil {
		return err
	}
	for _, vf := range vfs {
		target, err := os.Readlink(vf)
		if err != nil {
			return err
		}
		address := filepath.Base(target)
		if bind {
			err = write(filepath.Join(sysfs, "drivers_probe"), address)
		} else if err = write(filepath.Join(vf, "driver/unbind"), address); errors.Is(err, fs.ErrNotExist) {
			err = nil // it has none
		}
		if err != nil {
			return fmt.Errorf("VF %s: %w", address, err)
		}
	}
	return nil
}

// write writes a word to a file of sysfs. What the driver says is the error.
func write(file, word string) error {
	f, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(word)
	if closed := f.Close(); err == nil {
		err = closed
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return fmt.Errorf("%s: %w", filepath.Base(file), errno)
	}
	return err
}
