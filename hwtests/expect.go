package hwtests

import (
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// Spot is a place where frames are observed: where they leave a port, or arrive in
// the blade's kernel from its representor.
type Spot struct {
	Blade  int
	Port   flow.Port
	Kernel bool
}

// Outcome is what should come of one frame: the copies at each spot, and the rule
// of each blade that judged it.
type Outcome struct {
	Copies map[Spot][][]byte
	Judged []Judged
}

// Judged is one judgement: a frame of so many bytes that a rule of a blade answered.
type Judged struct {
	Blade int
	Rule  flow.RuleID
	Bytes int
}

// maxCrossings bounds how often a frame may cross the fabric: rules that send it back
// and forth between blades have no end.
const maxCrossings = 4

// Expect says what comes of a frame that enters a blade by a port, if the blades have
// these tables. It is flow.Judge, blade by blade: what leaves an uplink arrives at the
// uplink of every other blade.
func Expect(tables []*flow.Table, blade int, in flow.Port, frame []byte) (Outcome, error) {
	out := Outcome{Copies: map[Spot][][]byte{}}
	return out, out.judge(tables, blade, in, frame, 0)
}

func (o *Outcome) judge(tables []*flow.Table, blade int, in flow.Port, frame []byte, crossed int) error {
	if crossed > maxCrossings {
		return fmt.Errorf("blade %d: the rules send a frame around between blades without end", blade)
	}
	t := tables[blade]
	if k, err := flow.Parse(frame, in); err == nil {
		o.Judged = append(o.Judged, Judged{blade, t.Rule(t.Lookup(&k)).ID, len(frame)})
	}
	for _, e := range flow.Judge(t, frame, in) {
		spot := Spot{blade, e.Port, e.Kernel}
		o.Copies[spot] = append(o.Copies[spot], e.Bytes)
		if e.Kernel || e.Port != lab.Uplink {
			continue
		}
		for other := range tables {
			if other == blade {
				continue
			}
			if err := o.judge(tables, other, lab.Uplink, e.Bytes, crossed+1); err != nil {
				return err
			}
		}
	}
	return nil
}
