package fabric

import (
	"maps"
	"time"
)

// Snapshot is what is seen of the fabric, as the blades' agents report it.
type Snapshot struct {
	Blades map[BladeID]Seen
}

// Seen is one blade as its agent last reported it.
type Seen struct {
	Inventory Inventory
	VFs       map[VFID]VFState // as read back; a VF that is not in it is clean
	Room      map[PFID]Room    // of the device the PF is on; a PF that is not in it has none that is known
	Proved    Digest           // of the content in force, zero unless the checker has proved it on every device
	Revision  int64            // of the stored status
	Age       time.Duration    // since the report
}

// VFState is one VF that is not clean.
type VFState struct {
	Setting
	Ours bool // set up by bladeflow; what others set up is never touched
}

// Room is how full a device's table is.
type Room struct {
	Used  int // entries, as last read
	Limit int // 0 if it is not known
}

// Silence is how old a report may be. A blade whose report is older goes on as it
// was told last, but nothing can be asked of it.
const Silence = 30 * time.Second

// Silent reports whether nothing can be asked of the blade.
func (s Seen) Silent() bool { return s.Age > Silence }

// After returns the fabric as it is when the steps have been done, s unchanged.
func (s Snapshot) After(steps ...Step) Snapshot {
	s.Blades = maps.Clone(s.Blades)
	copied := map[BladeID]bool{}
	for _, step := range steps {
		b := s.Blades[step.Blade]
		if !copied[step.Blade] {
			b.VFs = without(b.VFs, func(VFID) bool { return false })
			copied[step.Blade] = true
		}
		switch step.Kind {
		case Prove:
			b.Proved = step.Digest
		case Clear:
			delete(b.VFs, step.VF)
		default:
			b.VFs[step.VF] = VFState{step.Setting, true}
		}
		s.Blades[step.Blade] = b
	}
	return s
}
