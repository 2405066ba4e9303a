package softnic

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// Faults are what tests can make a card do wrong. They are kept in the card, so they
// hold for every handle in every process, and last until they are set again. The
// zero value is an honest card.
type Faults struct {
	RefuseAdd  int // the k-th Add from now is refused; 0 is none
	LoseRemove int // the k-th Remove from now says Done and leaves the entry in
	Unknown    int // the k-th operation from now is answered with Unknown …
	// … after it was carried out, if UnknownDone is set; otherwise it was not.
	UnknownDone bool
	Stale       bool // Counters says what it said last, whatever was counted since
	// Blind are bits of every mask that the match does not look at, while the dump
	// shows them: silicon that lies.
	Blind flow.Key
	// Deaf are bits of masks that the card cannot look at: an entry that matches any of
	// them is in the dump and never answers.
	Deaf flow.Key
	// Leak is a port by which leaves what entries drop, and count as dropped; 0 is none.
	Leak flow.Port
}

// SetFaults replaces the card's faults.
func (n *NIC) SetFaults(f Faults) error {
	if min(f.RefuseAdd, f.LoseRemove, f.Unknown) < 0 {
		return fmt.Errorf("faults: a negative number of operations")
	}
	return n.locked(func() error {
		n.write(func() {
			m := &n.mem.Table.Faults
			for i := range m.Care {
				m.Care[i], m.Deaf[i] = ^f.Blind[i], f.Deaf[i]
			}
			m.Deafened, m.Leak = number(f.Deaf != flow.Key{}), uint32(f.Leak)
			m.RefuseAdd, m.LoseRemove, m.Unknown = uint32(f.RefuseAdd), uint32(f.LoseRemove), uint32(f.Unknown)
			m.UnknownDone, m.Stale = number(f.UnknownDone), number(f.Stale)
		})
		return nil
	})
}

func number(b bool) uint32 {
	if b {
		return 1
	}
	return 0
}

// strike counts a fault down and reports whether this is the time for it.
func strike(left *uint32) bool {
	if *left == 0 {
		return false
	}
	*left--
	return *left == 0
}

// Evict takes an entry out behind the back of whoever put it in, as firmware under
// pressure does. Its counters are lost.
func (n *NIC) Evict(id flow.EntryID) error {
	return n.locked(func() error {
		i := n.find(id)
		if i < 0 {
			return fmt.Errorf("evict: no entry %x", id)
		}
		n.takeOut(i)
		return nil
	})
}

// Reset empties the table, as a card does that has lost power. Faults stay.
func (n *NIC) Reset() error {
	return n.locked(func() error {
		n.write(func() { n.mem.Table.N = 0 })
		return nil
	})
}
