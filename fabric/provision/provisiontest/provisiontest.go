// Package provisiontest is for testing what is built on package provision, and
// implementations of its interface: [VFs] is a blade's VFs in memory, and [Run] is
// the suite every implementation must pass, VFs first.
package provisiontest

import (
	"maps"
	"sync"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
)

// VFs are VFs in memory. Its methods may be called from several goroutines.
type VFs struct {
	// Fault, if not nil, is asked before every Write with what is to be written:
	// it returns what the driver makes of it, and an error.
	Fault func(fabric.VFID, fabric.Setting) (fabric.Setting, error)

	// Wrote, if not nil, is told of every Write that had an effect, with all there
	// is after it. It must not call back.
	Wrote func(map[fabric.VFID]fabric.VFState)

	mu   sync.Mutex // guards now
	have map[fabric.VFID]bool
	now  map[fabric.VFID]fabric.VFState
}

var _ provision.VFs = (*VFs)(nil)

// New returns clean VFs.
func New(ids ...fabric.VFID) *VFs {
	v := &VFs{have: map[fabric.VFID]bool{}, now: map[fabric.VFID]fabric.VFState{}}
	for _, id := range ids {
		v.have[id] = true
	}
	return v
}

// Set makes a VF so, behind everybody's back.
func (v *VFs) Set(vf fabric.VFID, s fabric.VFState) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.set(vf, s)
}

func (v *VFs) set(vf fabric.VFID, s fabric.VFState) {
	if s.Setting == (fabric.Setting{}) {
		delete(v.now, vf)
		return
	}
	v.now[vf] = s
}

// Read implements [provision.VFs].
func (v *VFs) Read() (map[fabric.VFID]fabric.VFState, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return maps.Clone(v.now), nil
}

// Write implements [provision.VFs].
func (v *VFs) Write(vf fabric.VFID, s fabric.Setting) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.have[vf] {
		return errUnknown(vf)
	}
	if v.Fault != nil {
		var err error
		if s, err = v.Fault(vf, s); err != nil {
			return err
		}
	}
	v.set(vf, fabric.VFState{Setting: s, Ours: true})
	if v.Wrote != nil {
		v.Wrote(maps.Clone(v.now))
	}
	return nil
}
