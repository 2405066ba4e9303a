package hwtests

import (
	"testing"

	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

func passed(t *testing.T, r *Run, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	for _, s := range r.Status.Scenarios {
		if !s.Passed {
			t.Errorf("%s: %v %s", s.Name, s.Wrong, s.Error)
		}
	}
}

// TestCardScenarios runs what runs on real cards on the machine's own.
func TestCardScenarios(t *testing.T) {
	must.InMachine(t)
	r, err := RunCard(t.Context(), machineCard, RunConfig{Scenarios: []string{"inventory", "settings", "entries", "packets"}, Terms: Terms{Seed: flowtest.Seed(t), Say: t.Logf}})
	passed(t, r, err)
}
