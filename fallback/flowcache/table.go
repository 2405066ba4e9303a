package flowcache

import (
	"maps"
	"math"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/fallback/flowcache/internal/xdp"
	"github.com/bladeflow/bladeflow/flow"
)

// table is the cache's memory and the rules by which it is written.
//
// Problem. The program reads entries at any moment, on any CPU, while Go writes them by
// plain stores. A packet must never be answered by half an entry, by an entry for another
// key, or by the table before the current one; and every packet must be counted for the
// rule that answered it, and for no other, though its counter is about to be reused.
//
// Idea. One word of an entry, its stamp, says both whether it is whole and which table it
// belongs to: the number of the epoch it is valid in, stored last, or zero once it is taken
// out. One word of the cache is the current epoch. An entry answers iff its stamp is the current
// epoch, so that one store makes all entries void. A verdict is stamped with the epoch of
// the table it was reached by, never with the current one: what comes late is born void.
//
// What a packet may still see is not written. An entry that is taken out, or that a new
// epoch made void, rests until an RCU grace period has passed; each packet is handled in
// one RCU read-side section, so that nobody looks at it then, and nobody is about to count
// in it. Hence the program need not look at the stamp a second time, as with a sequence
// lock; and the counters of a rested entry are final. They go into the book, a line for
// each rule, before the entry is written anew.
//
// The view. An epoch comes with a mask of the bits that any verdict of its table depends
// on. The program looks packets up under this mask, so a table that never looks at the
// TTL does not make each TTL a flow. There are two masks, by the last bit of the epoch:
// the next one is written while packets may still look at the current one, and the one
// before is out of use because every epoch begins after a grace period. Beside it
// stands which table it is of: an owner that comes with the table that the epoch began
// with, because it was restarted, goes on with the epoch.
//
// Places. A flow may be in the four entries of one set, which a hash with secret factors
// finds: nobody can make flows that share a set. Where all four are in use, that which
// has counted nothing since the last time somebody asked is taken out, and whoever comes
// after its rest gets the place. A flood of new flows thus takes no place from one with
// traffic.
//
// The book. A rule keeps its line for as long as it is in a table, or a packet may still
// count for it, or it has counted what the owner has not kept elsewhere: see forget. So the
// book holds the rules of today, and not all that there ever were.
//
// Invariant. Under lock: an entry's stamp is zero, or below settled, or its content is
// whole. Every packet that the program answered is in the packets of exactly one entry or
// line.
//
// An owner can be killed between any two instructions. A stamp is stored last, and
// counters move into the book through a line that says how the book looks afterwards: who
// comes next does that again.
type table struct {
	mem     *xdp.Memory
	lines   map[flow.RuleID]uint32       // the line of each rule in the book
	vacant  []uint32                     // lines that were some rule's, and are not any more
	top     uint32                       // lines from here on never were one's
	past    map[flow.RuleID]flow.Counter // what rules had counted that lost their line
	resting map[uint32]bool              // entries that were taken out and that packets may still see
	settled uint64                       // no packet sees an epoch before this one
	spots   [together]spot               // of the flows that install works on
	warmth  uint64                       // what warm has read: else a compiler would not read it
	told    []uint64                     // packets of each entry that busiest has told of; nil until somebody asks
}

// together is how many flows are installed at a time.
const together = 64

// spot is what is known of a flow before it is installed.
type spot struct {
	key        flow.Key // under the view
	set, first uint32
}

// newTable takes memory over from whoever had it, and ends what that one left half done.
// A grace period must have passed since it died.
func newTable(m *xdp.Memory) *table {
	t := &table{mem: m, lines: map[flow.RuleID]uint32{}, past: map[flow.RuleID]flow.Counter{}, resting: map[uint32]bool{}, settled: m.State.Epoch}
	t.carryOver()
	for i := range uint32(len(m.Book)) {
		if m.Book[i].Used == 0 {
			continue
		}
		for ; t.top < i; t.top++ {
			t.vacant = append(t.vacant, t.top)
		}
		t.top = i + 1
		t.lines[flow.RuleID(m.Book[i].Rule)] = i
	}
	return t
}

