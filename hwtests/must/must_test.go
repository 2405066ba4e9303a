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
