package fallback

import (
	"encoding/binary"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/matcher"
)

// program is one table made ready to run: the classifier, and the actions of all
// rules as one list of small steps. It is immutable.
type program struct {
	table *flow.Table
	match *matcher.Classifier
	seen  flow.Key // the bits of a key that rules look at
	code  []step
	entry []int32 // by place of the rule in the table: its first step in code

	edits    []edits    // of the steps that edit
	policing []policing // of those that police
}

// policing is a police action and its meter.
type policing struct {
	action *flow.Action
	meter  *meter
}

// step is one thing to do to a frame. An action with several ports is several steps.
type step struct {
	op    opcode
	port  flow.Port // valid iff op is send
	index uint32    // valid iff op is edit or police: of its edits, or of its policing
	tag   uint16    // valid iff op is push or set
	proto uint16    // valid iff op is push
}

type opcode uint8

const (
	drop   opcode = iota // the list ends here and sends nothing
	done                 // the list ends here after having sent
	normal               // the list ends here by the switch
	pass                 // the list ends here in the kernel
	send
	push
	pop
	set
	edit
	police
)

// compile makes t ready to run, with the meters that there are. Cost: linear in actions,
// plus matcher.Compile.
func compile(t *flow.Table, ms *meters) *program {
	p := &program{table: t, match: matcher.Compile(t), seen: seen(t), entry: make([]int32, t.Len()+1)}
	known := map[short]int32{}
	for i := range p.entry {
		begin := len(p.code)
		p.entry[i] = int32(begin)
		r := t.Rule(i)
		for at := range r.Actions {
			p.add(r, at, ms)
		}
		if s, ok := shortened(p.code[begin:]); ok {
			if at, is := known[s]; is {
				p.code, p.entry[i] = p.code[:begin], at
			} else {
				known[s] = int32(begin)
			}
		}
	}
	return p
}

// short is a list of at most two steps. Most rules have one, and few different ones: they
// share it, so that the code of a large table stays in the processor's nearest cache.
type short struct {
	length int
	steps  [2]step
}

// shortened returns code as a short, if it is one that rules may share: edits and meters are
// each rule's own.
func shortened(code []step) (s short, ok bool) {
	if len(code) > len(s.steps) {
		return s, false
	}
	for i, c := range code {
		if c.op == edit || c.op == police {
			return s, false
		}
		s.steps[i] = c
	}
	s.length = len(code)
	return s, true
}

// add appends the steps of one action of a rule.
func (p *program) add(r *flow.Rule, at int, ms *meters) {
	switch a := &r.Actions[at]; a.Op {
	case flow.Drop:
		p.code = append(p.code, step{op: drop})
	case flow.Normal:
		p.code = append(p.code, step{op: normal})
	case flow.Pass:
		p.code = append(p.code, step{op: pass})
	case flow.Output, flow.Mirror:
		for _, port := range a.Ports {
			p.code = append(p.code, step{op: send, port: port})
		}
		if a.Op == flow.Output {
			p.code = append(p.code, step{op: done})
		}
	case flow.VLANPush:
		p.code = append(p.code, step{op: push, tag: a.Tag, proto: a.Proto})
	case flow.VLANPop:
		p.code = append(p.code, step{op: pop})
	case flow.VLANSet:
		p.code = append(p.code, step{op: set, tag: a.Tag})
	case flow.Set:
		p.code = append(p.code, step{op: edit, index: uint32(len(p.edits))})
		p.edits = append(p.edits, newEdits(a.Settings))
	case flow.Police:
		p.code = append(p.code, step{op: police, index: uint32(len(p.policing))})
		p.policing = append(p.policing, policing{a, ms.of(flow.MeterID{Rule: r.ID, At: at})})
	}
}

// editor holds a frame while it is changed. The frame belongs to
// the link it came from and may not even be copied on the way to its output, so it
// moves into the editor's buffer with the first change, and not before.
type editor struct {
	frame  []byte // as it is now
	buffer []byte // grown to the longest frame seen
	start  int    // where frame begins in buffer; valid iff moved
	moved  bool
}

// room is how far a frame can grow at its front: no frame gets a third tag.
const room = 4 * flow.MaxTags

// load starts with a frame, which is not touched.
func (e *editor) load(frame []byte) { e.frame, e.moved = frame, false }

// move makes frame writable, with room in front.
func (e *editor) move() {
	if e.moved {
		return
	}
	if need := room + len(e.frame); need > len(e.buffer) {
		e.buffer = make([]byte, need)
	}
	n := copy(e.buffer[room:], e.frame)
	e.start, e.moved = room, true
	e.frame = e.buffer[room : room+n]
}

// tags returns how many whole VLAN tags the frame has, up to MaxTags.
func (e *editor) tags() int {
	n := 0
	for off := 12; n < flow.MaxTags && len(e.frame) >= off+6; off += 4 {
		if t := binary.BigEndian.Uint16(e.frame[off:]); t != flow.EthVLAN && t != flow.EthQinQ {
			break
		}
		n++
	}
	return n
}

// shift moves the two MACs, which stand in front of all tags, by n bytes.
func (e *editor) shift(n int) {
	e.move()
	macs := [12]byte(e.frame)
	e.start += n
	e.frame = e.buffer[e.start : e.start-n+len(e.frame)]
	copy(e.frame, macs[:])
}

// push puts a tag in front of the others; false means that there is no place left.
func (e *editor) push(proto, tag uint16) bool {
	if e.tags() == flow.MaxTags {
		return false
	}
	e.shift(-4)
	binary.BigEndian.PutUint16(e.frame[12:], proto)
	binary.BigEndian.PutUint16(e.frame[14:], tag)
	return true
}

// pop takes the outer tag off, if there is one.
func (e *editor) pop() {
	if e.tags() > 0 {
		e.shift(4)
	}
}

// setID gives the outer tag, if there is one, another id.
func (e *editor) setID(id uint16) {
	if e.tags() == 0 {
		return
	}
	e.move()
	tci := binary.BigEndian.Uint16(e.frame[14:])
	binary.BigEndian.PutUint16(e.frame[14:], tci&^flow.TagID|id)
}

// station returns where the frame as it is now wants to go.
func (e *editor) station() (vlan uint16, mac uint64) {
	if e.tags() > 0 {
		vlan = binary.BigEndian.Uint16(e.frame[14:]) & flow.TagID
	}
	return vlan, uint64(binary.BigEndian.Uint16(e.frame))<<32 | uint64(binary.BigEndian.Uint32(e.frame[2:]))
}
