package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
)

// reticent is a device that does not tell what fits into it, as real ones do not.
type reticent struct{ *offloadtest.NIC }

func (r reticent) Model(ctx context.Context) (device.Model, error) {
	m, err := r.NIC.Model(ctx)
	m.Entries, m.Masks = 0, 0
	return m, err
}

// TestLearns has a card that is full before anybody knows. The next agent plans by what
// the first one learned, unless the card has other firmware.
func TestLearns(t *testing.T) {
	model, err := device.Load("softnic")
	if err != nil {
		t.Fatal(err)
	}
	limits := map[string]func(m *device.Model){
		"entries": func(m *device.Model) { m.Entries = 3 },
		"masks":   func(m *device.Model) { m.Entries, m.Masks = 0, 2 },
	}
	for name, limit := range limits {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 64)
			m := model
			limit(&m)
			r.nic = offloadtest.New(m)
			refused := 0
			c := r.config()
			c.State = filepath.Join(t.TempDir(), "generation")
			c.Devices[0].Driver = counting{reticent{r.nic}, &refused}
			c.Devices[0].Card = device.Card{NIC: "0000:03:00 s1", Driver: "softnic", Firmware: "1"}
			r.agent = New(c)
			r.wanted.Want(web(t, 1))
			r.settle(4)
			s := r.agent.Status()
			if refused == 0 || s.EventTotals[eventLearned] == 0 {
				t.Fatalf("%d refusals, %+v", refused, s.Events)
			}
			if d := s.Devices[0]; name == "entries" && (d.Limit != 3 || !d.Learned) || name == "masks" && d.MaskLimit != 2 {
				t.Errorf("%+v", d)
			}
			again := func(firmware string) {
				t.Helper()
				for _, e := range r.installed() {
					r.nic.Take(e.ID)
				}
				refused, r.software.table = 0, nil
				c.Devices[0].Card.Firmware = firmware
				r.agent = New(c)
				r.settle(4)
			}
			if again("1"); refused != 0 {
				t.Errorf("the next agent was refused %d times", refused)
			}
			if again("2"); refused == 0 {
				t.Error("with other firmware nothing is learned anew")
			}
			if err := os.WriteFile(c.State+".learned", []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
			if again("1"); refused == 0 || r.agent.Status().EventTotals["E_KEPT"] != 1 {
				t.Errorf("a damaged file: %d refusals, %+v", refused, r.agent.Status().Events)
			}
		})
	}
}

// counting counts the operations that a device refused.
type counting struct {
	offload.Driver
	refused *int
}

func (c counting) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	out := c.Driver.Apply(ctx, ops)
	for _, o := range out {
		if o.Status == offload.Refused {
			*c.refused++
		}
	}
	return out
}

// TestBarrierBeforeDump has a removal without an answer, which takes effect when somebody
// waits for it: what is read back after the change was given up has to show it.
func TestBarrierBeforeDump(t *testing.T) {
	r := newRig(t, 64)
	late := &slow{NIC: r.nic}
	c := r.config()
	c.Devices[0].Driver = late
	r.agent = New(c)
	r.wanted.Want(web(t, 1))
	r.settle(1)
	late.slow = true
	r.wanted.Want(table(t, 2, nil, "name=x,priority=1 actions=drop"))
	if err := r.reconcile(); err == nil || !strings.Contains(err.Error(), "the old generation stays") {
		t.Fatalf("error %v", err)
	}
	if late.left == nil || slices.ContainsFunc(late.seen, func(e flow.Entry) bool { return e.ID == late.left.ID }) {
		t.Errorf("entry %v was read after it had gone", late.left)
	}
	late.slow = false
	r.settle(2)
	r.proved()
}

// slow is a device that removes an entry when it is waited for, and says nothing before.
type slow struct {
	*offloadtest.NIC
	slow bool
	left *flow.Entry  // that it removes
	seen []flow.Entry // in the last dump
}

func (s *slow) Apply(ctx context.Context, ops []offload.Op) []offload.Outcome {
	if !s.slow {
		return s.NIC.Apply(ctx, ops)
	}
	out := make([]offload.Outcome, len(ops))
	for i := range out {
		out[i] = offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: "no answer"}
	}
	s.left = &ops[0].Entry
	return out
}

func (s *slow) Barrier(ctx context.Context) error {
	if s.slow && s.left != nil {
		s.Take(s.left.ID)
	}
	return s.NIC.Barrier(ctx)
}

func (s *slow) Installed(ctx context.Context) ([]flow.Entry, error) {
	var err error
	s.seen, err = s.NIC.Installed(ctx)
	return s.seen, err
}
