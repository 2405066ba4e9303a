package lab

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
	"github.com/bladeflow/bladeflow/hwtests/observe"
	"github.com/google/go-cmp/cmp"
)

func TestDoctor(t *testing.T) {
	before := machine(t)
	began := time.Now()
	r := Doctor(context.Background())
	t.Logf("in %v\n%s", time.Since(began), r)
	if d := cmp.Diff(before, machine(t)); d != "" {
		t.Errorf("left behind:\n%s", d)
	}
	for _, f := range []string{FeatureVeth, FeatureXDP, FeatureAFXDP} {
		must.Have(t, f, r.Err(f))
	}
	if err := r.Err(""); err != nil {
		t.Error(err)
	}
}

// TestDoctorFails gives the doctor no time: every check says why it is not OK.
func TestDoctorFails(t *testing.T) {
	before := machine(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := Doctor(ctx)
	if len(r) != len(checks) {
		t.Errorf("%d results for %d checks", len(r), len(checks))
	}
	for _, x := range r {
		if x.OK || x.Detail == "" || x.Remedy == "" || strings.Contains(x.String(), "\n") {
			t.Errorf("%+v", x)
		}
	}
	var f *flow.Fault
	if err := r.Err(FeatureAFXDP); !errors.As(err, &f) || f.Code != "E_LAB_DOCTOR" || !strings.Contains(f.Why, "needs: namespaces") {
		t.Error(err)
	}
	if d := cmp.Diff(before, machine(t)); d != "" {
		t.Errorf("left behind:\n%s", d)
	}
}

// TestChecks checks that what a check needs comes before it.
func TestChecks(t *testing.T) {
	done := map[string]bool{}
	for _, c := range checks {
		for _, n := range c.needs {
			if !done[n] {
				t.Errorf("%s needs %s, which is not tried before", c.name, n)
			}
		}
		done[c.name] = true
	}
}

// TestDoctorSees breaks what the doctor looks for and checks that it notices.
func TestDoctorSees(t *testing.T) {
	l := up(t, Config{Blades: 1, VFs: 2, Keep: 8})
	d := &doctor{Lab: l, ctx: context.Background()}
	one, other := l.Blades[0].At(2), l.Blades[0].At(3)
	if err := d.arrives(one.Outside, other.Kernel, d.frame()); err == nil || !strings.Contains(err.Error(), "did not reach") {
		t.Errorf("a frame that went elsewhere: %v", err)
	}
	f := d.frame()
	if err := d.arrives(one.Outside, one.Kernel, f); err != nil {
		t.Error(err)
	}
	d.sequence--
	f[20] ^= 1
	if err := d.seen(one.Kernel, f); err == nil || !strings.Contains(err.Error(), "it was sent as") {
		t.Errorf("a frame that was changed: %v", err)
	}
	if c := one.Kernel.Cell(d.sequence - 1); c.Same(observe.Expect(f)) {
		t.Errorf("%+v", c)
	}
}
