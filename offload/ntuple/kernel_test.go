package ntuple

import (
	"errors"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/offload"
)

// The tests of this file work on a kernel with tcamsim, a module that plays a card: the
// one in the virtual machine (hwtests/vm). Elsewhere they are skipped, unless
// BLADEFLOW_MUST names tcamsim.

// inKernel opens the first representor of the card, whose rules are nobody's.
func inKernel(t *testing.T) *Card {
	t.Helper()
	_, err := netlink.LinkByName("simr1")
	must.Have(t, "tcamsim", err)
	c := Open("simr1")
	if n, _, chooses, err := c.Size(); n != 0 || chooses || err != nil {
		t.Fatal(n, chooses, err)
	}
	return c
}

// TestKernelRules puts random rules into the stock kernel, and reads them back equal.
func TestKernelRules(t *testing.T) {
	c := inKernel(t)
	_, most, _, err := c.Size()
	if err != nil {
		t.Fatal(err)
	}
	taken := map[Kind]int{}
	rapid.Check(t, func(t *rapid.T) {
		r := anyRule(t)
		r.Location %= uint32(most)
		r.Queue = rapid.SampledFrom([]uint64{0, Discard}).Draw(t, "one queue")
		at, err := c.Insert(r)
		if !slices.Contains([]Kind{TCPv4, UDPv4, TCPv6, UDPv6, Ether}, r.Kind) { // the kernel makes no flow rule of others
			if err == nil {
				t.Errorf("%+v was taken", r)
			}
			return
		}
		if err != nil || at != r.Location {
			t.Fatalf("%+v: location %d, %v", r, at, err)
		}
		if rules, err := c.Rules(); err != nil || len(rules) != 1 || rules[0] != r {
			t.Errorf("read back %+v, %v\nput in %+v", rules, err, r)
		}
		if err := c.Delete(at); err != nil {
			t.Errorf("delete: %v", err)
		}
		taken[r.Kind]++
	})
	t.Logf("taken, by kind: %v", taken)
}

// TestKernelTable fills the table, replaces, and deletes what is there and what is not.
func TestKernelTable(t *testing.T) {
	c := inKernel(t)
	_, most, _, err := c.Size()
	if err != nil || most == 0 {
		t.Fatal(most, err)
	}
	rule := func(at int, port uint16) Rule { return port80(uint32(at), port) }
	for i := range most {
		if at, err := c.Insert(rule(i, uint16(i))); err != nil || int(at) != i {
			t.Fatal(i, at, err)
		}
	}
	t.Cleanup(func() {
		for i := range most {
			c.Delete(uint32(i)) // some are gone
		}
	})
	var refused *Refusal
	if _, err := c.Insert(rule(most, 9)); !errors.As(err, &refused) {
		t.Errorf("beyond the last location: %v", err)
	}
	if _, err := c.Insert(rule(1, 443)); err != nil {
		t.Error("in place of another:", err)
	}
	rules, err := c.Rules()
	if err != nil || len(rules) != most || rules[1] != rule(1, 443) {
		t.Errorf("%d rules, %v", len(rules), err)
	}
	if err := c.Delete(2); err != nil {
		t.Error(err)
	}
	if err := c.Delete(2); code(err) != offload.CodeMissing || !errors.Is(err, unix.ENOENT) {
		t.Errorf("deleted twice: %v", err)
	}
	if n, _, _, err := c.Size(); n != most-1 || err != nil {
		t.Error(n, err)
	}
	if _, err := c.Insert(Rule{Kind: IPv4, Location: 2, Match: flow.Match{}, Queue: Discard}); err == nil {
		t.Error("a kind that the kernel makes no flow rule of was taken")
	}
}
