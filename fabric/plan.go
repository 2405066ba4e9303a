package fabric

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/bladeflow/bladeflow/flow"
)

// Problem. From what is seen to what is wanted, without a moment in which a workload
// sends past its rules, two VFs answer for one address, or a VF keeps what is no
// longer its. Whoever carries the plan out may stop anywhere; then the fabric is read
// and planned again.
//
// Idea. Make before break, in five passes over the VFs and blades:
//
//  1. prepare: clear VFs that nobody has and that are quiet; set up new VFs with the
//     link off; change rates and trust where the vNIC stays.
//  2. prove on the blades that no vNIC leaves: their content is in force and proved
//     before the link of a new VF goes on. What has no old place goes on here.
//  3. cut over: quiet each VF that a vNIC leaves, and at once switch on the new one.
//     This gap of two steps is the interruption a workload sees.
//  4. prove on the blades that were left: the old place's rules go only after the old
//     place is quiet. What moved onto such a blade goes on after that.
//  5. hold: what could not be done is said, with the reason.
//
// Invariants, after every step:
//   - of the VFs set to one VLAN and MAC at most one has its link on; others are set to
//     them only as quiet places of a vNIC that is being moved;
//   - a link goes on only on a blade whose wanted content is proved;
//   - a content is put in force only on a blade where each of our VFs with its link on is
//     in that content, at that address;
//   - nothing is done to a VF that others set up, or on a blade that cannot take it.
//
// And a workload that has traffic and is wanted has it again when the plan is done.
//
// Held blades. A blade that is silent or was never seen, and one whose content cannot
// be made, gets no step; nor does a blade from which a vNIC shall go to a held one,
// for its rules must stay as long as the vNIC does.

// StepKind is what a step does.
type StepKind uint8

// The kinds of steps.
const (
	Configure StepKind = iota // set the VF to Setting
	Connect                   // switch the VF's link on; Setting is what it then has
	Clear                     // make the VF clean
	Prove                     // hand the blade the content with Digest and wait until it is in force and proved
)

var stepNames = [...]string{"configure", "connect", "clear", "prove"}

// String returns the kind's word.
func (k StepKind) String() string { return stepNames[k] }

// Step is one thing to do on one blade. Doing it twice does no more than once.
type Step struct {
	Kind    StepKind
	Blade   BladeID
	VF      VFID     // valid unless Kind is Prove
	VNIC    VNICName // whose VF it is; zero if Kind is Prove, or nobody's
	Setting Setting  // of the VF after the step; valid unless Kind is Prove
	Digest  Digest   // valid iff Kind is Prove
}

// String writes the step on one line.
func (s Step) String() string {
	switch s.Kind {
	case Prove:
		return fmt.Sprintf("prove %s %.12s", s.Blade, s.Digest)
	case Clear:
		return fmt.Sprintf("clear %s", s.VF)
	case Connect:
		return fmt.Sprintf("connect %s for %s", s.VF, s.VNIC)
	}
	return fmt.Sprintf("%s %s for %s: %s", s.Kind, s.VF, s.VNIC, s.Setting)
}

// Hold is something wanted for which there is no step now.
type Hold struct {
	Blade BladeID
	VNIC  VNICName // zero if the whole blade is held
	Why   *flow.Fault
}

// Plan is the way from what is seen to what is wanted. It is empty iff there is no
// difference.
type Plan struct {
	Steps []Step // in the order to be done; Proves in a row may be waited for together
	Held  []Hold // by blade and vNIC
}

// Of returns the steps of one blade, in order.
func (p Plan) Of(blade BladeID) []Step {
	return slices.DeleteFunc(slices.Clone(p.Steps), func(s Step) bool { return s.Blade != blade })
}

// NewPlan plans. The spec must be valid ([Spec.Valid]). The same arguments give the
// same plan. Cost: that of [CompileAll], and a few passes over the VFs; 0.3 s for one
// move among 16,384 vNICs on 256 blades.
func NewPlan(want Spec, seen Snapshot) Plan {
	p := newPlanner(want, seen)
	p.hold()
	p.prepare()
	p.proveWhere(func(b BladeID) bool { return !p.left[b] })
	p.cutOver()
	p.proveWhere(func(b BladeID) bool { return p.left[b] })
	p.unconnected()
	slices.SortFunc(p.plan.Held, func(a, b Hold) int { return cmp.Or(cmp.Compare(a.Blade, b.Blade), a.VNIC.Compare(b.VNIC)) })
	return p.plan
}

