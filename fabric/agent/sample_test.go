package agent

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// tapped is software that gives out everything it judged, and a fault that it may have.
type tapped struct {
	*software
	samples []fallback.Sample
	fault   func(s *fallback.Sample) // what it says instead; may be nil
}

// tapping gives the rig an agent that looks at samples of its software.
func tapping(r *rig) *tapped {
	s := &tapped{software: r.software}
	config := r.config()
	config.Samples = s
	r.agent = New(config)
	return s
}

// Next gives out the oldest.
func (s *tapped) Next(ctx context.Context, into *fallback.Sample) error {
	if len(s.samples) == 0 {
		return ctx.Err()
	}
	*into, s.samples = s.samples[0], s.samples[1:]
	return nil
}

// judge has software judge a frame, and keeps what it says of it.
func (s *tapped) judge(t *testing.T, k *flow.Key, now time.Time) {
	t.Helper()
	frame, err := flow.Frame(*k, nil)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := flow.Parse(frame, flow.Port(k.Get(flow.InPort)))
	if err != nil {
		t.Fatal(err)
	}
	s.receive(&parsed, len(frame))
	at := s.table.Lookup(&parsed)
	one := fallback.Sample{Time: now, Key: parsed, Table: s.table, Rule: at, Verdict: s.table.Rule(at).Actions.Terminal().Op, Length: len(frame), Frame: frame}
	if s.fault != nil {
		s.fault(&one)
	}
	s.samples = append(s.samples, one)
}

// TestResample has software and a card that are right, that are wrong in every way which
// shows in a frame, and that were wrong only for the moment of a change.
func TestResample(t *testing.T) {
	start := flowtest.Seed(t)
	const one = 50 // frames in one of which is wrong
	for _, c := range []struct {
		name, code string
		fault      func(s *fallback.Sample)
		lies       bool // the card has entries in its dump that answer nothing
		late       bool // the samples are of the moment of a change
	}{
		{name: "all right"},
		{name: "another rule", code: eventMisjudged, fault: func(s *fallback.Sample) { s.Rule = (s.Rule + 1) % (s.Table.Len() + 1) }},
		{name: "another verdict", code: eventMisjudged, fault: func(s *fallback.Sample) { s.Verdict = flow.Mirror }},
		{name: "another key", code: eventMisjudged, fault: func(s *fallback.Sample) { s.Key.Set(flow.TTL, 3) }},
		{name: "another table", code: eventMisjudged, fault: func(s *fallback.Sample) { s.Table = web(t, 7) }},
		{name: "another table, just now", fault: func(s *fallback.Sample) { s.Table = web(t, 7) }, late: true},
		{name: "a card that lies", code: eventSilent, lies: true},
		{name: "a card that lied before it was asked", lies: true, late: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, 64)
			tap := tapping(r)
			r.wanted.Want(web(t, 1))
			r.settle(1)
			rng := rand.New(rand.NewPCG(start, 1))
			frames, wrong := 0, 0
			for look := 0; look < 20; look++ {
				for range one {
					k := packet(rng)
					e, hit := r.nic.Receive(&k, 64)
					if hit && !e.Punt() && !(c.lies && rng.IntN(one/10) == 0) {
						continue
					}
					frames++
					now := r.now.Add(switchWindow * 3 / 2)
					if c.late {
						now = r.agent.since
					}
					if tap.fault = nil; c.fault != nil && frames%one == 0 {
						tap.fault = c.fault
						wrong++
					}
					tap.judge(t, &k, now)
				}
				r.settle(1)
				if r.agent.Status().EventTotals[c.code] > 0 {
					break
				}
			}
			s := r.agent.Status()
			said := s.EventTotals[eventMisjudged] + s.EventTotals[eventSilent]
			switch {
			case c.code == "" && (said > 0 || s.Samples.Wrong+s.Samples.Passed > 0 || s.Samples.Right == 0):
				t.Errorf("%+v, %+v", s.Samples, s.Events)
			case c.code != "" && s.EventTotals[c.code] == 0:
				t.Errorf("%d frames, %d of them wrong: %+v, %v", frames, wrong, s.Samples, s.EventTotals)
			case c.code == eventMisjudged && s.Samples.Wrong != uint64(wrong):
				t.Errorf("%d wrong ones, %+v", wrong, s.Samples)
			}
		})
	}
}

// TestSilent has a card let a packet pass by an entry now and then, which says nothing of
// it, and then in each look.
func TestSilent(t *testing.T) {
	r := newRig(t, 64)
	tap := tapping(r)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	k, err := flow.ParseKey("in_port=vf0,src_mac=02:00:00:00:00:09,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.0.0.2,src_port=9,dst_port=25", testPorts)
	if err != nil {
		t.Fatal(err)
	}
	look := func(passes bool) uint64 {
		if e, hit := r.nic.Receive(&k, 64); !hit || e.Punt() {
			t.Fatal("no entry answers it")
		}
		if passes {
			tap.judge(t, &k, r.now.Add(switchWindow*3/2))
		}
		r.settle(1)
		return r.agent.Status().EventTotals[eventSilent]
	}
	for i := range 10 * patience {
		if look(i%patience != 0) != 0 {
			t.Fatalf("look %d: one without a passed packet does not count", i)
		}
	}
	said := look(false)
	for range patience {
		said = look(true)
	}
	if said != 1 {
		t.Errorf("it was said %d times", said)
	}
}