// epoch returns the current one.
func (t *table) epoch() uint64 { return atomic.LoadUint64(&t.mem.State.Epoch) }

// prepare returns the epoch of a table: the current one if it began with this table, else
// the next, whose view is written here. The current one must have settled.
func (t *table) prepare(view *flow.Key, of Digest) uint64 {
	epoch := t.epoch()
	if v := &t.mem.State.View[epoch&1]; of != (Digest{}) && v.Table == of && v.Mask == *view {
		return epoch
	}
	v := &t.mem.State.View[(epoch+1)&1]
	v.Mask, v.Table = *view, of
	return epoch + 1
}

// begin makes a prepared epoch the current one, in which somebody listens. If it is the
// next, every entry is void.
func (t *table) begin(epoch uint64) {
	if epoch != t.epoch() {
		atomic.StoreUint64(&t.mem.State.Epoch, epoch)
	}
	atomic.StoreUint64(&t.mem.State.Silent, 0)
}

// hush has nobody listen until an epoch begins.
func (t *table) hush() { atomic.StoreUint64(&t.mem.State.Silent, t.epoch()) }

// annul makes all entries void, and has nobody listen. The current epoch must have
// settled.
func (t *table) annul() {
	next := t.epoch() + 1
	t.mem.State.View[next&1].Table = Digest{}
	atomic.StoreUint64(&t.mem.State.Silent, next)
	atomic.StoreUint64(&t.mem.State.Epoch, next)
}

// place returns the set of a key under the current view, and the way to begin with.
func (t *table) place(k *flow.Key) (set uint32, first uint32) {
	var h uint64
	for i, w := range k {
		h += (w ^ w>>32) * t.mem.State.Mix[i]
	}
	return uint32(h >> 48 & t.mem.State.Last), uint32(h>>46) % uint32(ways)
}

// ways is how many entries share a set.
const ways = len(xdp.CacheSet{}.Way)

// outcome is what became of an install.
type outcome int

const (
	installed outcome = iota
	known             // it was there
	full              // no place, and none was made, or no line in the book
	evicting          // no place, but there will be one soon
	late              // its epoch is over
)

// install puts in what frames of these flows get, at most together of them, and tells of
// each what became of it.
//
// Nearly all of the time goes into memory that is in no cache. So all places are read first,
// which the processor does for many flows at once, and only then written, by stores of which
// the last waits for those before it. Cost of a flow among many, 1,024 of them in a cache of
// the default size: 90 ns; one by one it was 270 (medians of six, EPYC, load 7).
func (t *table) install(epoch uint64, flows []Flow, became func(outcome)) {
	if epoch != t.epoch() {
		for range flows {
			became(late)
		}
		return
	}
	view := &t.mem.State.View[epoch&1].Mask
	for i := range flows {
		s := &t.spots[i]
		for w, mask := range view {
			s.key[w] = flows[i].Key[w] & mask
		}
		s.set, s.first = t.place(&s.key)
	}
	t.warm(t.spots[:len(flows)])
	for i := range flows {
		became(t.installOne(epoch, &t.spots[i], &flows[i]))
	}
}

// warm reads what installOne will look at, as a rule: both lines of a flow's first place. In
// loops this short the processor has as many reads under way as it can wait for.
func (t *table) warm(spots []spot) {
	sum, sets := uint64(0), t.mem.Sets
	for i := range spots {
		s := &spots[i]
		sum += atomic.LoadUint64(&sets[s.set].Way[s.first].Stamp)
	}
	for i := range spots {
		s := &spots[i]
		sum += sets[s.set].Way[s.first].Key[0]
	}
	t.warmth = sum
}

