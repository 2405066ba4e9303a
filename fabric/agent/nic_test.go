package agent

import (
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
)

// TestClaim has one decide at a time what an eSwitch holds, by whichever of its functions.
func TestClaim(t *testing.T) {
	one := fabric.PF{PCI: fabric.PCI{Domain: 0xffff, Bus: 0xff, Device: 31}, Netdev: &fabric.Netdev{SwitchID: "one card"}}
	other, apart := one, one
	other.PCI.Function = 1
	apart.Netdev = nil
	first, err := Claim(&one)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Claim(&other); err == nil || !claimed(&other) || claimed(&apart) {
		t.Errorf("claimed twice, or another card: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if claimed(&one) {
		t.Error("still claimed")
	}
	again, err := Claim(&other)
	if err != nil {
		t.Fatal(err)
	}
	again.Close()
}
