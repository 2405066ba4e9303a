package traffic_test

import (
	"bytes"
	"context"
	"slices"
	"testing"

	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// TestMaker has frames of several lengths made in the kernel, and looks at every one that
// comes: it is the one of its number, stamped, and was sent before it came. How many found
// no room is the machine's.
func TestMaker(t *testing.T) {
	const room, first = 3000, 7
	ns, o := cable(t, first+room)
	var frames [][]byte
	for n := range 5 {
		frames = append(frames, append(slices.Clone(frame), bytes.Repeat([]byte{byte(n)}, 90*n)...))
	}
	m, err := traffic.OpenMaker(ns, "a", frames, first, room)
	must.Have(t, "xdp", err)
	defer m.Close()
	told := -1
	times, err := m.Send(context.Background(), 100_000, func(sent int) bool {
		if sent < told {
			t.Errorf("%d were sent, and %d before", sent, told)
		}
		told = sent
		return sent < room/2
	})
	if err != nil || len(times) < room/2 || len(times) >= room || !slices.IsSorted(times) {
		t.Fatalf("%d times: %v", len(times), err)
	}
	came := int(arrived(o, len(times)))
	seen := 0
	for i, at := range times {
		sequence := uint64(first + i)
		cell := o.Cell(sequence)
		if cell.Copies == 0 {
			continue
		}
		seen++
		f := slices.Clone(frames[sequence%uint64(len(frames))])
		traffic.Stamp(f, sequence)
		if !cell.Same(observe.Expect(f)) || cell.First < at {
			t.Fatalf("number %d, sent at %d: %+v", sequence, at, cell)
		}
	}
	if seen != came || seen == 0 {
		t.Errorf("%d came, %d were seen, %d were sent", came, seen, len(times))
	}
	if _, err := traffic.OpenMaker(ns, "a", [][]byte{make([]byte, 10)}, 0, 1); err == nil {
		t.Error("a frame without room for a stamp was taken")
	}
}
