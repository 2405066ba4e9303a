package tcflower

import (
	"encoding/hex"
	"os"
	"slices"
	"strings"
	"testing"
)

// testdata/dumps.txt has what kernel 6.12.117 tells of the filters of golden.txt after it
// took them: the command, then the body of the message. The virtual machine's run of
// TestKernelGolden with -update prints it.
const dumps = "testdata/dumps.txt"

// pairs reads a file of commands and bodies.
func pairs(t *testing.T, file string) map[string][]byte {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]byte{}
	command := ""
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); strings.HasPrefix(line, "tc ") || strings.HasPrefix(line, "#") {
			command = line
			continue
		}
		if out[command], err = hex.DecodeString(line); err != nil {
			t.Fatalf("%s: %s: %v", file, command, err)
		}
	}
	return out
}

// TestDumps reads what a kernel tells of each filter: it is what tc had asked for, key by
// key and action by action.
func TestDumps(t *testing.T) {
	asked, told := pairs(t, golden), pairs(t, dumps)
	if len(told) < 200 {
		t.Errorf("only %d dumps", len(told))
	}
	for command, body := range told {
		want, err := ParseFilter(asked[command])
		if err != nil {
			t.Fatal(err)
		}
		have, err := ParseFilter(body)
		if err != nil {
			t.Errorf("%s: %v", command, err)
			continue
		}
		sameAction := func(a, b Action) bool {
			return a.Kind == b.Kind && a.Verdict == b.Verdict && a.Mirred.How == b.Mirred.How && a.VLAN.How == b.VLAN.How && a.VLAN.ID == b.VLAN.ID &&
				a.Csum == b.Csum && slices.Equal(a.Edits, b.Edits) && slices.Equal(a.Cookie, b.Cookie) && len(a.Unknown) == 0
		}
		if have.Priority != want.Priority || have.Protocol != want.Protocol || have.Chain != want.Chain || have.ClassID != want.ClassID ||
			!slices.EqualFunc(have.Keys, want.told(), equalKeys) || len(have.Unknown) != len(want.Unknown) || !slices.EqualFunc(have.Actions, want.Actions, sameAction) {
			t.Errorf("%s:\n told %+v\nasked %+v", command, have, want)
		}
	}
}
