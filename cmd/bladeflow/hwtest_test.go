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