// planner is a plan in the making: what is wanted, and how things are after the steps
// so far.
type planner struct {
	wanted map[VFID]place
	at     map[address]VFID // where each address is wanted
	digest map[BladeID]Digest
	order  []VFID // all VFs that are wanted or not clean
	blades []BladeID

	now    map[VFID]VFState
	proved map[BladeID]Digest
	on     map[address][]VFID // which VFs answer for each address

	held map[BladeID]*flow.Fault
	left map[BladeID]bool // blades with a VF that its vNIC leaves
	plan Plan
}

type place struct {
	vnic    VNICName
	setting Setting
}

func newPlanner(want Spec, seen Snapshot) *planner {
	p := &planner{wanted: map[VFID]place{}, at: map[address]VFID{}, digest: map[BladeID]Digest{},
		now: map[VFID]VFState{}, proved: map[BladeID]Digest{}, on: map[address][]VFID{},
		held: map[BladeID]*flow.Fault{}, left: map[BladeID]bool{}, blades: slices.Sorted(maps.Keys(want.Blades))}
	contents := CompileAll(want, seen)
	for _, id := range p.blades {
		b, known := seen.Blades[id]
		p.proved[id] = b.Proved
		maps.Copy(p.now, b.VFs)
		content := contents[id]
		p.digest[id] = content.Digest
		switch {
		case !known:
			p.held[id] = &flow.Fault{Code: "E_BLADE_UNSEEN", What: "blade " + string(id), Why: "no agent has reported it", Remedy: "start its agent"}
		case b.Silent():
			p.held[id] = &flow.Fault{Code: "E_BLADE_SILENT", What: "blade " + string(id), Why: fmt.Sprintf("its last report is %s old", b.Age.Round(1e9)),
				Remedy: "see that it runs and reaches the store; if it is off for good, delete it"}
		case content.Err != nil:
			p.held[id] = asFault(string(id), content.Err)
		}
	}
	for name, vf := range want.Assignments {
		v, _ := want.VNIC(name)
		s := want.setting(v)
		p.wanted[vf], p.at[s.address()] = place{name, s}, vf
	}
	all := maps.Clone(p.now)
	for vf := range p.wanted {
		all[vf] = VFState{}
	}
	p.order = sorted(all)
	for _, vf := range p.order {
		s := p.now[vf]
		if s.Traffic {
			p.on[s.address()] = append(p.on[s.address()], vf)
		}
		if w, ok := p.wanted[vf]; ok && s.Setting != (Setting{}) && !s.Ours && p.held[vf.Blade] == nil {
			p.held[vf.Blade] = &flow.Fault{Code: "E_VF_FOREIGN", What: vf.String(), Why: fmt.Sprintf("it is wanted for %s, but somebody else has set it up: %s", w.vnic, s.Setting),
				Remedy: "clear it by hand, or move the profile"}
		}
		if p.leaving(vf) {
			p.left[vf.Blade] = true
		}
	}
	return p
}

func asFault(blade string, err error) *flow.Fault {
	var f *flow.Fault
	if errors.As(err, &f) {
		return f
	}
	return &flow.Fault{Code: "E_CONTENT", What: "blade " + blade, Why: err.Error(), Err: err}
}

// leaving reports whether the VF is one of ours, its link on, and its address is not
// wanted there any more.
func (p *planner) leaving(vf VFID) bool {
	s := p.now[vf]
	w, wanted := p.wanted[vf]
	return s.Ours && s.Traffic && (!wanted || w.setting.address() != s.address())
}

