package agent

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/bladeflow/bladeflow/fabric"
)

// TestClaim has one decide at a time what an eSwitch holds, by whichever of its functions, and
// nobody where others could write.
func TestClaim(t *testing.T) {
	one := fabric.PF{PCI: fabric.PCI{Domain: 0xffff, Bus: 0xff, Device: 31}, Netdev: &fabric.Netdev{SwitchID: "0a0b"}}
	other, apart := one, one
	other.PCI.Function = 1
	apart.Netdev = nil
	dir := filepath.Join(t.TempDir(), "claims")
	first, err := claim(dir, tableOfCard(&one))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir, tableOfCard(&other)); err == nil {
		t.Error("claimed twice")
	}
	if c, err := claim(dir, tableOfCard(&apart)); err != nil {
		t.Errorf("another card: %v", err)
	} else {
		c.Close()
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claim(dir, tableOfCard(&other))
	if err != nil {
		t.Fatalf("still claimed: %v", err)
	}
	again.Close()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := claim(dir, tableOfCard(&one)); err == nil {
		t.Error("claimed where all can write")
	}
}
