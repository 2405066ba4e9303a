package softnic

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/softnic/internal/xdp"
)

// TestHalfChanged leaves small tables in every state in which a writer of theirs can die,
// the line it was writing spoiled, and expects the change to be ended by whoever comes
// next.
func TestHalfChanged(t *testing.T) {
	b := newBench(t, 8, 1, 2)
	table := b.mem.Table
	line := func(id int) xdp.CardEntry { return xdp.CardEntry{Id: uint64(id), Slot: uint32(id)} }
	spoiled := xdp.CardEntry{Id: 99, Slot: 99}
	for n := range 5 {
		for at := range n + 1 {
			for put := range 2 {
				if put == 0 && at == n {
					continue
				}
				var want []xdp.CardEntry
				for i := range n {
					want = append(want, line(i+1))
				}
				before := slices.Clone(want)
				c := xdp.CardChange{Kind: changeTake, At: uint32(at), N: uint32(n)}
				if put == 1 {
					c.Kind, c.Line = changePut, line(7)
					want = slices.Insert(want, at, line(7))
				} else {
					want = slices.Delete(want, at, at+1)
				}
				from, to := uint32(at), uint32(n)
				for next := from; next < to+uint32(put); next++ {
					for counted := range 2 {
						copy(table.Entry[:], before)
						table.N, c.Next = uint32(n), next
						table.Change = c
						if put == 1 { // the lines behind next have moved
							for i := uint32(n); i > next; i-- {
								table.Entry[i] = table.Entry[i-1]
							}
							table.Entry[next] = spoiled
						} else { // and those before it
							for i := from; i < next; i++ {
								table.Entry[i] = table.Entry[i+1]
							}
							if next+1 < to {
								table.Entry[next] = spoiled
							}
						}
						if counted == 1 {
							table.N = uint32(len(want))
						}
						atomic.AddUint64(&table.Version, 1)
						if err := b.locked(func() error { return nil }); err != nil {
							t.Fatal(err)
						}
						if got := table.Entry[:table.N]; !slices.Equal(got, want) || table.Version&1 == 1 {
							t.Fatalf("%d lines, change %+v: %v, should be %v", n, c, got, want)
						}
					}
				}
			}
		}
	}
	table.N = 3
	table.Change = xdp.CardChange{Kind: changePut, At: 5, N: 3}
	table.Version++
	wantInstalled(t, b.NIC) // a change that no driver began
	e := port80(1, 1, 1)
	mustApply(t, b.NIC, adds(e)...)
	if got := b.put(t, frameTo(t, 1), 2); got.entry != e.ID {
		t.Errorf("after the repair: %+v", got)
	}
}

// writerEnv names the card to which this test binary, started again, writes until it
// is killed.
const writerEnv = "SOFTNIC_TEST_WRITER"

// playWriter takes the first line of a full table out and puts it in again, for ever.
func playWriter(pinDir string) {
	n, err := Open(pinDir)
	if err != nil {
		panic(err)
	}
	fmt.Println("writing")
	for {
		n.locked(func() error {
			for range 1000 {
				line := n.mem.Table.Entry[0]
				n.takeOut(0)
				n.putIn(0, &line)
			}
			return nil
		})
	}
}

// TestWriterDies kills a process that writes a full table, again and again, and expects
// no line to be lost but the one that may just have been out.
func TestWriterDies(t *testing.T) {
	b := newBench(t, MaxEntries, 1, 2)
	var es []flow.Entry
	for i := range MaxEntries {
		es = append(es, port80(flow.EntryID(i+1), uint64(MaxEntries-i), byte(i)))
	}
	mustApply(t, b.NIC, adds(es...)...)
	halfway := 0
	for i := range 12 {
		writer := exec.Command(os.Args[0])
		writer.Env = append(os.Environ(), writerEnv+"="+b.dir)
		out, err := writer.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := writer.Start(); err != nil {
			t.Fatal(err)
		}
		bufio.NewReader(out).ReadString('\n')
		time.Sleep(time.Duration(i) * 777 * time.Microsecond)
		writer.Process.Kill()
		writer.Wait()
		if atomic.LoadUint64(&b.mem.Table.Version)&1 == 1 {
			halfway++
		}
		got, err := b.Installed(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		whole := len(got) == len(es)
		if !whole {
			got = slices.Insert(got, 0, es[0])
		}
		if !slices.EqualFunc(got, es, func(a, b flow.Entry) bool { return a.Equal(&b) }) {
			t.Fatalf("kill %d: %d entries, the first %+v", i, len(got), got[0])
		}
		if !whole {
			mustApply(t, b.NIC, adds(es[0])...)
		}
	}
	t.Logf("killed in the middle of a line %d times of 12", halfway)
}

// BenchmarkChange takes the first line of a full table out and puts it in again.
func BenchmarkChange(b *testing.B) {
	n := newBench(b, MaxEntries, 1, 2)
	n.mem.Table.N = uint32(MaxEntries)
	line := n.mem.Table.Entry[0]
	for b.Loop() {
		n.takeOut(0)
		n.putIn(0, &line)
	}
}