// installOne takes the first place that is free, and looks no further. So a flow may be in
// twice, if it comes up once more after a place before its own has become free; both say the
// same, packets meet the first, and the other goes when its place is wanted.
func (t *table) installOne(epoch uint64, s *spot, f *Flow) outcome {
	var free *xdp.CacheEntry
	var at uint32
	for i := range uint32(ways) {
		way := (s.first + i) % uint32(ways)
		e := &t.mem.Sets[s.set].Way[way]
		stamp := atomic.LoadUint64(&e.Stamp)
		if stamp == epoch {
			if e.Key == s.key {
				return known
			}
			continue
		}
		if stamp < t.settled && !t.rests(index(s.set, way)) {
			free, at = e, index(s.set, way)
			break
		}
	}
	if free == nil {
		return t.evict(epoch, s.set)
	}
	line, ok := t.line(f.Rule)
	if !ok {
		return full
	}
	t.harvest(at)
	free.Key, free.Verdict, free.Line, free.Seen = s.key, f.Verdict.encode(), line, math.MaxUint64
	atomic.StoreUint64(&free.Stamp, epoch)
	return installed
}

// rests reports whether packets may still see an entry that was taken out.
func (t *table) rests(i uint32) bool { return len(t.resting) > 0 && t.resting[i] }

// index numbers entries.
func index(set, way uint32) uint32 { return set*uint32(ways) + way }

func (t *table) entry(i uint32) *xdp.CacheEntry {
	return &t.mem.Sets[i/uint32(ways)].Way[i%uint32(ways)]
}

// evict takes one of a set's entries out if it has counted nothing since the last call.
func (t *table) evict(epoch uint64, set uint32) outcome {
	for way := range uint32(ways) {
		e := &t.mem.Sets[set].Way[way]
		if atomic.LoadUint64(&e.Stamp) != epoch {
			return evicting // it rests already
		}
		if n := atomic.LoadUint64(&e.Packets) + atomic.LoadUint64(&e.MorePackets); n != e.Seen {
			e.Seen = n
			continue
		}
		atomic.StoreUint64(&e.Stamp, 0)
		t.resting[index(set, way)] = true
		return evicting
	}
	return full
}

// expel takes all entries out that forward to a port. Cost: 0.1 ms for a cache of the
// default size.
func (t *table) expel(to flow.Port) {
	epoch := t.epoch()
	for i := range t.mem.Sets {
		for way := range uint32(ways) {
			e := &t.mem.Sets[i].Way[way]
			if atomic.LoadUint64(&e.Stamp) == epoch && Op(e.Verdict.Op) == Forward && flow.Port(e.Verdict.Port) == to {
				atomic.StoreUint64(&e.Stamp, 0)
				t.resting[index(uint32(i), way)] = true
			}
		}
	}
}

// rested frees entries after a grace period.
func (t *table) rested(entries []uint32) {
	for _, i := range entries {
		delete(t.resting, i)
	}
}

// line returns a rule's line in the book; ok is false if the book is full.
func (t *table) line(rule flow.RuleID) (line uint32, ok bool) {
	if line, ok := t.lines[rule]; ok {
		return line, true
	}
	if last := len(t.vacant) - 1; last >= 0 {
		line, t.vacant = t.vacant[last], t.vacant[:last]
	} else if int(t.top) < len(t.mem.Book) {
		line = t.top
		t.top++
	} else {
		return 0, false
	}
	l := &t.mem.Book[line]
	l.Rule, l.Packets, l.Bytes = uint64(rule), 0, 0
	atomic.StoreUint64(&l.Used, 1)
	t.lines[rule] = line
	return line, true
}

