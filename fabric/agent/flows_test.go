package agent

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fallback/flowcache"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// under is a table whose last rule is for all of 10.0.0.0/8, after so many others that no
// card of 16 entries has room for their guards.
func under(t *testing.T, gen flow.Generation) *flow.Table {
	lines := []string{"name=all,priority=100,in_port=vf0,ip_proto=tcp,dst_ip=10.0.0.0/8 actions=output:vf2"}
	for i := range 64 {
		lines = append(lines, fmt.Sprintf("name=no%d,priority=%d,in_port=vf0,ip_proto=tcp,dst_ip=10.0.%d.0/24,dst_port=25 actions=drop", i, 200+i, i))
	}
	return table(t, gen, nil, lines...)
}

// hot returns packets of a few flows of rule all.
func hot(t *testing.T, rng *rand.Rand) (out []flow.Key) {
	for range 4 {
		k, err := flow.ParseKey(fmt.Sprintf("in_port=vf0,ip_proto=tcp,src_ip=10.9.0.1,dst_ip=10.%d.%d.%d,src_port=%d,dst_port=443", rng.IntN(2), rng.IntN(64), rng.IntN(256), rng.IntN(1<<16)), testPorts)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, k)
	}
	return out
}

// TestPieces sends a few flows of a rule that is too wide for the card. Software's samples,
// or the flow cache's counters, tell of them, so that the card gets pieces around them and
// answers nearly all packets; and when other flows are hot it gets others. An agent that
// begins anew keeps what is there.
func TestPieces(t *testing.T) {
	for _, cached := range []bool{false, true} {
		t.Run(fmt.Sprintf("cached=%v", cached), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
			r := newRig(t, 16)
			tap := &tapped{software: r.software}
			config := r.config()
			busy := map[flow.Key]uint64{}
			if cached {
				config.Busiest = func(int) (out []flowcache.Busy) {
					for k, n := range busy {
						out = append(out, flowcache.Busy{Key: k, Rule: r.software.table.Rule(r.software.table.Lookup(&k)).ID, Packets: n})
					}
					clear(busy)
					return out
				}
			} else {
				config.Samples = tap
			}
			r.agent = New(config)
			r.wanted.Want(under(t, 1))
			r.settle(1)
			send := func(flows []flow.Key) (share float64) {
				const packets = 400
				answered := 0
				for range packets {
					k := flows[rng.IntN(len(flows))]
					if rng.IntN(20) == 0 { // and some of this and that
						k = packet(rng)
					}
					e, hit := r.nic.Receive(&k, 64)
					switch {
					case hit && !e.Punt():
						if want := r.software.table.Rule(r.software.table.Lookup(&k)); e.Rule != want.ID {
							t.Fatalf("the card gave %s to another rule than %s", flow.FormatKey(k, testPorts), want.Name)
						}
						answered++
					case cached:
						busy[r.agent.flows.group(&k)]++
						r.software.receive(&k, 64)
					default:
						tap.judge(t, &k, r.now)
					}
				}
				r.settle(1)
				r.proved()
				return float64(answered) / packets
			}
			for _, round := range []string{"at first", "after they have changed"} {
				flows := hot(t, rng)
				share := 0.0
				for range 30 {
					share = send(flows)
				}
				if share < 0.9 {
					t.Errorf("%s: the card answers %.0f %% of a few hot flows", round, 100*share)
				}
				r.agent = New(config)
				if again := send(flows); again < 0.9 {
					t.Errorf("%s: the card answers %.0f %% after the agent began anew", round, 100*again)
				}
				for range 5 {
					share = send(flows)
				}
				if share < 0.9 {
					t.Errorf("%s: the card answers %.0f %% a while after that", round, 100*share)
				}
			}
		})
	}
}

// lookingAt returns an agent of a table and cards that hold entries, and a key of rule all.
func lookingAt(t *testing.T, cards ...*card) (*Agent, flow.Key) {
	t.Helper()
	now := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	a := &Agent{Config: Config{Now: func() time.Time { now = now.Add(2 * time.Second); return now }}, devices: cards, running: under(t, 1)}
	return a, hot(t, rand.New(rand.NewPCG(1, 1)))[0]
}

// TestPieceOnTwoCards has the same piece on two cards, which counted long ago: nothing is hot.
func TestPieceOnTwoCards(t *testing.T) {
	many, some := &card{ledger: newLedger()}, &card{ledger: newLedger()}
	a, k := lookingAt(t, many, some)
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	rule := a.running.Rule(a.running.Lookup(&k)).ID
	p := offload.NewPlan(a.running, a.running, nil, m, nil)
	at := slices.IndexFunc(p.Entries, func(e flow.Entry) bool { return e.Rule == rule && !e.Punt() })
	if at < 0 {
		t.Fatal("no entry to take for a piece")
	}
	e := p.Entries[at]
	e.Kind = flow.PieceEntry
	counted := map[*card]uint64{many: 1_000_000, some: 10}
	for c := range counted {
		c.installed = []flow.Entry{e}
	}
	for look := range 10 {
		for c, n := range counted {
			c.ledger.read(c.installed, []offload.Count{{Entry: e.ID, Counter: flow.Counter{Packets: n}}}, a.running)
		}
		if a.flows.look(a); len(a.flows.levels) > 0 {
			t.Fatalf("look %d: nobody sends, and flows are hot: %v", look+1, a.flows.levels)
		}
	}
}

