package verify

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/flow/ruleset"
	"github.com/bladeflow/bladeflow/offload/device"
)

// generated returns a table of n rules of a family, each with its own output, so
// that entries can be whole rules.
func generated(f flowtest.Family, n int) *flow.Table {
	rules := flowtest.Generate(f, n, 1)
	for i := range rules {
		rules[i].Actions = flow.Actions{output(flow.Port(1 + i%4))}
	}
	return must(flow.NewTable(flow.TableSpec{Rules: rules}))
}

// plainDevice honours the order and misses odd packets and later fragments.
var plainDevice = anyDevice(device.Honoured, pin(flow.Flags, flow.FlagOdd, flow.FlagOdd), pin(flow.Flags, flow.FlagFragLater, flow.FlagFragLater))

// anyDevice takes every match.
func anyDevice(order device.Order, missed ...flow.Match) device.Model {
	m := device.Model{Order: order, Missed: missed, Ranges: true}
	for p := range m.Fields {
		m.Fields[p] = device.Any
	}
	return m
}

// wholeTable is every rule in the device, in the table's order.
func wholeTable(t *flow.Table) (out []flow.Entry) {
	for i := range t.Len() {
		r := t.Rule(i)
		out = append(out, flow.Entry{ID: flow.EntryID(i), Kind: flow.RuleEntry, Rule: r.ID, Priority: uint64(t.Len() - i), Match: r.Match, Actions: r.Actions})
	}
	return out
}

// guarded is random whole rules, each below guards over all rules asked before it
// that it meets, up to n entries.
func guarded(t *flow.Table, n int) (out []flow.Entry) {
	rng := rand.New(rand.NewPCG(1, 1))
	guards := map[int]bool{}
	for _, i := range rng.Perm(t.Len()) {
		r := t.Rule(i)
		var over []int
		for j := range i {
			if g := t.Rule(j); g.Match.Overlaps(&r.Match) && !guards[j] {
				over = append(over, j)
			}
		}
		if len(out)+1+len(over) > n {
			continue
		}
		out = append(out, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: uint64(2 * (t.Len() - i)), Match: r.Match, Actions: r.Actions})
		for _, j := range over {
			guards[j] = true
			out = append(out, flow.Entry{Kind: flow.GuardEntry, Rule: r.ID, Priority: uint64(2*(t.Len()-j) + 1), Match: t.Rule(j).Match})
		}
	}
	for i := range out {
		out[i].ID = flow.EntryID(i)
	}
	return out
}

// narrowed is like guarded, but each guard covers only what its rule shares with the
// entry it is for, so that no guard covers a rule and everything has to be searched.
func narrowed(t *flow.Table, n int) (out []flow.Entry) {
	for i := t.Len() - 1; i >= 0; i-- {
		r := t.Rule(i)
		over, _ := newBox(&r.Match)
		prio := uint64(2 * (t.Len() - i))
		var some []flow.Entry
		for j := range i {
			b, _ := newBox(&t.Rule(j).Match)
			if both, ok := b.and(&over); ok {
				some = append(some, flow.Entry{Kind: flow.GuardEntry, Rule: r.ID, Priority: prio + 1, Match: *both.match()})
			}
		}
		if len(some) == 0 || len(some) > n/20 || len(out)+1+len(some) > n {
			continue
		}
		out = append(out, flow.Entry{Kind: flow.RuleEntry, Rule: r.ID, Priority: prio, Match: r.Match, Actions: r.Actions})
		out = append(out, some...)
	}
	for i := range out {
		out[i].ID = flow.EntryID(i)
	}
	return out
}

// pieces are n exact 5-tuples.
func pieces(t *flow.Table, n int) (out []flow.Entry) {
	rng := rand.New(rand.NewPCG(1, 2))
	var tuple flow.Match
	for _, f := range []flow.Field{flow.EthType, flow.SrcLo, flow.DstLo, flow.Proto, flow.SrcPort, flow.DstPort} {
		tuple.Pin(f, 0, f.Max())
	}
	tuple.Pin(flow.Flags, 0, flow.FlagIP|flow.FlagL4)
	winner := lookup(t)
	for len(out) < n {
		k, ok := flow.Shared(&t.Rule(rng.IntN(t.Len())).Match)
		if !ok {
			continue
		}
		r := t.Rule(winner(&k))
		m := tuple
		for w := range k {
			m.Value[w] = k[w] & m.Mask[w]
		}
		out = append(out, flow.Entry{ID: flow.EntryID(len(out)), Kind: flow.PieceEntry, Rule: r.ID, Match: m, Actions: r.Actions})
	}
	return out
}