// forget takes their lines from rules, if more than half of the book is in use: from those
// that the current table has not, that no packet can count for any more, and whose counters
// are as kept has them, so that an owner that dies right after loses nothing. It returns
// these rules. Cost: 3 ms for a full book and a cache of the default size.
func (t *table) forget(kept map[flow.RuleID]flow.Counter, has func(flow.RuleID) bool) (forgotten []flow.RuleID) {
	if len(t.lines) <= len(t.mem.Book)/2 {
		return nil
	}
	counting := make([]bool, t.top)
	for i := range uint32(len(t.mem.Sets) * ways) {
		if e := t.entry(i); atomic.LoadUint64(&e.Stamp) >= t.settled || t.rests(i) {
			counting[e.Line] = true
		} else {
			t.harvest(i)
		}
	}
	for rule, line := range t.lines {
		if counting[line] || has(rule) {
			continue
		}
		l := &t.mem.Book[line]
		n := plus(t.past[rule], l)
		if kept[rule] != n {
			continue
		}
		if n.Packets > 0 {
			t.past[rule] = n
		}
		atomic.StoreUint64(&l.Used, 0)
		delete(t.lines, rule)
		t.vacant = append(t.vacant, line)
		forgotten = append(forgotten, rule)
	}
	return forgotten
}

// plus adds what a line of the book has.
func plus(n flow.Counter, l *xdp.CacheLine) flow.Counter {
	return flow.Counter{Packets: n.Packets + l.Packets, Bytes: n.Bytes + l.Bytes}
}

// harvest moves what an entry has counted into the book. No packet may see the entry.
func (t *table) harvest(i uint32) {
	e := t.entry(i)
	packets, bytes := e.Packets+e.MorePackets, e.Bytes+e.MoreBytes
	if packets == 0 {
		return
	}
	if t.told != nil {
		t.told[i] = 0
	}
	l, x := &t.mem.Book[e.Line], &t.mem.State.Transfer
	x.Line, x.Packets, x.Bytes = uint64(e.Line), l.Packets+packets, l.Bytes+bytes
	atomic.StoreUint64(&x.Entry, uint64(i)+1)
	t.carryOver()
}

// carryOver ends a transfer. To do it again, or a part of it, does no harm.
func (t *table) carryOver() {
	x := &t.mem.State.Transfer
	if x.Entry == 0 {
		return
	}
	l, e := &t.mem.Book[x.Line], t.entry(uint32(x.Entry-1))
	atomic.StoreUint64(&l.Packets, x.Packets)
	atomic.StoreUint64(&l.Bytes, x.Bytes)
	for _, n := range []*uint64{&e.Packets, &e.Bytes, &e.MorePackets, &e.MoreBytes} {
		atomic.StoreUint64(n, 0)
	}
	atomic.StoreUint64(&x.Entry, 0)
}

// counters returns what each rule's flows have counted, in the book and out of it.
func (t *table) counters() map[flow.RuleID]flow.Counter {
	sum := make([]flow.Counter, t.top) // by line, of entries
	for i := range t.mem.Sets {
		for w := range ways {
			e := &t.mem.Sets[i].Way[w]
			if n := atomic.LoadUint64(&e.Packets) + atomic.LoadUint64(&e.MorePackets); n > 0 {
				sum[e.Line].Packets += n
				sum[e.Line].Bytes += atomic.LoadUint64(&e.Bytes) + atomic.LoadUint64(&e.MoreBytes)
			}
		}
	}
	out := maps.Clone(t.past)
	for rule, line := range t.lines {
		n := plus(out[rule], &t.mem.Book[line])
		if n = (flow.Counter{Packets: n.Packets + sum[line].Packets, Bytes: n.Bytes + sum[line].Bytes}); n.Packets > 0 {
			out[rule] = n
		}
	}
	return out
}

// flows returns how many entries answer.
func (t *table) flows() int {
	n, epoch := 0, t.epoch()
	for i := range t.mem.Sets {
		for w := range ways {
			if atomic.LoadUint64(&t.mem.Sets[i].Way[w].Stamp) == epoch {
				n++
			}
		}
	}
	return n
}
