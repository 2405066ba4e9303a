package offloadtest_test

import (
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// TestConformance runs the suite on the fake NIC, once for every shipped model of a
// card that can hold anything.
func TestConformance(t *testing.T) {
	for _, name := range device.List() {
		t.Run(name, func(t *testing.T) {
			m, err := device.Load(name)
			if err != nil {
				t.Fatal(err)
			}
			if !m.MissFalls {
				if err := m.Admit(&flow.Match{}, nil, flow.GuardEntry); err == nil {
					t.Fatal("what it misses is lost, and it admits an entry")
				}
				return
			}
			offloadtest.Run(t, func(*testing.T) offload.Driver { return offloadtest.New(m) }, offloadtest.Options{
				Ports: []flow.Port{1, 2, 3},
				Send: func(t *testing.T, d offload.Driver, frame []byte, in flow.Port) {
					k, err := flow.Parse(frame, in)
					if err != nil {
						t.Fatal(err)
					}
					d.(*offloadtest.NIC).Receive(&k, len(frame))
				},
			})
		})
	}
}

// key is a TCP packet to a port.
func key(dst uint64) flow.Key {
	var k flow.Key
	k.Set(flow.InPort, 1)
	k.Set(flow.EthType, flow.EthIPv4)
	k.Set(flow.Proto, flow.ProtoTCP)
	k.Set(flow.Flags, flow.FlagIP|flow.FlagL4)
	k.Set(flow.DstPort, dst)
	return k
}

// TestAnswers checks which entries may answer, for both orders and what is missed.
func TestAnswers(t *testing.T) {
	entry := func(id flow.EntryID, priority uint64) flow.Entry {
		e := flow.Entry{ID: id, Priority: priority, Actions: flow.Actions{{Op: flow.Drop}}}
		e.Match.SetPorts(flow.DstPort, 80, 80)
		return e
	}
	for _, order := range []device.Order{device.Honoured, device.Undefined} {
		m, err := device.Load("softnic")
		if err != nil {
			t.Fatal(err)
		}
		m.Order = order
		n := offloadtest.New(m)
		n.Put(entry(1, 5))
		n.Put(entry(2, 9))
		n.Put(entry(3, 9))
		n.Put(entry(4, 1))
		check := func(k flow.Key, want ...flow.EntryID) {
			t.Helper()
			var got []flow.EntryID
			for _, e := range n.Answers(&k) {
				got = append(got, e.ID)
			}
			if len(got) != len(want) {
				t.Fatalf("%s: entries %v may answer, want %v", order, got, want)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("%s: entries %v may answer, want %v", order, got, want)
				}
			}
		}
		odd, later := key(80), key(0)
		odd.Set(flow.Flags, odd.Get(flow.Flags)|flow.FlagOdd)
		later.Set(flow.Flags, flow.FlagIP|flow.FlagFragLater)
		check(key(81))
		check(odd)
		check(later)
		if order == device.Honoured {
			check(key(80), 2, 3)
		} else {
			check(key(80), 1, 2, 3, 4)
		}
	}
}

// TestEffects injects each fault into an Add and looks at what is there afterwards.
func TestEffects(t *testing.T) {
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	check := func(effect offloadtest.Effect, status offload.Status, there int) {
		t.Helper()
		n := offloadtest.New(m)
		n.Put(flow.Entry{ID: 9, Kind: flow.GuardEntry})
		n.Fault = func(int, *offload.Op) offloadtest.Effect { return effect }
		out := n.Apply(t.Context(), []offload.Op{{Kind: offload.Add, Entry: flow.Entry{ID: 1, Kind: flow.GuardEntry}}})
		if out[0].Status != status || (status == offload.Done) != (out[0].Code == "") {
			t.Errorf("effect %d: %+v, want %s", effect, out[0], status)
		}
		if _, err := n.Installed(t.Context()); (err != nil) != (effect == offloadtest.Dies) {
			t.Errorf("effect %d: installed: %v", effect, err)
		}
		n.Revive()
		if have, err := n.Installed(t.Context()); err != nil || len(have) != there {
			t.Errorf("effect %d: %d entries, %v; want %d", effect, len(have), err, there)
		}
		if n.Ops() != 1 {
			t.Errorf("effect %d: %d operations", effect, n.Ops())
		}
	}
	check(offloadtest.Works, offload.Done, 2)
	check(offloadtest.Refuses, offload.Refused, 1)
	check(offloadtest.LostReply, offload.Unknown, 2)
	check(offloadtest.LostOp, offload.Unknown, 1)
	check(offloadtest.Lies, offload.Done, 1)
	check(offloadtest.Resets, offload.Unknown, 0)
	check(offloadtest.Dies, offload.Unknown, 1)
}

// TestStale checks that stale counters repeat themselves, and come right again.
func TestStale(t *testing.T) {
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	n := offloadtest.New(m)
	n.Put(flow.Entry{ID: 1, Kind: flow.GuardEntry})
	read := func(want uint64) {
		t.Helper()
		c, err := n.Counters(t.Context())
		if err != nil || len(c) != 1 || c[0].Packets != want || c[0].Bytes != 100*want {
			t.Errorf("counters %v, %v; want %d packets", c, err, want)
		}
	}
	k := key(80)
	read(0)
	n.Receive(&k, 100)
	read(1)
	n.Stale = true
	n.Receive(&k, 100)
	read(1)
	n.Stale = false
	read(2)
}
