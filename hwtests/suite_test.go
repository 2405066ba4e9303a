package hwtests

import (
	"errors"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
)

func TestChoose(t *testing.T) {
	all, err := choose(nil, Scenarios())
	if err != nil || len(all) != len(Scenarios()) {
		t.Fatalf("%d scenarios, %v", len(all), err)
	}
	some, err := choose([]string{"cutoff", "demo"}, Scenarios())
	if err != nil || len(some) != 2 || some[0].Name != "demo" || some[1].Name != "cutoff" {
		t.Errorf("%v, %v: want them in their own order", some, err)
	}
	var f *flow.Fault
	if _, err := choose([]string{"demo", "cutof"}, Scenarios()); !errors.As(err, &f) || f.Code != "E_USAGE" || f.Remedy == "" {
		t.Errorf("an unknown scenario: %v", err)
	}
	for _, s := range all {
		if s.Name == "" || s.Shows == "" || s.Run == nil {
			t.Errorf("%+v says too little", s)
		}
	}
}
