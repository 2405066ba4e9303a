package lab

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/softnic"
)

// Hardware is the card of a blade: it answers what comes in at Front of an [Attachment],
// gives the rest to Back, and takes what comes from Back to Front.
type Hardware interface {
	offload.Driver

	// Name is what agents call it.
	Name() string

	// Evict takes an entry out behind the back of whoever put it in.
	Evict(id flow.EntryID) error

	// Lie has the card answer other packets than it says, or otherwise: by not looking at
	// some bits, if it can. The zero key has it be honest again.
	Lie(blind flow.Key) error

	// Lost returns how many frames it lost at a port so far: what entries drop is not lost.
	Lost() (map[flow.Port]uint64, error)

	// Destroy takes it away.
	Destroy() error
}

// Plug makes the card of a blade whose netdevs are there and up, with room for so many
// entries.
type Plug func(b *Blade, entries int) (Hardware, error)

// emulated is the lab's own card.
type emulated struct{ *softnic.NIC }

var _ Hardware = emulated{}

// Lie implements Hardware.
func (e emulated) Lie(blind flow.Key) error { return e.SetFaults(softnic.Faults{Blind: blind}) }

// Deafen has the card never answer by an entry that matches any of these bits. The zero key has
// it be honest again.
func (e emulated) Deafen(bits flow.Key) error { return e.SetFaults(softnic.Faults{Deaf: bits}) }

// Leak has what entries drop leave by a port, and be counted as dropped. Port 0 has the card be
// honest again.
func (e emulated) Leak(by flow.Port) error { return e.SetFaults(softnic.Faults{Leak: by}) }

// Lost implements Hardware.
func (e emulated) Lost() (map[flow.Port]uint64, error) {
	stats, err := e.Stats()
	lost := map[flow.Port]uint64{}
	for _, s := range stats {
		lost[s.Port] = s.Lost
	}
	return lost, err
}

// plug makes the blade's card.
func (b *Blade) plug(make Plug, entries int) (err error) {
	if make == nil {
		make = plugSoftnic
	}
	if b.Hardware, err = make(b, entries); err != nil {
		b.Hardware = nil
		return fmt.Errorf("blade %s: %w", b.Name, err)
	}
	return nil
}

func plugSoftnic(b *Blade, entries int) (Hardware, error) {
	c := softnic.Config{Name: b.Name, Entries: entries, PinDir: b.PinDir}
	for _, p := range b.Attached {
		c.Ports = append(c.Ports, softnic.Port{Port: p.Port, Front: p.Front.Name, Back: p.Back.Name})
	}
	err := b.Card.Do(func() (err error) {
		b.NIC, err = softnic.Create(c)
		return err
	})
	return emulated{b.NIC}, err
}
