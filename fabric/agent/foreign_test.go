package agent

import (
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

// TestForeignAlike has an entry of others that does with its packets what the table says: the
// blade is as it is wanted, and the rule that it overlaps stays in software, with the reason. One
// of which nobody can say what it does is an error still.
func TestForeignAlike(t *testing.T) {
	r := newRig(t, 64)
	var m flow.Match
	m.Pin(flow.InPort, 3, flow.InPort.Max())
	m.Pin(flow.EthType, 0x88cc, flow.EthType.Max())
	alike := flow.Entry{ID: 1, Priority: 1 << 63, Match: m, Actions: flow.Actions{{Op: flow.Drop}}}
	r.nic.Put(alike)
	r.wanted.Want(table(t, 1, nil, "name=a,priority=2,in_port=vf1,eth_type=0x88cc actions=drop", "name=b,priority=1,in_port=vf0,eth_type=0x88cc actions=drop"))
	r.settle(2)
	s := r.agent.Status()
	if !s.Proved || s.Error != nil || s.Rules[0].Code != "E_FOREIGN" || s.Rules[0].Place != "software" || s.Rules[1].Place != "hardware" {
		t.Errorf("proved %v, error %+v, %+v, %+v", s.Proved, s.Error, s.Rules[0], s.Rules[1])
	}
	alike.Actions = nil
	r.nic.Put(alike)
	err := r.reconcile()
	if s := r.agent.Status(); err == nil || s.Proved || s.Error == nil || s.Error.Code != "E_FOREIGN" {
		t.Errorf("obscure: %v, %+v", err, s.Error)
	}
}
