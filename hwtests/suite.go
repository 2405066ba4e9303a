package hwtests

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/offload/device"
)

// Scenario is one thing to be shown with packets.
type Scenario struct {
	Name  string
	Shows string // in a sentence

	// Run returns what it found and what of that was not as it should be. An error
	// says that nothing can be said.
	Run func(ctx context.Context, t Terms) (found any, wrong []string, err error)
}

// Terms are on what a scenario runs, and how.
type Terms struct {
	Seed uint64 // of rules and packets
	Say  func(format string, a ...any)
	Plug lab.Plug // makes the cards; nil makes the lab's own

	// Slow is how many times slower than a machine of its own this one is, an emulated
	// one for example: rates and numbers of packets are divided by it, and above 1 no
	// time that something took is found wrong. 0 is 1.
	Slow int

	card *card // that is under test; nil in a lab
}

// Scenarios returns all of them, the quick ones first. Each brings up a chassis of its
// own and takes it down.
func Scenarios() []Scenario {
	return []Scenario{
		{"demo", "rules in card and software, drift healed, a profile created, moved and reverted under traffic", runDemo},
		{"liar", "a card that ignores one bit of its masks is found by packets; one that never answers by entries with an address, and one that forwards what it drops, by its agent", runLiar},
		{"moves", "a profile is created, moved 21 times and reverted under traffic, each in less than 2 s, its rules proved before its link goes on", runMoves},
		{"conserve", "a million packets: each leaves as the rules say, and is counted once, in hardware or in software", runConserve},
		{"changes", "a hundred changes of a table under traffic: each packet is judged by the table before or the one after, and each queue changes once", runChanges},
		{"cutoff", "a blade that is cut off for a minute answers as before, and then goes to the newest generation", runCutOff},
	}
}

