package manager

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

func TestUnprivileged(t *testing.T) {
	for status, refused := range map[string]bool{
		"Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\n": false,
		"CapPrm:\t0000000000001000\nCapEff:\t0000000000000000\n":           true,
		"CapPrm:\t000001ffffffffff\nCapEff:\t000001ffffffffff\n":           true,
		"CapPrm:\t0000000000000fff\nCapEff:\t0000000000000fff\n":           false,
	} {
		err := unprivileged(status)
		f, _ := errors.AsType[*flow.Fault](err)
		if refused != (f != nil && f.Code == "E_PRIVILEGED") {
			t.Errorf("%q: %v", status, err)
		}
	}
}

const dropper = "BLADEFLOW_TEST_DROP"

// TestDrop starts this test as a child that drops its privileges and says what is left.
func TestDrop(t *testing.T) {
	if os.Getenv(dropper) != "" {
		if Unprivileged() != nil {
			t.Fatal(Drop())
		}
		return
	}
	if os.Geteuid() != 0 {
		must.Have(t, "root", errors.New("there is nothing to drop"))
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestDrop$", "-test.v")
	cmd.Env = append(os.Environ(), dropper+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestDrop") {
		t.Errorf("%v\n%s", err, out)
	}
}
