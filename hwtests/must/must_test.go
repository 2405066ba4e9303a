package must

import "testing"

func TestNamed(t *testing.T) {
	t.Setenv("BLADEFLOW_MUST", "veth,xdp")
	for feature, want := range map[string]bool{"veth": true, "xdp": true, "afxdp": false, "": false} {
		if got := Named(feature); got != want {
			t.Errorf("Named(%q) = %v, want %v", feature, got, want)
		}
	}
	Have(t, "xdp", nil)
}

func TestLong(t *testing.T) {
	ran := false
	t.Run("", func(t *testing.T) {
		Long(t, "it is an example")
		ran = true
	})
	if ran == testing.Short() {
		t.Errorf("a long test ran: %t, short tests: %t", ran, testing.Short())
	}
}
