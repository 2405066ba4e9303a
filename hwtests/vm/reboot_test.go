package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/provision"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// Settings across a reboot: the machine boots twice, and the second boot is told what the first
// one printed.

// bootKept is what the machine is given of what it printed when it ran last, on such a line.
const (
	bootKept = "BLADEFLOW_KEPT"
	keptLine = "KEPT "
)

// kept is what is wanted of a card, and what ip showed of it when that was so.
type kept struct {
	Shape provision.Shape
	Want  []fabric.Bound
	Shown []fabric.Setting
}

// TestReboot boots the machine twice: what its card was set up to the first time is gone, and
// there again when it is restored from what was kept.
func TestReboot(t *testing.T) {
	var lines []string
	for range 2 {
		cmd := machine(t, "", "-test.run=^TestBooted$", "-test.v")
		if len(lines) > 0 {
			cmd.Env = append(cmd.Env, bootKept+"="+lines[0])
		}
		out, err := cmd.CombinedOutput()
		_, line, found := strings.Cut(string(out), "\n"+keptLine)
		if err != nil || !found {
			t.Fatalf("%v: %s", err, out)
		}
		line, _, _ = strings.Cut(line, "\n")
		lines = append(lines, line)
	}
	if diff := cmp.Diff(lines[0], lines[1]); diff != "" {
		t.Errorf("the first boot (-) and the second (+) left:\n%s", diff)
	}
}

// TestBooted is run by TestReboot: it sets the card up as it was kept, or else as it comes.
func TestBooted(t *testing.T) {
	must.InMachine(t)
	c := openShaped(t)
	linked(t, "eth0")
	if seen, err := c.vfs.Read(); err != nil || len(seen) > 0 {
		t.Fatalf("a machine that has booted has %v, %v: nothing was shown", seen, err)
	}
	var k kept
	if text := os.Getenv(bootKept); text == "" {
		k = c.drawn(rand.New(rand.NewPCG(flowtest.Seed(t), 0)))
	} else if err := json.Unmarshal([]byte(text), &k); err != nil {
		t.Fatal(err)
	}
	if err := provision.Restore("b1", c.pfs, c.vfs, map[fabric.PFID]provision.Shape{c.pf: k.Shape}, k.Want, nil); err != nil {
		t.Fatal(err)
	}
	have := shown(t)
	if len(have) != k.Shape.VFs {
		t.Fatalf("ip shows %d VFs, want %d", len(have), k.Shape.VFs)
	}
	k.Shown = nil
	for _, w := range k.Want {
		is := have[w.VF.Index].setting(t)
		if is != w.Setting {
			t.Errorf("ip shows VF %d as %+v, want %+v", w.VF.Index, is, w.Setting)
		}
		k.Shown = append(k.Shown, is)
	}
	text, err := json.Marshal(k)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("\n%s%s\n", keptLine, text)
}

// drawn is a random wish for the card.
func (s *shaped) drawn(rng *rand.Rand) (k kept) {
	k.Shape = provision.Shape{VFs: 3 + rng.IntN(4), ESwitch: fabric.ESwitchSwitchdev}
	for i, vf := range rng.Perm(k.Shape.VFs)[:3] {
		k.Want = append(k.Want, fabric.Bound{VNIC: fabric.VNICName{Profile: "p", VNIC: fmt.Sprint(i)}, VF: s.vf(vf), Setting: fabric.Setting{MAC: station | rng.Uint64N(1<<16), VLAN: uint16(rng.IntN(4095)),
			Trust: rng.IntN(2) == 0, Spoof: rng.IntN(2) == 0, QoS: fabric.QoS{Maximum: fabric.BitsPerSecond(10+rng.IntN(900)) * 1e6}, Traffic: i > 0}})
	}
	return k
}