func runDemo(ctx context.Context, t Terms) (any, []string, error) {
	r, err := Demo(ctx, DemoConfig{Rate: 20_000 / t.Slow, Seed: t.Seed, Plug: t.Plug, Say: t.Say})
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

func runLiar(ctx context.Context, t Terms) (any, []string, error) {
	var blind flow.Key
	blind.Set(flow.DstPort, 1<<2)
	r, err := Demo(ctx, DemoConfig{Rate: 20_000 / t.Slow, Seed: t.Seed, Duration: time.Second * time.Duration(t.Slow), Blind: blind, Plug: t.Plug, Say: t.Say})
	if err != nil {
		return nil, nil, err
	}
	var wrong []string
	if r.Mismatches == 0 {
		wrong = []string{"nothing was noticed"}
	}
	found := map[string]any{"blind": "dst_port/2", "mismatches": r.Mismatches, "first": r.Different}
	for _, lie := range []string{"deaf", "leak"} {
		f, err := FoundLie(ctx, LieConfig{Lie: lie, Rate: 8_000 / t.Slow, Seed: t.Seed, Plug: t.Plug, Say: t.Say})
		if errors.Is(err, errors.ErrUnsupported) {
			continue // tcamsim lies in other ways, of which a test on one port shows that they are found
		}
		if err != nil {
			return nil, nil, err
		}
		found[lie], wrong = f, append(wrong, f.faults()...)
	}
	return found, wrong, nil
}

func runMoves(ctx context.Context, t Terms) (any, []string, error) {
	const moves = 21
	t.Say("moving a profile %d times", moves)
	r, err := Moves(ctx, MovesConfig{Moves: moves, Plug: t.Plug})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Wrong
	if slowest := max(r.Create, r.Seconds.Max, r.Revert.Seconds); slowest > goal.Seconds() && t.Slow == 1 {
		wrong = append(wrong, fmt.Sprintf("the slowest of create, move and revert took %.2f s", slowest))
	}
	return r, wrong, nil
}

func runConserve(ctx context.Context, t Terms) (any, []string, error) {
	packets := 1_000_000 / t.Slow
	r, err := Conserve(ctx, ConserveConfig{Packets: packets, Rate: 60_000 / t.Slow, Rules: 60, Entries: 48, Seed: t.Seed, Plug: t.Plug, Say: t.Say})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Different
	if r.Packets.Sent != uint64(packets) || r.Packets.Hardware+r.Packets.Software != uint64(packets) {
		wrong = append(wrong, fmt.Sprintf("of %d packets %d were judged, %d in hardware and %d in software", packets, r.Packets.Sent, r.Packets.Hardware, r.Packets.Software))
	}
	return r, wrong, nil
}

func runChanges(ctx context.Context, t Terms) (any, []string, error) {
	r, err := Changes(ctx, ChangesConfig{Changes: 100, Rate: 200_000 / t.Slow, Rules: 40, Entries: 64, Seed: t.Seed, Plug: t.Plug, Say: t.Say})
	if err != nil {
		return nil, nil, err
	}
	wrong := r.Different
	if r.Neither > 0 || r.Back > 0 {
		wrong = append(wrong, fmt.Sprintf("%d packets were judged by no single table, %d by an older one than a packet before them", r.Neither, r.Back))
	}
	if r.Differ < 10_000/t.Slow {
		wrong = append(wrong, fmt.Sprintf("only %d packets tell old from new", r.Differ))
	}
	return r, wrong, nil
}

func runCutOff(ctx context.Context, t Terms) (any, []string, error) {
	t.Say("cutting a blade off for %s", isolation)
	r, err := CutOff(ctx, CutOffConfig{Plug: t.Plug})
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
	On        string   `json:"on"`             // lab, vm or nic:PCI
	Card      string   `json:"card"`           // softnic, tcamsim, or the device model of a real card
	Slow      int      `json:"slow,omitempty"` // see [Terms]; 0 is 1
	Seed      uint64   `json:"seed"`
	Scenarios []string `json:"scenarios"`
}

// RunStatus is what was found.
type RunStatus struct {
	Commit    string     `json:"commit,omitempty"` // of the program, if it was said
	Evidence  string     `json:"evidence"`         // what this shows of cards: emulated, or proven on a real one
	Machine   Machine    `json:"machine"`
	NIC       *TestedNIC `json:"nic,omitempty"` // the real card
	Started   time.Time  `json:"started"`
	Seconds   float64    `json:"seconds"`
	Passed    bool       `json:"passed"`
	Scenarios []Result   `json:"scenarios"`
}

// TestedNIC is the card of a run on a real one.
type TestedNIC struct {
	Driver   string `json:"driver"`
	Firmware string `json:"firmware,omitempty"`
	Serial   string `json:"serial,omitempty"`
	Model    string `json:"model"` // device model
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

// RunConfig says what [RunScenarios] runs, and on what.
type RunConfig struct {
	Card      string   // softnic or tcamsim: what plays the cards of a lab
	Device    string   // model of a real card; that of its driver if empty
	TakeVFs   bool     // the real card's VFs may be removed and others created
	Scenarios []string // all if there are none
	Terms              // Plug is chosen by Card
}

// RunScenarios runs scenarios on the emulated chassis. An unknown name is a *[flow.Fault]; a
// scenario that fails is in the record, and the others run all the same.
func RunScenarios(ctx context.Context, c RunConfig) (*Run, error) {
	chosen, err := choose(c.Scenarios, Scenarios())
	if err != nil {
		return nil, err
	}
	if c.Plug, err = plugOf(c.Card); err != nil {
		return nil, err
	}
	r := newRun("lab", c.Card, device.Emulated, c.Terms)
	return r, r.run(ctx, chosen, c.Terms)
}

func newRun(on, card string, evidence device.Tier, t Terms) *Run {
	r := &Run{APIVersion: "bladeflow/v1", Kind: "HardwareTest", Metadata: RunMetadata{on}, Spec: RunSpec{On: on, Card: card, Seed: t.Seed}}
	if t.Slow > 1 {
		r.Spec.Slow = t.Slow
	}
	r.Status = RunStatus{Evidence: string(evidence), Machine: machine(), Started: time.Now().UTC(), Passed: true}
	return r
}

// run runs scenarios and adds them to the record.
func (r *Run) run(ctx context.Context, chosen []Scenario, t Terms) error {
	t.Slow = max(1, t.Slow)
	for _, s := range chosen {
		t.Say("%s: %s", s.Name, s.Shows)
		begin := time.Now()
		found, wrong, err := s.Run(ctx, t)
		if ctx.Err() != nil {
			for _, w := range wrong { // there is no record, and it may have left something
				t.Say("%s: %s", s.Name, w)
			}
			return ctx.Err()
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
	return nil
}

// choose returns those scenarios of some lists that have the names, all if there are none,
// in their own order.
func choose(names []string, lists ...[]Scenario) ([]Scenario, error) {
	all := slices.Concat(lists...)
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
