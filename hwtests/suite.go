package hwtests

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// Scenario is one thing to be shown with packets.
type Scenario struct {
	Name  string
	Shows string // in a sentence

	// Run returns what it found and what of that was not as it should be. An error
	// says that nothing can be said.
	Run func(ctx context.Context, seed uint64, say func(format string, a ...any)) (found any, wrong []string, err error)
}

// Scenarios returns all of them, the quick ones first. Each brings up a chassis of its
// own and takes it down.
func Scenarios() []Scenario {
	return []Scenario{
		{"demo", "rules in card and software, drift healed, a profile created, moved and reverted under traffic", runDemo},
		{"liar", "a card that ignores one bit of its masks is found by packets", runLiar},
		{"moves", "a profile is created, moved 21 times and reverted under traffic, each in less than 2 s, its rules proved before its link goes on", runMoves},
		{"conserve", "a million packets: each leaves as the rules say, and is counted once, in hardware or in software", runConserve},
		{"changes", "a hundred changes of a table under traffic: each packet is judged by the table before or the one after, and each queue changes once", runChanges},
		{"cutoff", "a blade that is cut off for a minute answers as before, and then goes to the newest generation", runCutOff},
	}
}

func runDemo(ctx context.Context, seed uint64, say func(string, ...any)) (any, []string, error) {
	r, err := Demo(ctx, DemoConfig{Seed: seed, Say: say})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Different
	for _, m := range []*Relocation{r.Fabric.Move, r.Fabric.Revert} {
		wrong = append(wrong, m.Wrong...)
	}
	if !r.OK() && len(wrong) == 0 {
		wrong = []string{fmt.Sprintf("proved: %t, lost: %d, different from the snapshot: %d", r.Proved, r.Lost, r.Fabric.Differ)}
	}
	return r, wrong, nil
}

func runLiar(ctx context.Context, seed uint64, say func(string, ...any)) (any, []string, error) {
	var blind flow.Key
	blind.Set(flow.DstPort, 1<<2)
	r, err := Demo(ctx, DemoConfig{Seed: seed, Duration: time.Second, Blind: blind, Say: say})
	if err != nil {
		return nil, nil, err
	}
	var wrong []string
	if r.Mismatches == 0 {
		wrong = []string{"nothing was noticed"}
	}
	return map[string]any{"blind": "dst_port/2", "mismatches": r.Mismatches, "first": r.Different}, wrong, nil
}

func runMoves(ctx context.Context, _ uint64, say func(string, ...any)) (any, []string, error) {
	const moves = 21
	say("moving a profile %d times", moves)
	r, err := Moves(ctx, MovesConfig{Moves: moves})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Wrong
	if slowest := max(r.Create, r.Seconds.Max, r.Revert.Seconds); slowest > goal.Seconds() {
		wrong = append(wrong, fmt.Sprintf("the slowest of create, move and revert took %.2f s", slowest))
	}
	return r, wrong, nil
}

func runConserve(ctx context.Context, seed uint64, say func(string, ...any)) (any, []string, error) {
	const packets = 1_000_000
	r, err := Conserve(ctx, ConserveConfig{Packets: packets, Rate: 60_000, Rules: 60, Entries: 48, Seed: seed, Say: say})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Different
	if r.Packets.Sent != packets || r.Packets.Hardware+r.Packets.Software != packets {
		wrong = append(wrong, fmt.Sprintf("of %d packets %d were judged, %d in hardware and %d in software", packets, r.Packets.Sent, r.Packets.Hardware, r.Packets.Software))
	}
	return r, wrong, nil
}

func runChanges(ctx context.Context, seed uint64, say func(string, ...any)) (any, []string, error) {
	r, err := Changes(ctx, ChangesConfig{Changes: 100, Rate: 200_000, Rules: 40, Entries: 64, Seed: seed, Say: say})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Different
	if r.Neither > 0 || r.Back > 0 {
		wrong = append(wrong, fmt.Sprintf("%d packets were judged by no single table, %d by an older one than a packet before them", r.Neither, r.Back))
	}
	if r.Differ < 10_000 {
		wrong = append(wrong, fmt.Sprintf("only %d packets tell old from new", r.Differ))
	}
	return r, wrong, nil
}

