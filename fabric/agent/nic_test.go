package agent

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
)

// TestClaim has one decide at a time what a function holds.
func TestClaim(t *testing.T) {
	pf := fabric.PCI{Domain: 0xffff, Bus: 0xff, Device: 31}
	first, err := Claim(pf)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(pf); err == nil || !claimed(pf) {
		t.Error("claimed twice")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if claimed(pf) {
		t.Error("still claimed")
	}
	again, err := Claim(pf)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
