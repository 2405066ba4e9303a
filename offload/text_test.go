package offload_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/offloadtest"
	"github.com/bladeflow/bladeflow/offload/verify"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the transcripts in testdata")

// TestTranscripts carries out the scripts in testdata/*.txt. A line that begins
// with $ is a command; what follows it is what it prints.
//
//	$ device NAME [entries=N]      begin with an empty device of this model
//	$ heat RULE=PACKETS ...        from now on
//	$ apply                        the rules on the lines up to a blank one, as the next generation
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			have, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(have))
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if diff := cmp.Diff(string(have), got); diff != "" {
				t.Errorf("%s (-update rewrites it):\n%s", file, diff)
			}
		})
	}
}

// play carries out a script and returns it with what the commands print now.
func play(t *testing.T, script string) string {
	var out strings.Builder
	var nic *offloadtest.NIC
	var model device.Model
	var heat offload.Heat
	current := table(t, 0)
	lines := strings.Split(script, "\n")
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		if strings.HasPrefix(line, "#") {
			fmt.Fprintln(&out, line)
			continue
		}
		args := strings.Fields(line)
		if len(args) < 2 || args[0] != "$" {
			continue
		}
		fmt.Fprintln(&out, line)
		switch args[1] {
		case "device":
			var err error
			if model, err = device.Load(args[2]); err != nil {
				t.Fatal(err)
			}
			if len(args) > 3 {
				if model.Entries, err = strconv.Atoi(strings.TrimPrefix(args[3], "entries=")); err != nil {
					t.Fatal(err)
				}
			}
			nic = offloadtest.New(model)
		case "heat":
			heat = offload.Heat{}
			for _, pair := range args[2:] {
				name, n, _ := strings.Cut(pair, "=")
				packets, err := strconv.ParseUint(n, 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				heat[flow.NewRuleID("", name)] = packets
			}
		case "apply":
			var rules []string
			for i++; i < len(lines) && lines[i] != ""; i++ {
				rules = append(rules, lines[i])
				fmt.Fprintln(&out, lines[i])
			}
			want := table(t, current.Generation()+1, rules...)
			installed, err := nic.Installed(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			p := offload.NewPlan(current, want, installed, model, heat)
			swap := func(n *flow.Table) error { current = n; return nil }
			if _, err := offload.Run(t.Context(), []offload.Target{{Name: "nic", Driver: nic, Plan: p}}, swap, verify.Check); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "\n%s", p.String())
		default:
			t.Fatalf("line %d: unknown command %q", i+1, line)
		}
		out.WriteByte('\n')
	}
	return strings.TrimRight(out.String(), "\n") + "\n"
}
