// Package softnic is a NIC made of XDP programs on veth pairs, and its driver: the
// "hardware" of the lab. It has a bounded match table with masks, port ranges and
// priorities, counters per entry, and faults for tests. It never decides what
// belongs into the table (package offload does) and never makes a netdev (the lab
// does). Start reading with [Create]; bpf/card.c is the silicon.
package softnic

import (
	"errors"

	"github.com/bladeflow/bladeflow/flow"
)

// MaxEntries is the size of the match table that is compiled into the card.
const MaxEntries = 512

// Port is one port of a card: two netdevs in the card's namespace.
type Port struct {
	Port  flow.Port
	Front string // v0, p0: towards the workload or the wire
	Back  string // r0, ru: towards the representor in the blade's namespace
}

// Config says what card to make.
type Config struct {
	Name    string // at most 31 bytes; for messages
	Ports   []Port
	Entries int    // how many entries fit, 1 … MaxEntries; 0 means MaxEntries
	PinDir  string // a directory to make on a bpffs; the card lives there until Destroy
}

// NIC is a handle on a card: the driver. Any number of handles, in any number of
// processes, may be open at once; the card itself keeps all state.
type NIC struct{}

// Create makes a card of netdevs that exist and are up. The calling thread must be
// in the card's namespace. The card outlives its maker: see [NIC.Destroy].
func Create(c Config) (*NIC, error) { return nil, errors.New("softnic: not built yet") }

// Open returns a handle on the card that was created with this PinDir. The calling
// thread may be in any network namespace.
func Open(pinDir string) (*NIC, error) { return nil, errors.New("softnic: not built yet") }

// Close lets go of the card, which lives on.
func (n *NIC) Close() error { return nil }

// Destroy takes the card off its netdevs, removes its pins and closes the handle.
func (n *NIC) Destroy() error { return nil }
