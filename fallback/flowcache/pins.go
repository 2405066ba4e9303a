package flowcache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
)

// In a cache's directory its maps are pinned, by their names, and a link for each device.
// Whoever has the cache open has the directory locked.

// claim locks the directory, until the process ends. What locks it is a directory of its
// own: a bpffs has no plain files.
func (k *Cache) claim() (err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(k.dir), &st); err != nil || st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is not on a bpffs", filepath.Dir(k.dir))
	}
	if err := os.Mkdir(k.dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if k.lock, err = os.Open(k.dir); err != nil {
		return err
	}
	if err := unix.Flock(int(k.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fmt.Errorf("another process has it open: %w", err)
	}
	return nil
}

// eachMap calls f for every map and its name.
func (k *Cache) eachMap(f func(name string, m **ebpf.Map) error) error {
	m := &k.maps
	return errors.Join(f(xdp.CacheMapControl, &m.Control), f(xdp.CacheMapSets, &m.Sets), f(xdp.CacheMapBook, &m.Book),
		f(xdp.CacheMapPorts, &m.Ports), f(xdp.CacheMapDevices, &m.Devices), f(xdp.CacheMapDistant, &m.Distant), f(xdp.CacheMapOut, &m.Out),
		f(xdp.CacheMapSockets, &m.Sockets), f(xdp.CacheMapBarrier, &m.Barrier))
}

// load opens the pinned maps. On an error none is open.
func (k *Cache) load() error {
	err := k.eachMap(func(name string, m **ebpf.Map) (err error) {
		if *m, err = ebpf.LoadPinnedMap(filepath.Join(k.dir, name), nil); err != nil {
			return err
		}
		return k.spec.Maps[name].Compatible(*m)
	})
	if err == nil {
		var s xdp.CacheState
		if err = k.maps.Control.Lookup(uint32(0), &s); err == nil && s.Version != version {
			err = fmt.Errorf("version %d", s.Version)
		}
	}
	if err != nil {
		k.closeMaps()
	}
	return err
}

func (k *Cache) closeMaps() error {
	return k.eachMap(func(_ string, m **ebpf.Map) error {
		err := (*m).Close()
		*m = nil
		return err
	})
}

func (k *Cache) create() error {
	return k.eachMap(func(name string, m **ebpf.Map) (err error) {
		*m, err = ebpf.NewMap(k.spec.Maps[name])
		return err
	})
}

// pin pins new maps, over those of another version. The map that load asks first goes
// first and comes last: an owner that is killed in between leaves what nobody adopts.
func (k *Cache) pin() error {
	path := func(name string) string { return filepath.Join(k.dir, name) }
	remove := func(name string) error { return absent(os.Remove(path(name))) }
	if err := remove(xdp.CacheMapControl); err != nil {
		return err
	}
	err := k.eachMap(func(name string, m **ebpf.Map) error {
		if name == xdp.CacheMapControl {
			return nil
		}
		return errors.Join(remove(name), (*m).Pin(path(name)))
	})
	if err != nil {
		return err
	}
	return k.maps.Control.Pin(path(xdp.CacheMapControl))
}

// absent is an error of removing, unless it says that nothing was there.
func absent(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// linkPrefix begins the name of a link's pin, which ends with the number of its device:
// ports may have other numbers tomorrow.
const linkPrefix = "device-"

// findStrays opens the links that the owner before has pinned.
func (k *Cache) findStrays() error {
	files, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, f := range files {
		var ifindex int
		if _, err := fmt.Sscanf(f.Name(), linkPrefix+"%d", &ifindex); err != nil || !strings.HasPrefix(f.Name(), linkPrefix) {
			continue
		}
		l, err := link.LoadPinnedLink(filepath.Join(k.dir, f.Name()), nil)
		if err != nil {
			return err
		}
		k.strays[ifindex] = l
	}
	return nil
}