// TestFlowComesBack has a flow pause for any number of looks and then send as many packets in
// each as it did before: it is hot again.
func TestFlowComesBack(t *testing.T) {
	for pause := range 40 {
		a, k := lookingAt(t)
		packets := uint64(100)
		a.Busiest = func(int) []flowcache.Busy {
			return []flowcache.Busy{{Key: k, Rule: a.running.Rule(a.running.Lookup(&k)).ID, Packets: packets}}
		}
		for range 3 {
			a.flows.look(a)
		}
		busiest := a.Busiest
		a.Busiest = nil
		for range pause {
			a.flows.look(a)
		}
		a.Busiest = busiest
		for range 3 {
			a.flows.look(a)
		}
		if len(a.flows.levels) == 0 {
			t.Errorf("after %d looks without packets the flow is cold although it sends again", pause)
		}
	}
}

// TestPiecesOfWholeFields has a card that matches addresses wholly, and flows of which the
// cache knows the first 24 bits. No piece is made that no packet is in; once software has
// seen a packet of each, there are pieces.
func TestPiecesOfWholeFields(t *testing.T) {
	rng := rand.New(rand.NewPCG(flowtest.Seed(t), 1))
	m, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	m.Entries, m.Fields[device.DstIP] = 16, device.Exact
	r := newRig(t, 0)
	r.nic = offloadtest.New(m)
	tap := &tapped{software: r.software}
	config := r.config()
	config.Samples = tap
	flows := hot(t, rng)
	for i := range flows {
		flows[i].Set(flow.DstLo, flows[i].Get(flow.DstLo)|1)
	}
	packets := uint64(0)
	config.Busiest = func(int) (out []flowcache.Busy) {
		for i := range flows {
			if packets > 0 {
				k := r.agent.flows.group(&flows[i])
				out = append(out, flowcache.Busy{Key: k, Rule: r.software.table.Rule(r.software.table.Lookup(&k)).ID, Packets: packets})
			}
		}
		return out
	}
	r.agent = New(config)
	r.wanted.Want(under(t, 1))
	r.settle(1)
	packets = 1000
	pieces := func() (with, without int) {
		for range 10 {
			r.settle(1)
		}
		for _, e := range r.installed() {
			switch {
			case e.Kind != flow.PieceEntry:
			case slices.ContainsFunc(flows, func(k flow.Key) bool { return e.Match.Matches(&k) }):
				with++
			default:
				without++
			}
		}
		return with, without
	}
	if _, without := pieces(); without != 0 {
		t.Errorf("%d pieces have no packet in them", without)
	}
	for i := range flows {
		tap.judge(t, &flows[i], r.now)
	}
	packets *= 4
	if with, without := pieces(); with == 0 || without != 0 {
		t.Errorf("after software has seen each flow: %d pieces with packets, %d without", with, without)
	}
	r.proved()
}

// TestManyPieces has more pieces and flows than one look compares with each other: what the
// pieces count is some flow's all the same, and counts once.
func TestManyPieces(t *testing.T) {
	const many, each = 1200, 1000
	if many*many <= sharePairs {
		t.Fatal("all are compared")
	}
	c := &card{ledger: newLedger()}
	a, k := lookingAt(t, c)
	rule := a.running.Rule(a.running.Lookup(&k)).ID
	var busy []flowcache.Busy
	for i := range many {
		k.Set(flow.DstLo, 10<<24|1<<16|uint64(i))
		busy = append(busy, flowcache.Busy{Key: k, Rule: rule, Packets: each})
		e := flow.Entry{ID: 0xb1ad<<48 | flow.EntryID(i), Kind: flow.PieceEntry, Rule: rule}
		for _, f := range []flow.Field{flow.InPort, flow.EthType, flow.DstLo} {
			e.Match.Pin(f, k.Get(f), f.Max())
		}
		c.installed = append(c.installed, e)
	}
	a.Busiest = func(int) []flowcache.Busy { return busy }
	counts := make([]offload.Count, many)
	for look := range 20 {
		for i := range counts {
			counts[i] = offload.Count{Entry: c.installed[i].ID, Counter: flow.Counter{Packets: uint64(look) * each}}
		}
		c.ledger.read(c.installed, counts, a.running)
		a.flows.look(a)
		a.Busiest = nil
	}
	rate, want := 0.0, many*each/2.0
	for _, r := range a.flows.rates {
		rate += r
	}
	if rate < 0.9*want || rate > 1.1*want {
		t.Errorf("pieces answer %.0f packets a second, %.0f are known of", want, rate)
	}
}
