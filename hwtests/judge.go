package hwtests

import (
	"fmt"
	"sync/atomic"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// judge holds what came of a flood against the tables that were in force meanwhile.
//
// Problem: half a million packets in a part, each with two or three tables that may have
// judged it. Idea: what flow.Judge says of a frame depends on its number only in that
// every copy carries it, in its last bytes. So each table is asked once for each different
// frame, and the copies are stamped and hashed anew for each packet.
type judge struct {
	ch       *Chassis
	flood    *flood
	commits  []Commit
	software *witnessed
	lost     uint64 // frames and copies, as counted by what lost them

	places  []Spot
	spots   map[Spot]int // their places
	said    []map[frameID][]copied
	slowest int64 // time in ns from a packet's sending to its last copy
	found   Changed
}

// frameID is one of the different frames: which of which stream.
type frameID struct{ stream, frame int }

// copied is one copy of a frame: where it comes, and what it is but for its number.
type copied struct {
	spot  int
	frame []byte
}

// judged is what is known of one packet.
type judged struct {
	cells       []observe.Cell // at every place
	last        int64          // when the last copy came; 0 if none did
	from, until int            // the commits that may have judged it
	explains    []bool         // of them, those that do, perhaps as a packet that was lost
}

func (j *judge) judge() error {
	j.places = j.ch.spots()
	j.spots = map[Spot]int{}
	for i, s := range j.places {
		j.spots[s] = i
	}
	for range j.commits {
		j.said = append(j.said, map[frameID][]copied{})
	}
	for _, c := range j.commits[1:] {
		j.found.SwapMicros += float64(c.After-c.Before) / 1000 / float64(len(j.commits)-1)
	}
	p := judged{cells: make([]observe.Cell, len(j.places)), explains: make([]bool, len(j.commits))}
	for s, sent := range j.flood.sent {
		for i := range sent {
			if j.look(&p, j.flood.first(s)+uint64(i)); p.last > 0 {
				j.slowest = max(j.slowest, p.last-sent[i])
			}
		}
	}
	for s, sent := range j.flood.sent {
		var card, software, port int // the commits that judged the last packets of the queues
		begin := 0
		for i := range sent {
			sequence := j.flood.first(s) + uint64(i)
			j.look(&p, sequence)
			for begin+1 < len(j.commits) && j.commits[begin+1].After <= sent[i] {
				begin++
			}
			if err := j.explain(&p, s, sequence, begin, sent[i]); err != nil {
				return err
			}
			queue := &card
			if j.software.has(sequence) {
				queue = &software
			} else {
				j.found.Hardware++
			}
			if !p.follow(queue) {
				j.found.Back++
				j.differ(&p, sequence, fmt.Sprintf("judged by an older table than a packet before it in its queue (commit %d)", *queue))
			}
			if !p.follow(&port) {
				j.found.Overtaken++
			}
		}
		j.found.Packets += len(sent)
	}
	j.found.Lost = j.lost
	if more := j.found.Unseen - int(j.lost); more > 0 {
		j.found.Neither += more
		j.found.Different = append(j.found.Different, fmt.Sprintf("%d packets did not all come, and only %d frames were lost", j.found.Unseen, j.lost))
	}
	return nil
}

// look reads what came of a packet.
func (j *judge) look(p *judged, sequence uint64) {
	p.last = 0
	for i, spot := range j.places {
		p.cells[i] = j.ch.observer(spot).Cell(sequence)
		p.last = max(p.last, p.cells[i].Last)
	}
}

// explain finds out which of the tables that were in force while a packet was under way
// explain what came of it. from is the last that was in force when it was sent.
func (j *judge) explain(p *judged, stream int, sequence uint64, from int, sent int64) error {
	until := p.last
	if until == 0 { // nothing came: it was decided at the latest when the slowest would have come
		until = sent + j.slowest
	}
	p.from, p.until = from, from+1
	for p.until < len(j.commits) && j.commits[p.until].Before <= until {
		p.until++
	}
	if p.until > p.from+1 {
		j.found.Between++
	}
	wholly, partly := false, false
	for i := p.from; i < p.until; i++ {
		copies, err := j.ask(i, stream, sequence)
		if err != nil {
			return err
		}
		came := j.compare(p, copies, sequence)
		p.explains[i] = came == all || came == less && j.lost > 0
		wholly = wholly || came == all
		partly = partly || p.explains[i]
	}
	switch {
	case wholly:
	case partly:
		j.found.Unseen++
	default:
		j.found.Neither++
		j.differ(p, sequence, "no table explains what came of it")
	}
	if p.from+1 < len(j.commits) {
		differ, err := j.tellApart(p.from, stream, sequence)
		if err != nil {
			return err
		}
		if differ {
			j.found.Differ++
		}
	}
	return nil
}

// follow moves a queue on to the table that judged the next packet of it: the first from
// where it is that explains the packet. It is false if all that do are older.
func (p *judged) follow(queue *int) bool {
	explained := false
	for i := p.from; i < p.until; i++ {
		if p.explains[i] && i >= *queue {
			*queue = i
			return true
		}
		explained = explained || p.explains[i]
	}
	return !explained // Neither says so
}

// ask returns what should come of a frame under the table of a commit.
func (j *judge) ask(commit, stream int, sequence uint64) ([]copied, error) {
	s := &j.flood.streams[stream]
	id := frameID{stream, int(sequence % uint64(len(s.Frames)))}
	if out, known := j.said[commit][id]; known {
		return out, nil
	}
	tables := make([]*flow.Table, len(j.ch.Blades))
	tables[s.Blade] = j.commits[commit].Table
	expected, err := Expect(tables, s.Blade, s.Port, j.flood.stamped(sequence))
	if err != nil {
		return nil, err
	}
	out := []copied{}
	for spot, frames := range expected.Copies {
		for _, f := range frames {
			if _, ours := traffic.Sequence(f); !ours {
				return nil, fmt.Errorf("packet %d: a copy without its number: %x", sequence, f)
			}
			out = append(out, copied{j.spots[spot], f})
		}
	}
	j.said[commit][id] = out
	return out, nil
}

// What came of a packet, beside what a table sends.
type extent int

const (
	strange extent = iota // something that it does not send
	less                  // nothing else, and not all
	all
)

// compare holds what came of a packet against the copies that should.
func (j *judge) compare(p *judged, copies []copied, sequence uint64) extent {
	came := all
	for _, c := range copies {
		traffic.Stamp(c.frame, sequence)
	}
	for i := range p.cells {
		got := &p.cells[i]
		var want observe.Cell
		for _, c := range copies {
			if c.spot == i {
				want.Copies++
				want.Bytes += uint32(len(c.frame))
				want.Hash += observe.Hash(c.frame)
			}
		}
		switch {
		case got.Same(want):
		case some(got, copies, i):
			came = less
		default:
			return strange
		}
	}
	return came
}

// some reports whether what came at a spot is some of the copies that should.
func some(got *observe.Cell, copies []copied, spot int) bool {
	var here [][]byte
	for _, c := range copies {
		if c.spot == spot {
			here = append(here, c.frame)
		}
	}
	for chosen := range 1 << len(here) { // a rule sends few copies to one port
		var want observe.Cell
		for i, f := range here {
			if chosen>>i&1 == 1 {
				want.Copies++
				want.Bytes += uint32(len(f))
				want.Hash += observe.Hash(f)
			}
		}
		if got.Same(want) {
			return true
		}
	}
	return false
}

// tellApart reports whether a packet shows which of a commit and the next judged it.
func (j *judge) tellApart(commit, stream int, sequence uint64) (bool, error) {
	a, err := j.ask(commit, stream, sequence)
	if err != nil {
		return false, err
	}
	b, err := j.ask(commit+1, stream, sequence)
	if err != nil {
		return false, err
	}
	p := judged{cells: make([]observe.Cell, len(j.places))}
	for _, c := range a {
		traffic.Stamp(c.frame, sequence)
		w := &p.cells[c.spot]
		w.Copies++
		w.Bytes += uint32(len(c.frame))
		w.Hash += observe.Hash(c.frame)
	}
	return j.compare(&p, b, sequence) != all, nil
}

func (j *judge) differ(p *judged, sequence uint64, why string) {
	if len(j.found.Different) == 10 {
		return
	}
	s := j.flood.streams[int(sequence)/j.flood.room]
	var came []string
	for i, c := range p.cells {
		if c.Copies > 0 {
			came = append(came, fmt.Sprintf("%+v: %d of %d bytes (%#x)", j.places[i], c.Copies, c.Bytes, c.Hash))
		}
	}
	j.found.Different = append(j.found.Different, fmt.Sprintf("port %d, frame %x, in software %t, commits %d to %d, explained %v: %s: came %v",
		s.Port, j.flood.stamped(sequence), j.software.has(sequence), p.from, p.until-1, p.explains[p.from:p.until], why, came))
}

// witnessed notes which packets come to software.
type witnessed struct{ bits []atomic.Uint64 }

func newWitnessed(packets int) *witnessed {
	return &witnessed{make([]atomic.Uint64, (packets+63)/64)}
}

// tap is told each frame that software receives.
func (w *witnessed) tap(_ flow.Port, frame []byte) {
	if n, ours := traffic.Sequence(frame); ours && n/64 < uint64(len(w.bits)) {
		w.bits[n/64].Or(1 << (n % 64))
	}
}

func (w *witnessed) has(sequence uint64) bool {
	return w.bits[sequence/64].Load()>>(sequence%64)&1 == 1
}

func (w *witnessed) reset() {
	for i := range w.bits {
		w.bits[i].Store(0)
	}
}
