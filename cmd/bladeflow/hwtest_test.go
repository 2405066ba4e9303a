package main

import (
	"encoding/json"
	"testing"

	"github.com/bladeflow/bladeflow/hwtests"
)

// TestHwtestRun holds the record of a quick scenario against what it promises.
func TestHwtestRun(t *testing.T) {
	needsLab(t)
	stdout, stderr, err := invoke("", "hwtest", "run", "--on", "lab", "--scenario", "liar", "--seed", "7", "--commit", "abc", "-o", "json")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	var r hwtests.Run
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatal(err)
	}
	s := r.Status
	if r.Kind != "HardwareTest" || r.Spec.Seed != 7 || s.Commit != "abc" || !s.Passed || len(s.Scenarios) != 1 || s.Scenarios[0].Name != "liar" || s.Scenarios[0].Found == nil {
		t.Errorf("%s", stdout)
	}
	if s.Machine.Kernel == "" || s.Machine.Cores == 0 || s.Started.IsZero() {
		t.Errorf("the record does not say where and when: %+v", s)
	}
}

// TestHwtestRefuses asks for what cannot be run on here, and is told what to do.
func TestHwtestRefuses(t *testing.T) {
	needsLab(t) // and so root
	check := func(exit, code string, args ...string) {
		t.Helper()
		stdout, stderr, err := invoke("", append([]string{"hwtest", "run", "--scenario", "demo"}, args...)...)
		if why := wrongFault(err, stdout, stderr, exit, code); why != "" {
			t.Errorf("%q: %s", args, why)
		}
	}
	check("2", "E_USAGE", "--on", "moon")
	check("2", "E_USAGE", "--on", "nic:0000:03:00.0") // demo needs a chassis
	check("2", "E_USAGE", "--on", "nic:0000:03:00.0", "--card", "softnic")
	check("2", "E_USAGE", "--on", "lab", "--take-vfs")
	check("2", "E_USAGE", "--on", "vm", "--device", "mlx5")
	check("3", "E_CARD", "--on", "lab", "--card", "tcamsim")
	check("3", "E_VM", "--on", "vm") // there is no runner beside this test
}