func runCutOff(ctx context.Context, _ uint64, say func(string, ...any)) (any, []string, error) {
	say("cutting a blade off for %s", isolation)
	r, err := CutOff(ctx, CutOffConfig{})
	if err != nil {
		return nil, nil, err
	}
	return r, r.Wrong, nil
}

// Run is the record of scenarios that were run: what HARDWARE.md cites.
type Run struct {
	APIVersion string      `json:"apiVersion"`
	Kind       string      `json:"kind"` // HardwareTest
	Metadata   RunMetadata `json:"metadata"`
	Spec       RunSpec     `json:"spec"`
	Status     RunStatus   `json:"status"`
}

// RunMetadata names a run.
type RunMetadata struct {
	Name string `json:"name"` // what it ran on
}

// RunSpec is what was asked.
type RunSpec struct {
	On        string   `json:"on"` // lab
	Seed      uint64   `json:"seed"`
	Scenarios []string `json:"scenarios"`
}

// RunStatus is what was found.
type RunStatus struct {
	Commit    string    `json:"commit,omitempty"` // of the program, if it was said
	Machine   Machine   `json:"machine"`
	Started   time.Time `json:"started"`
	Seconds   float64   `json:"seconds"`
	Passed    bool      `json:"passed"`
	Scenarios []Result  `json:"scenarios"`
}

// Machine is where it ran.
type Machine struct {
	Kernel string `json:"kernel"`
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Load   string `json:"load"` // average of the last minute when it began: of other work
}

// Result is one scenario.
type Result struct {
	Name    string   `json:"name"`
	Shows   string   `json:"shows"`
	Passed  bool     `json:"passed"`
	Seconds float64  `json:"seconds"`
	Found   any      `json:"found,omitempty"`
	Wrong   []string `json:"wrong,omitempty"`
	Error   string   `json:"error,omitempty"`
}

// RunScenarios runs those of the names, all if there are none, on the emulated chassis. An
// unknown name is a *[flow.Fault]; a scenario that fails is in the record, and the others
// run all the same.
func RunScenarios(ctx context.Context, seed uint64, names []string, say func(format string, a ...any)) (*Run, error) {
	chosen, err := choose(names)
	if err != nil {
		return nil, err
	}
	r := &Run{APIVersion: "bladeflow/v1", Kind: "HardwareTest", Metadata: RunMetadata{"lab"}, Spec: RunSpec{On: "lab", Seed: seed}}
	r.Status = RunStatus{Machine: machine(), Started: time.Now().UTC(), Passed: true}
	for _, s := range chosen {
		say("%s: %s", s.Name, s.Shows)
		begin := time.Now()
		found, wrong, err := s.Run(ctx, seed, say)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		one := Result{Name: s.Name, Shows: s.Shows, Passed: err == nil && len(wrong) == 0, Seconds: time.Since(begin).Seconds(), Found: found, Wrong: wrong}
		if err != nil {
			one.Error = err.Error()
		}
		r.Spec.Scenarios = append(r.Spec.Scenarios, s.Name)
		r.Status.Scenarios = append(r.Status.Scenarios, one)
		r.Status.Passed = r.Status.Passed && one.Passed
	}
	r.Status.Seconds = time.Since(r.Status.Started).Seconds()
	return r, nil
}

// choose returns the scenarios of the names, in their own order.
func choose(names []string) ([]Scenario, error) {
	all := Scenarios()
	if len(names) == 0 {
		return all, nil
	}
	var known []string
	for _, s := range all {
		known = append(known, s.Name)
	}
	for _, name := range names {
		if !slices.Contains(known, name) {
			return nil, &flow.Fault{Code: "E_USAGE", What: "scenario " + name, Why: "there is none of this name", Remedy: flow.Suggest(name, known...)}
		}
	}
	return slices.DeleteFunc(all, func(s Scenario) bool { return !slices.Contains(names, s.Name) }), nil
}

// machine describes this one.
func machine() Machine {
	m := Machine{Cores: runtime.NumCPU()}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.Kernel = unix.ByteSliceToString(u.Release[:])
	}
	load, _ := os.ReadFile("/proc/loadavg")
	m.Load, _, _ = strings.Cut(string(load), " ")
	text, _ := os.ReadFile("/proc/cpuinfo") // a machine without it has no name here
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			m.CPU = strings.TrimSpace(value)
			break
		}
	}
	return m
}
