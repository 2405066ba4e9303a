package offload_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// misread is a driver whose dump is not what its device holds.
type misread struct {
	offload.Driver
	dump func([]flow.Entry) []flow.Entry
}

func (d misread) Installed(ctx context.Context) ([]flow.Entry, error) {
	have, err := d.Driver.Installed(ctx)
	return d.dump(have), err
}

// TestDump has drivers dump what the plan does not say, though the device holds just
// that: what is read back counts, so each is refused, and what is wrong is named.
func TestDump(t *testing.T) {
	rule := func(have []flow.Entry) *flow.Entry {
		for i := range have {
			if !have[i].Punt() {
				return &have[i]
			}
		}
		return nil
	}
	for name, c := range map[string]struct {
		dump func([]flow.Entry) []flow.Entry
		says string
	}{
		"a wider match": {func(have []flow.Entry) []flow.Entry {
			if e := rule(have); e != nil {
				e.Match = flow.Match{}
			}
			return have
		}, "E_MISMATCH"},
		"other actions": {func(have []flow.Entry) []flow.Entry {
			if e := rule(have); e != nil {
				e.Actions = flow.Actions{{Op: flow.Output, Ports: []flow.Port{3}}}
			}
			return have
		}, "E_MISMATCH"},
		"another rule": {func(have []flow.Entry) []flow.Entry {
			if e := rule(have); e != nil {
				e.Rule = 1
			}
			return have
		}, "E_MISMATCH"},
		"an entry less": {func(have []flow.Entry) []flow.Entry { return have[:max(0, len(have)-1)] }, offload.CodeExists},
	} {
		t.Run(name, func(t *testing.T) {
			w := scene(t)
			driver := misread{w.nic, c.dump}
			target := offload.Target{Name: "nic", Driver: driver, Plan: offload.NewPlan(w.table, w.table, nil, w.model, nil)}
			r, err := offload.Run(t.Context(), []offload.Target{target}, nil, verify.Check)
			if err == nil || r.Devices[0].Err == nil {
				t.Fatal("what was dumped did not count")
			}
			fault, coded := errors.AsType[*flow.Fault](err)
			if !(coded && fault.Code == c.says) && !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v does not say %s", err, c.says)
			}
			t.Log(err)

			// Nor is the swap made before the dump is what the plan leaves.
			w = scene(t)
			if _, err := change(t, w.table, nil, w); err != nil {
				t.Fatal(err)
			}
			old, want := w.table, table(t, 2, "name=a,priority=9,dst_port=1 actions=pass", "name=c,priority=4,dst_port=8 actions=output:vf0")
			target = offload.Target{Name: "nic", Driver: misread{w.nic, c.dump}, Plan: offload.NewPlan(old, want, w.installed(), w.model, nil)}
			swap := func(*flow.Table) error { w.table = want; return nil }
			r, err = offload.Run(t.Context(), []offload.Target{target}, swap, verify.Check)
			if err == nil || r.Swapped || w.table != old {
				t.Errorf("swapped %v, %v", r.Swapped, err)
			}
		})
	}
}
