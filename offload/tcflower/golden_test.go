package tcflower

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// testdata/golden.txt has what iproute2's tc sends for a command: the command, then the
// body of its message in hexadecimal. With -update this test runs every command under
// strace and writes the file anew; the kernel need not take the rule. The device is
// always lo, which has the same index everywhere.
const golden = "testdata/golden.txt"

var update = flag.Bool("update", false, "write testdata/golden.txt with what tc sends here")

// capture returns the body of the message that tc sends for a command.
func capture(t *testing.T, command string) []byte {
	t.Helper()
	file := t.TempDir() + "/trace"
	args := append([]string{"-o", file, "-e", "trace=sendmsg", "-e", "raw=sendmsg", "-e", "write=all", "-xx", "-s", "65535"}, strings.Fields(command)...)
	out, _ := exec.Command("strace", args...).CombinedOutput() // tc fails where the kernel has no flower
	trace, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var b []byte
	for line := range strings.Lines(string(trace)) {
		if !strings.HasPrefix(line, " | ") {
			continue
		}
		dump := strings.Fields(line[3:59])
		for _, x := range dump[1:] {
			c, err := hex.DecodeString(x)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			b = append(b, c...)
		}
	}
	at := bytes.Index(b, []byte("flower\x00"))
	if at < 16+tcmsgSize+4 {
		t.Fatalf("no filter in the trace of %s: %s\n%s", command, out, trace)
	}
	at -= 16 + tcmsgSize + 4
	for native.Uint16(b[at+4:]) != 44 { // the chain may come before the kind
		at -= 4
	}
	return b[at+16 : at+int(native.Uint32(b[at:]))]
}

// canonical returns the attributes of a message, each with the path to it, in a form that
// does not depend on their order, on flags of their numbers, or on whether a mask of only
// ones is there.
func canonical(t *testing.T, b []byte) []string {
	t.Helper()
	var out []string
	walk := func(b []byte, f func(a Attribute)) {
		if err := eachAttribute(b, func(a Attribute) error { f(a); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	leaf := func(path string, a Attribute) { out = append(out, fmt.Sprintf("%s %d %x", path, a.Kind, a.Data)) }
	action := func(path string, b []byte) {
		kind := ""
		walk(b, func(a Attribute) {
			if a.Kind == actKind {
				kind = text(a.Data)
			}
			if a.Kind != actOptions {
				leaf(path, a)
				return
			}
			walk(a.Data, func(a Attribute) {
				switch {
				case kind == "pedit" && a.Kind == editParameters:
					a.Data = append(bytes.Clone(a.Data[:genericSize+1]), a.Data[genericSize+4:]...) // without flags, which the kernel writes
				case kind == "pedit" && a.Kind == editHeaders:
					n := 0
					walk(a.Data, func(a Attribute) {
						n++
						walk(a.Data, func(a Attribute) { leaf(fmt.Sprintf("%s/edit %d", path, n), a) })
					})
					return
				}
				leaf(path+"/"+kind, a)
			})
		})
	}
	options := func(b []byte) {
		have := map[uint16]bool{}
		walk(b, func(a Attribute) {
			have[a.Kind] = true
			switch {
			case a.Kind == flowerActions:
				walk(a.Data, func(a Attribute) { action(fmt.Sprintf("action %d", a.Kind), a.Data) })
			case a.Kind != flowerFlags || !bytes.Equal(a.Data, make([]byte, 4)):
				leaf("flower", a)
			}
		})
		for _, k := range keys {
			if k.mask != 0 && have[uint16(k.id)] && !have[k.mask] {
				leaf("flower", Attribute{k.mask, ones(k.size)})
			}
		}
	}
	walk(b, func(a Attribute) {
		if a.Kind == tcaOptions {
			options(a.Data)
		} else {
			leaf("filter", a)
		}
	})
	slices.Sort(out)
	return out
}

// TestGolden compares with iproute2, both ways: what tc sends is understood wholly, and
// written again it has the same attributes.
func TestGolden(t *testing.T) {
	b, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	var written strings.Builder
	lines, n := strings.Split(strings.TrimSpace(string(b)), "\n"), 0
	for i, command := range lines {
		if !strings.HasPrefix(command, "tc ") {
			if *update && strings.HasPrefix(command, "#") {
				written.WriteString(command + "\n")
			}
			continue
		}
		var body []byte
		if *update {
			body = capture(t, command)
			written.WriteString(command + "\n" + hex.EncodeToString(body) + "\n")
		} else if body, err = hex.DecodeString(lines[i+1]); err != nil {
			t.Fatal(err)
		}
		n++
		t.Run(strings.TrimPrefix(command, "tc filter add dev lo "), func(t *testing.T) {
			f, err := ParseFilter(body)
			if err != nil {
				t.Fatal(err)
			}
			if len(f.Unknown) > 0 && !strings.Contains(command, "geneve") {
				t.Errorf("not understood: %v", f.Unknown)
			}
			again := f.Append(nil)
			if !bytes.Equal(again[:tcmsgSize], body[:tcmsgSize]) {
				t.Errorf("head %x, tc sends %x", again[:tcmsgSize], body[:tcmsgSize])
			}
			if d := cmp.Diff(canonical(t, body[tcmsgSize:]), canonical(t, again[tcmsgSize:])); d != "" {
				t.Errorf("- what tc sends, + what is written:\n%s", d)
			}
		})
	}
	if *update && !t.Failed() {
		if err := os.WriteFile(golden, []byte(written.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if n < 30 {
		t.Errorf("only %d commands", n)
	}
}
