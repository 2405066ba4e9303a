package xdp

import (
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/rlimit"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestMemory writes at both ends of the card's memory and reads them back by system
// calls, and the other way round: Go and the kernel must agree on every offset.
func TestMemory(t *testing.T) {
	must.Have(t, "xdp", rlimit.RemoveMemlock())
	spec, err := LoadCard()
	if err != nil {
		t.Fatal(err)
	}
	var maps struct {
		Table *ebpf.Map `ebpf:"table"`
		Slots *ebpf.Map `ebpf:"slots"`
	}
	must.Have(t, "xdp", spec.LoadAndAssign(&maps, nil))
	defer maps.Table.Close()
	defer maps.Slots.Close()
	m, err := Map(maps.Table, maps.Slots)
	if err != nil {
		t.Fatal(err)
	}

	last := len(m.Table.Entry) - 1
	m.Table.Version = 2
	m.Table.Entry[last].Kind = 7
	var table CardMatchTable
	if err := maps.Table.Lookup(uint32(0), &table); err != nil {
		t.Fatal(err)
	}
	if table.Version != 2 || table.Entry[last].Kind != 7 {
		t.Errorf("the kernel reads version %d, kind %d", table.Version, table.Entry[last].Kind)
	}

	for _, i := range []uint32{0, 1, uint32(len(m.Slots) - 1)} {
		s := CardSlot{Packets: uint64(i) + 1}
		s.Step[len(s.Step)-1].Proto = 9
		if err := maps.Slots.Put(i, s); err != nil {
			t.Fatal(err)
		}
		if m.Slots[i] != s {
			t.Errorf("slot %d reads as %+v, want %+v", i, m.Slots[i], s)
		}
	}
	if err := m.Unmap(); err != nil {
		t.Error(err)
	}
	if _, err := Map(maps.Table, unmappable(t, spec)); err == nil {
		t.Error("mapped a map that cannot be mapped")
	}
}

// unmappable returns a map that is not made for mapping.
func unmappable(t *testing.T, spec *ebpf.CollectionSpec) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(spec.Maps[CardMapAbout])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}
