package hwtests

import (
	"os"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestDeaths kills the agent under traffic that its flow cache knows. BLADEFLOW_DEATHS
// says how often.
func TestDeaths(t *testing.T) {
	must.Long(t, "starts an agent for every death")
	needs(t, "afxdp")
	long := os.Getenv("BLADEFLOW_DEATHS") != ""
	began, load, seed := time.Now(), machine().Load, flowtest.Seed(t)
	r, err := Deaths(t.Context(), DeathsConfig{Deaths: flowtest.Count(t, "BLADEFLOW_DEATHS", 4), Seed: seed, Agent: agentCommand, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	if r.KnownLost+r.Astray+r.AliveLost+r.ClosedOut+r.KernelLost+r.Backwards+len(r.Different) > 0 || r.Adopted < 2*knownFlows || r.Closed == 0 || r.Kernel == 0 {
		t.Errorf("%+v", r)
	}
	if long {
		if r.Late > 0 {
			t.Errorf("%d restarts took longer than %s: %+v", r.Late, backGoal, r.Back)
		}
		flowtest.Record(t, "deaths", seed, began, map[string]any{"LoadAtBegin": load, "Found": r})
	}
}