// hold extends held to the blades that must wait for held ones.
func (p *planner) hold() {
	for more := true; more; {
		more = false
		for _, vf := range p.order {
			w, wanted := p.wanted[vf]
			if !wanted || p.held[vf.Blade] == nil {
				continue
			}
			for _, old := range p.on[w.setting.address()] {
				if p.leaving(old) && p.held[old.Blade] == nil {
					p.held[old.Blade] = &flow.Fault{Code: "E_HELD", What: "blade " + string(old.Blade),
						Why:    fmt.Sprintf("%s shall go to blade %s, which cannot take it: %s", w.vnic, vf.Blade, p.held[vf.Blade].Why),
						Remedy: "move it elsewhere, or help blade " + string(vf.Blade)}
					more = true
				}
			}
		}
	}
	for id, why := range p.held {
		p.plan.Held = append(p.plan.Held, Hold{Blade: id, Why: why})
	}
}

// do adds a step and follows what it does.
func (p *planner) do(kind StepKind, vf VFID, s Setting) {
	p.plan.Steps = append(p.plan.Steps, Step{Kind: kind, Blade: vf.Blade, VF: vf, VNIC: p.wanted[vf].vnic, Setting: s})
	if old := p.now[vf]; old.Traffic {
		p.on[old.address()] = slices.DeleteFunc(p.on[old.address()], func(o VFID) bool { return o == vf })
	}
	p.now[vf] = VFState{s, true}
	if s.Traffic {
		p.on[s.address()] = append(p.on[s.address()], vf)
	}
}

func (p *planner) prepare() {
	for _, vf := range p.order {
		if _, wanted := p.wanted[vf]; p.held[vf.Blade] == nil && !wanted && p.now[vf].Ours && !p.now[vf].Traffic && p.now[vf].Setting != (Setting{}) {
			p.do(Clear, vf, Setting{})
		}
	}
	for _, vf := range p.order {
		w, wanted := p.wanted[vf]
		s := p.now[vf]
		switch {
		case !wanted || p.held[vf.Blade] != nil || p.leaving(vf):
		case s.Traffic && s.Setting != w.setting:
			p.do(Configure, vf, w.setting)
		case !s.Traffic && s.Setting != w.setting.quiet():
			p.do(Configure, vf, w.setting.quiet())
		}
	}
}

// proveWhere has content proved on the blades that where picks, and switches on what
// waited for it.
func (p *planner) proveWhere(where func(BladeID) bool) {
	for _, id := range p.blades {
		if p.held[id] == nil && where(id) && p.proved[id] != p.digest[id] {
			p.plan.Steps = append(p.plan.Steps, Step{Kind: Prove, Blade: id, Digest: p.digest[id]})
			p.proved[id] = p.digest[id]
		}
	}
	for _, vf := range p.order {
		if where(vf.Blade) {
			p.connect(vf)
		}
	}
}

// connect switches the VF on if it waits for nothing else.
func (p *planner) connect(vf VFID) {
	w, wanted := p.wanted[vf]
	s := p.now[vf]
	free := len(p.on[w.setting.address()]) == 0
	if wanted && free && p.held[vf.Blade] == nil && s.Setting == w.setting.quiet() && p.proved[vf.Blade] == p.digest[vf.Blade] {
		p.do(Connect, vf, w.setting)
	}
}

func (p *planner) cutOver() {
	for _, vf := range p.order {
		if p.held[vf.Blade] != nil || !p.leaving(vf) {
			continue
		}
		old := p.now[vf].address()
		if w, wanted := p.wanted[vf]; wanted {
			p.do(Configure, vf, w.setting.quiet())
		} else {
			p.do(Clear, vf, Setting{})
		}
		if next, wanted := p.at[old]; wanted {
			p.connect(next)
		}
	}
}

// unconnected says why VFs of blades that are not held stay off.
func (p *planner) unconnected() {
	for _, vf := range p.order {
		w, wanted := p.wanted[vf]
		if !wanted || p.held[vf.Blade] != nil || p.now[vf].Setting == w.setting {
			continue
		}
		other := p.on[w.setting.address()][0]
		p.plan.Held = append(p.plan.Held, Hold{vf.Blade, w.vnic, &flow.Fault{Code: "E_MAC_IN_USE", What: "vNIC " + w.vnic.String(),
			Why:    fmt.Sprintf("%s still answers for its address, and nothing can be done to it", other),
			Remedy: "switch that VF or its blade off; a blade that is off for good can be deleted"}})
	}
}