// lookup returns t.Lookup, fast for many keys.
func lookup(t *flow.Table) func(k *flow.Key) int {
	boxes, ranks := make([]box, t.Len()+1), make([]uint64, t.Len()+1)
	for i := range boxes {
		boxes[i], _ = newBox(&t.Rule(i).Match)
		ranks[i] = uint64(i)
	}
	x := newIndex(boxes, ranks)
	return func(k *flow.Key) int {
		whole := box{Value: *k}
		for w := range whole.Mask {
			whole.Mask[w] = ^uint64(0)
		}
		return int(x.first(&whole, noLimit))
	}
}

// BenchmarkStations checks pieces that resolve normal, each for one station and
// below one guard for what comes from there.
func BenchmarkStations(b *testing.B) {
	const count = 64
	var stations []flow.Station
	for i := range count {
		stations = append(stations, flow.Station{VLAN: uint16(i % 4), MAC: 0x02_00_00_00_01_00 + uint64(i), Port: flow.Port(2 + i)})
	}
	t := must(flow.NewTable(flow.TableSpec{Switch: must(flow.NewSwitch(1, stations...)), Rules: flowtest.Generate(flowtest.ACL, 10_000, 1)}))
	var entries []flow.Entry
	for i, e := range pieces(t, 1000) {
		st := stations[i%count]
		e.Match.Pin(flow.DstMAC, st.MAC, flow.DstMAC.Max())
		e.Match.Pin(flow.VLAN, flow.TagPresent|uint64(st.VLAN), flow.TagPresent|flow.TagID)
		if e.Actions[0].Op == flow.Normal {
			e.Actions = flow.Actions{output(st.Port)}
		}
		entries = append(entries, e)
	}
	for i, st := range stations {
		g := flow.Entry{ID: flow.EntryID(5000 + i), Kind: flow.GuardEntry, Priority: 1, Match: pin(flow.DstMAC, st.MAC, flow.DstMAC.Max())}
		g.Match.Pin(flow.InPort, uint64(st.Port), 0xffff)
		entries = append(entries, g)
	}
	for b.Loop() {
		if err := Check(t, entries, plainDevice); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCheck proves devices of every kind, on generated sets and on those in
// the directory BLADEFLOW_CLASSBENCH. It reports the median of the processor time.
func BenchmarkCheck(b *testing.B) {
	for _, f := range flowtest.Families() {
		for _, n := range []int{1000, 10_000, 100_000} {
			benchmarkSet(b, fmt.Sprintf("%v_%dk", f, n/1000), n, func() *flow.Table { return generated(f, n) })
		}
	}
	files, _ := filepath.Glob(filepath.Join(os.Getenv("BLADEFLOW_CLASSBENCH"), "*_*k"))
	for _, file := range files {
		n := 1000
		for _, zeros := range []string{"0k", "00k"} {
			if strings.HasSuffix(file, zeros) {
				n *= 10
			}
		}
		benchmarkSet(b, "classbench/"+filepath.Base(file), n, func() *flow.Table {
			data := must(os.ReadFile(file))
			rules := must(ruleset.Decode(ruleset.ClassBench, file, data, nil))[0].Rules
			for i := range rules {
				rules[i].Actions = flow.Actions{output(flow.Port(1 + i%4))}
			}
			return must(flow.NewTable(flow.TableSpec{Rules: rules}))
		})
	}
}

func benchmarkSet(b *testing.B, name string, n int, set func() *flow.Table) {
	made := sync.OnceValue(set)
	for _, d := range []struct {
		name    string
		entries func(t *flow.Table) []flow.Entry
		most    int // rules of the set
	}{
		{"guarded", func(t *flow.Table) []flow.Entry { return guarded(t, 1000) }, 10_000},
		{"narrowed", func(t *flow.Table) []flow.Entry { return narrowed(t, 1000) }, 10_000},
		{"pieces", func(t *flow.Table) []flow.Entry { return pieces(t, 10_000) }, 100_000},
		{"whole", func(t *flow.Table) []flow.Entry { return wholeTable(t) }, 10_000},
	} {
		if n > d.most {
			continue
		}
		b.Run(name+"/"+d.name, func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			t := made()
			entries := d.entries(t)
			var proof Proof
			var took []time.Duration
			for b.Loop() {
				start := threadTime()
				p, err := Prove(t, entries, plainDevice)
				if err != nil {
					b.Fatal(err)
				}
				took = append(took, threadTime()-start)
				proof = p
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "thread-ms")
			b.ReportMetric(float64(len(entries)), "entries")
			b.ReportMetric(float64(t.Len()), "rules")
			b.ReportMetric(float64(proof.Boxes), "boxes")
		})
	}
}

// threadTime is the processor time that this thread has used; the benchmark that
// asks holds its thread.
func threadTime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		panic(err)
	}
	return time.Duration(t.Nano())
}
