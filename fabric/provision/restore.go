package provision

import (
	"errors"
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/fabric"
)

// Restore makes a blade's cards what is wanted of them, from whatever they are: after a
// reboot or a reload of their drivers, where nothing is left, as after nothing at all,
// where nothing is done. Shapes come first, for VFs have to be there; then settings, as
// [NewPlan] has them, with in between called between their two parts: that is when the table
// has to be in force and proved. What fails of one card does not keep others from theirs;
// links go on only if nothing failed.
func Restore(blade fabric.BladeID, pfs PFs, vfs VFs, shapes map[fabric.PFID]Shape, want []fabric.Bound, between func() error) error {
	var errs []error
	for _, pf := range slices.SortedFunc(maps.Keys(shapes), func(a, b fabric.PFID) int { return a.PCI.Compare(b.PCI) }) {
		errs = append(errs, Reshape(pfs, vfs, pf, shapes[pf]))
	}
	seen, err := vfs.Read()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	p := NewPlan(blade, want, seen)
	for _, step := range p.Before {
		errs = append(errs, Do(vfs, step))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if between != nil {
		if err := between(); err != nil {
			return err
		}
	}
	for _, step := range p.After {
		errs = append(errs, Do(vfs, step))
	}
	return errors.Join(errs...)
}
