package softnic

import (
	"context"
	"fmt"
	"sort"
	"sync/atomic"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// How a table is changed under traffic.
//
// The programs scan one array, sorted by priority, in memory that this driver has
// mapped. To put an entry in or out it makes the version odd, moves the entries
// behind it by one, and makes the version even. A program reads the version before
// and after its scan; if it is odd or has changed, the packet goes to software, which
// always holds the whole table. So a packet sees each single change wholly or not at
// all, a change costs no system call, and readers never wait.
//
// An entry's actions and counters are in a slot that does not move. A packet may
// still carry the number of a slot whose entry has just been taken out, so a slot
// rests until an RCU grace period has passed: Apply waits for one after its last
// remove, reads the final counters, which nothing can change any more, and only then
// frees the slots. A grace period takes about 8 ms; two tables in alternation would
// need one for every change, and a hash per mask would not honour priorities.
//
// Writers of all processes hold a lock on the pin directory; the kernel drops it when
// one dies. If it died in the middle of a change the version stays odd and nothing is
// answered any more, until the next to take the lock ends that change (change.go).

var _ offload.Driver = (*NIC)(nil)

// Model returns the model `softnic` with this card's size and ports.
func (n *NIC) Model(context.Context) (device.Model, error) {
	m, err := device.Load("softnic")
	if err != nil {
		return m, err
	}
	m.Entries = int(n.mem.Table.Limit)
	for _, p := range n.about.Ports {
		m.Ports = append(m.Ports, p.Port)
	}
	return m, nil
}

// Installed returns the entries in the order the card asks them, read from its maps
// by system calls and decoded. What no driver wrote is an entry for every packet that
// has no actions: nobody takes that for right, and it can be removed like any other.
// It waits for an Apply that is under way.
func (n *NIC) Installed(context.Context) ([]flow.Entry, error) {
	var out []flow.Entry
	err := n.locked(func() error {
		var t xdp.CardMatchTable
		if err := n.maps.Table.Lookup(uint32(0), &t); err != nil {
			return fmt.Errorf("read the table: %w", err)
		}
		if int(t.N) > len(t.Entry) {
			return fmt.Errorf("the table says it has %d entries", t.N)
		}
		for i := range t.Entry[:t.N] {
			line := &t.Entry[i]
			var s xdp.CardSlot
			err := n.maps.Slots.Lookup(line.Slot, &s)
			e := unreadable(line)
			if err == nil {
				if read, err := decode(line, &s); err == nil {
					e = read
				}
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}

// Apply carries out ops in order. Adds cost microseconds; if there was a remove, it
// waits once for a grace period (about 8 ms) to read final counters.
func (n *NIC) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := make([]offload.Outcome, len(ops))
	final := map[int]uint32{} // slots of entries that ops took out
	err := n.locked(func() error {
		for i := range ops {
			if ctx.Err() != nil {
				out[i] = offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: ctx.Err().Error()}
				continue
			}
			slot, removed := uint32(0), false
			out[i], slot, removed = n.operate(&ops[i])
			if removed {
				final[i] = slot
			}
		}
		if len(final) == 0 {
			return nil
		}
		if err := n.grace(); err != nil {
			return err
		}
		for i, slot := range final {
			out[i].Final = n.count(slot)
		}
		n.sweep()
		return nil
	})
	if err != nil {
		for i := range out {
			if out[i].Status == offload.Done {
				out[i] = offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: err.Error()}
			}
		}
	}
	return out
}

// operate carries out one op, with the faults that were asked for. removed says that
// slot is that of an entry whose remove is Done.
func (n *NIC) operate(op *offload.Op) (o offload.Outcome, slot uint32, removed bool) {
	f := &n.mem.Table.Faults
	lost := strike(&f.Unknown)
	if lost && f.UnknownDone == 0 {
		return silent(), 0, false
	}
	switch op.Kind {
	case offload.Add:
		if no := n.add(&op.Entry); no != nil {
			o = offload.Outcome{Status: offload.Refused, Code: no.code, Text: no.text}
		}
	case offload.Remove:
		i := n.find(op.Entry.ID)
		if i < 0 {
			o = offload.Outcome{Status: offload.Refused, Code: offload.CodeMissing, Text: fmt.Sprintf("softnic: no entry %x", op.Entry.ID)}
			break
		}
		slot, removed = n.mem.Table.Entry[i].Slot, true
		if !strike(&f.LoseRemove) {
			n.takeOut(i)
		}
	default:
		o = offload.Outcome{Status: offload.Refused, Code: offload.CodeDevice, Text: fmt.Sprintf("softnic: unknown operation %d", op.Kind)}
	}
	if lost {
		return silent(), 0, false
	}
	return o, slot, removed
}

func silent() offload.Outcome {
	return offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: "softnic: firmware did not answer"}
}

// add puts e behind all entries of its priority and above.
func (n *NIC) add(e *flow.Entry) *refusal {
	t := n.mem.Table
	if strike(&t.Faults.RefuseAdd) {
		return &refusal{offload.CodeDevice, "softnic: firmware refused the entry (injected)"}
	}
	if n.find(e.ID) >= 0 {
		return &refusal{offload.CodeExists, fmt.Sprintf("softnic: entry %x exists", e.ID)}
	}
	line, s, no := n.encode(e)
	if no != nil {
		return no
	}
	if t.N >= t.Limit {
		return &refusal{offload.CodeFull, fmt.Sprintf("softnic: no space left in the match table, %d of %d entries used", t.N, t.Limit)}
	}
	slot, err := n.free()
	if err != nil {
		return &refusal{offload.CodeDevice, "softnic: " + err.Error()}
	}
	s.Busy = 1
	n.mem.Slots[slot] = s
	line.Slot = slot
	at := sort.Search(int(t.N), func(i int) bool { return t.Entry[i].Priority < e.Priority })
	n.putIn(at, &line)
	return nil
}

// find returns the line of an entry, or -1.
func (n *NIC) find(id flow.EntryID) int {
	t := n.mem.Table
	for i := range t.Entry[:t.N] {
		if t.Entry[i].Id == uint64(id) {
			return i
		}
	}
	return -1
}

// free returns a slot that no entry has and no packet can still carry. There are
// twice as many slots as entries, so that it seldom has to wait for a grace period.
func (n *NIC) free() (uint32, error) {
	for range 2 {
		for i := range n.mem.Slots {
			if n.mem.Slots[i].Busy == 0 {
				return uint32(i), nil
			}
		}
		if err := n.grace(); err != nil {
			return 0, err
		}
		n.sweep()
	}
	return 0, fmt.Errorf("no free slot among %d", len(n.mem.Slots))
}

// sweep frees the slots that no line refers to. Whoever calls it has waited for a
// grace period since the last line was taken out.
func (n *NIC) sweep() {
	used := make([]bool, len(n.mem.Slots))
	for i := range n.mem.Table.Entry[:n.mem.Table.N] {
		if slot := int(n.mem.Table.Entry[i].Slot); slot < len(used) {
			used[slot] = true
		}
	}
	for i := range n.mem.Slots {
		if !used[i] {
			n.mem.Slots[i].Busy = 0
		}
	}
}

// locked calls f while no other handle writes, after the end of a change that a writer
// left half made when it died.
func (n *NIC) locked(f func() error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for {
		err := unix.Flock(int(n.lock.Fd()), unix.LOCK_EX)
		if err == nil {
			break
		}
		if err != unix.EINTR {
			return fmt.Errorf("lock the card: %w", err)
		}
	}
	defer unix.Flock(int(n.lock.Fd()), unix.LOCK_UN)
	if atomic.LoadUint64(&n.mem.Table.Version)&1 == 1 {
		n.end()
	}
	return f()
}

// Barrier returns once no packet is answered by the table as it was before the call:
// after one RCU grace period, about 8 ms, more under load.
func (n *NIC) Barrier(context.Context) error { return n.grace() }

// grace waits for an RCU grace period: an update of a map of maps from user space
// returns after one (maybe_wait_bpf_programs in the kernel's bpf/syscall.c). A program
// run, the redirect it asked for and the egress programs of its copies are all inside
// one read-side section (softirqs are off), so packets that saw an older table are
// done with it.
func (n *NIC) grace() error {
	inner, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	defer inner.Close()
	if err := n.maps.Barrier.Put(uint32(0), inner); err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// Counters returns what each installed entry has counted. It costs no system call but
// the lock's; packets and bytes of one entry may be read one packet apart.
func (n *NIC) Counters(context.Context) ([]offload.Count, error) {
	var out []offload.Count
	err := n.locked(func() error {
		t := n.mem.Table
		for i := range t.Entry[:t.N] {
			slot := int(t.Entry[i].Slot)
			if slot >= len(n.mem.Slots) {
				continue // unreadable
			}
			s := &n.mem.Slots[slot]
			if t.Faults.Stale == 0 {
				c := n.count(t.Entry[i].Slot)
				s.ReadPackets, s.ReadBytes = c.Packets, c.Bytes
			}
			out = append(out, offload.Count{Entry: flow.EntryID(t.Entry[i].Id), Counter: flow.Counter{Packets: s.ReadPackets, Bytes: s.ReadBytes}})
		}
		return nil
	})
	return out, err
}

// count returns what a slot has counted, nothing if there is no such slot.
func (n *NIC) count(slot uint32) flow.Counter {
	if int(slot) >= len(n.mem.Slots) {
		return flow.Counter{}
	}
	s := &n.mem.Slots[slot]
	return flow.Counter{Packets: atomic.LoadUint64(&s.Packets), Bytes: atomic.LoadUint64(&s.Bytes)}
}
