package fallback

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
)

// meaning numbers what verdicts and view make of a table, and is part of its digest: a
// program in which they are others must not go on with what an earlier one has cached.
const meaning = 1

// digest tells tables apart: what of t decides about any frame, which rule it counts for,
// and what this datapath can do with it. Names, tiers and priorities are in the order of
// the rules. Cost: 0.3 µs a rule.
func (d *Datapath) digest(t *flow.Table) (sum flowcache.Digest) {
	w := digester{hash: sha256.New()}
	w.numbers(meaning, uint64(t.Len()))
	for i := range t.Len() + 1 {
		w.rule(t.Rule(i))
	}
	sw := t.Switch()
	w.numbers(uint64(sw.Uplink()), uint64(len(sw.Stations())))
	for _, s := range sw.Stations() {
		w.numbers(uint64(s.VLAN), s.MAC, uint64(s.Port))
	}
	for port, links := range d.links {
		if len(links) > 0 {
			w.numbers(uint64(port))
		}
	}
	if d.kernel == nil {
		w.numbers(0)
	}
	w.flush()
	w.hash.Sum(sum[:0])
	return sum
}

// digester collects numbers for a hash.
type digester struct {
	hash   hash.Hash
	buffer []byte
}

func (w *digester) numbers(all ...uint64) {
	for _, n := range all {
		w.buffer = binary.LittleEndian.AppendUint64(w.buffer, n)
	}
	if len(w.buffer) > 1<<15 {
		w.flush()
	}
}

func (w *digester) flush() {
	w.hash.Write(w.buffer)
	w.buffer = w.buffer[:0]
}

func (w *digester) rule(r *flow.Rule) {
	m := &r.Match
	w.numbers(uint64(r.ID))
	w.numbers(m.Value[:]...)
	w.numbers(m.Mask[:]...)
	w.numbers(uint64(m.SrcPort.Lo), uint64(m.SrcPort.Hi), uint64(m.DstPort.Lo), uint64(m.DstPort.Hi), uint64(len(r.Actions)))
	for i := range r.Actions {
		a := &r.Actions[i]
		w.numbers(uint64(a.Op), uint64(a.Tag), uint64(a.Proto), uint64(a.Burst), a.Rate, uint64(len(a.Ports)), uint64(len(a.Settings)))
		for _, p := range a.Ports {
			w.numbers(uint64(p))
		}
		for _, s := range a.Settings {
			w.numbers(uint64(s.Field), s.Value, s.Mask)
		}
	}
}
