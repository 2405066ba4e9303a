// Package must turns skipped tests into failures where the machine is known to
// have what they need. A skip is a claim, and BLADEFLOW_MUST is the list of claims
// that are false here: BLADEFLOW_MUST=veth,xdp,afxdp,purego,definition.
package must

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
)

// Have returns if err is nil, which says that the machine has feature. Otherwise
// it skips the test with err, or fails it if BLADEFLOW_MUST names the feature.
func Have(tb testing.TB, feature string, err error) {
	tb.Helper()
	switch {
	case err == nil:
	case Named(feature):
		tb.Fatalf("BLADEFLOW_MUST names %s, but: %v", feature, err)
	default:
		tb.Skipf("needs %s: %v", feature, err)
	}
}

// InMachine skips a test that is not in the virtual machine of hwtests/vm, whose card it is
// for.
func InMachine(tb testing.TB) {
	tb.Helper()
	var err error
	if os.Getenv("BLADEFLOW_IN_VM") == "" {
		err = errors.New("`make vm` runs it")
	}
	Have(tb, "tcamsim", err)
}

// Long skips a test that takes long, with why, where short tests were asked for (go
// test -short), and nowhere else. That is the caller's choice and says nothing of the
// machine, so BLADEFLOW_MUST has no word in it; a run without -short leaves none out.
func Long(tb testing.TB, why string) {
	tb.Helper()
	if testing.Short() {
		tb.Skipf("left out of short tests: %s", why)
	}
}

// Named reports whether BLADEFLOW_MUST names feature.
func Named(feature string) bool {
	return slices.Contains(strings.Split(os.Getenv("BLADEFLOW_MUST"), ","), feature)
}
