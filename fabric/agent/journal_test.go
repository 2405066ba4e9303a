package agent

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// TestJournal ends the agent at each operation of a change. The journal is there before the
// first one and names the change; the agent that comes after says so, and brings the device
// to where a run without an end would have, right after every operation.
func TestJournal(t *testing.T) {
	first, second := web(t, 1), table(t, 2, nil,
		"name=block,priority=300,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/24,dst_port=25 actions=drop",
		"name=web,priority=200,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/16,dst_port=80-443 actions=output:vf2",
		"name=all,priority=100,in_port=vf0,dst_ip=10.0.0.0/8 actions=output:vf2")
	clean := newRig(t, 64)
	clean.wanted.Want(second)
	clean.settle(1)
	right := clean.installed()
	type end struct{} // what the agent ends by
	run := func(t *testing.T, at int) (ended bool) {
		r := newRig(t, 64)
		c := r.config()
		c.State = filepath.Join(t.TempDir(), "b1")
		r.agent = New(c)
		r.wanted.Want(first)
		r.settle(1)
		journal := func() (e entry) {
			text, err := os.ReadFile(c.State + ".journal")
			if err == nil {
				err = json.Unmarshal(text, &e)
			}
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		if e := journal(); e.To != 1 || e.Phase != phaseDone {
			t.Fatalf("%+v", e)
		}
		start := r.nic.Ops()
		r.nic.Fault = func(n int, _ *offload.Op) offloadtest.Effect {
			want := phaseRetire
			if r.software.current() == second {
				want = phasePromote
			}
			if e := journal(); n >= start && (e.From != 1 || e.To != 2 || e.Phase != want || e.Plan == "") {
				t.Errorf("before operation %d the journal says %+v", n, e)
			}
			return offloadtest.Works
		}
		r.nic.After = func(n int, _ *offload.Op) {
			if n == start+at {
				panic(end{})
			}
		}
		r.wanted.Want(second)
		func() {
			defer func() {
				if what := recover(); what != nil {
					if _, ended = what.(end); !ended {
						panic(what)
					}
				}
			}()
			r.reconcile()
		}()
		if !ended {
			return false
		}
		r.software.table, r.nic.Fault = nil, nil
		r.nic.After = func(n int, _ *offload.Op) {
			m, _ := r.nic.Model(context.Background())
			if now := r.software.current(); now != nil {
				if err := verify.Check(now, r.installed(), m); err != nil {
					t.Errorf("after operation %d: %v", n, err)
				}
			}
		}
		r.agent = New(c)
		if s := r.agent; s.events.total[eventInterrupted] != 1 {
			t.Errorf("%+v", s.events)
		}
		r.settle(1)
		r.proved()
		if e := journal(); e.To != 2 || e.Phase != phaseDone {
			t.Errorf("in the end the journal says %+v", e)
		}
		if s := r.agent.Status(); s.EventTotals[eventInterrupted] != 1 || s.Drift != (DriftStatus{}) {
			t.Errorf("%+v, %+v", s.Events, s.Drift)
		}
		if diff := cmp.Diff(byID(right), byID(r.installed())); diff != "" {
			t.Errorf("not what a run without an end leaves (-clean +got):\n%s", diff)
		}
		return true
	}
	ends := 0
	for at := 0; ; at++ {
		if !run(t, at) {
			break
		}
		ends++
	}
	if ends < 4 {
		t.Errorf("the change has %d operations: the test tests nothing", ends)
	}
}
