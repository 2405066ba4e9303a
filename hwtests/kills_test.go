package hwtests

import (
	"context"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// agentEnvironment names the configuration with which this test program, started again,
// is an agent.
const agentEnvironment = "BLADEFLOW_TEST_AGENT"

func runAgent(config string) error {
	f, err := agent.ReadFile(config)
	if err != nil {
		return err
	}
	d, err := agent.Open(f, slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err != nil {
		return err
	}
	return d.Run(context.Background())
}

func agentCommand(config string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), agentEnvironment+"="+config)
	return cmd
}

// TestKills kills the agent in the middle of updates. BLADEFLOW_KILLS says how often.
func TestKills(t *testing.T) {
	must.Long(t, "starts an agent for every kill")
	needs(t, "afxdp")
	long := os.Getenv("BLADEFLOW_KILLS") != ""
	began, load, seed := time.Now(), machine().Load, flowtest.Seed(t)
	r, err := Kills(t.Context(), KillsConfig{Kills: flowtest.Count(t, "BLADEFLOW_KILLS", 12), Seed: seed, Agent: agentCommand, Say: t.Logf})
	if err != nil {
		t.Fatal(err)
	}
	show(t, r)
	if r.Unsound > 0 || r.Flushed > 0 || r.Foreign > 0 {
		t.Errorf("unsound %d, flushed %d, foreign %d: %q", r.Unsound, r.Flushed, r.Foreign, r.Different)
	}
	if long {
		if r.Late > 0 {
			t.Errorf("%d restarts took longer than %s: %+v", r.Late, backGoal, r.Back)
		}
		flowtest.Record(t, "kills", seed, began, map[string]any{"LoadAtBegin": load, "Found": r})
	}
}
