package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/agent"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload"
	"github.com/bladeflow/bladeflow/offload/device"
	"github.com/bladeflow/bladeflow/offload/tcflower"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// The agent that TestCardAgentKills kills: a process of its own, which this test binary becomes.

// What an agent of TestCardAgentKills is told by its environment.
const (
	agentFolder = "BLADEFLOW_AGENT" // of what it reads and writes
	agentPiece  = "BLADEFLOW_PIECE" // operations that its driver gets at a time
	agentProbes = "BLADEFLOW_PROBE" // set if it asks the card first what that takes
)

// mortal is the agent that TestCardAgentKills kills: one of rules in a file, on the card. Its
// software forwards nothing: what it would do is not looked at, and takes an emulated machine
// longest to start.
func mortal() int {
	fmt.Fprintln(os.Stderr, mortalRun(context.Background()))
	return 1
}

func mortalRun(ctx context.Context) error {
	f := bladeFile(os.Getenv(agentFolder))
	var names []string
	for _, p := range f.Ports {
		names = append(names, p.Name)
	}
	ports := flow.NewPorts(names...)
	sw, err := f.Switch(ports)
	if err != nil {
		return err
	}
	piece, err := strconv.Atoi(os.Getenv(agentPiece))
	if err != nil {
		return err
	}
	m, err := device.Load("tcamsim")
	if err != nil {
		return err
	}
	at, err := representors()
	if err != nil {
		return err
	}
	d, err := tcflower.Open(tcflower.Options{Model: m, Ports: at})
	if err != nil {
		return err
	}
	var answers []device.Answer
	if os.Getenv(agentProbes) != "" {
		if answers, err = d.Probe(ctx); err != nil {
			return err
		}
	}
	wake := make(chan struct{}, 1)
	rules := &prompt{path: f.Rules[0], read: func(last flow.Generation, digest string) *agent.Files {
		return agent.NewFiles(f.Rules, ports, sw, last, digest)
	}}
	rules.last, rules.digest = agent.LastGeneration(f.Status)
	told := make(chan os.Signal, 1)
	signal.Notify(told, unix.SIGUSR1)
	go func() {
		for range told {
			select {
			case wake <- struct{}{}:
			default:
			}
		}
	}()
	return agent.New(agent.Config{Source: rules, Devices: []agent.Device{{Name: "nic0", Driver: pieces{d, piece}, Answers: answers}}, Datapath: idle{}, Check: new(verify.Prover).Check,
		Interval: f.Interval, State: strings.TrimSuffix(f.Status, ".json"), Wake: wake, Report: func(s *agent.Status) {
			if err := agent.WriteObject(f.Status, agent.NewObject(f.Blade, s)); err != nil {
				fmt.Fprintln(os.Stderr, err)
			}
		}}).Run(ctx)
}

// prompt is a source of a file that is renamed into place, and so needs not rest before it is
// read.
type prompt struct {
	path   string
	read   func(flow.Generation, string) *agent.Files
	last   flow.Generation
	digest string

	file   os.FileInfo // that was read
	wanted *agent.Wanted
}

func (p *prompt) Wanted() (*agent.Wanted, error) {
	now, err := os.Stat(p.path)
	if err != nil || p.file != nil && os.SameFile(now, p.file) {
		return p.wanted, err
	}
	w, err := p.read(p.last, p.digest).Wanted()
	if err != nil {
		return p.wanted, err
	}
	p.file, p.wanted = now, w
	p.last, p.digest = w.Table.Generation(), w.Digest
	return w, nil
}

// pieces is a driver that gets its operations a few at a time. What the kernel was given in
// one send it does before it ends the process that sent it: an agent that is killed with
// this driver stops between any two operations.
type pieces struct {
	*tcflower.Driver
	most int
}

func (p pieces) Apply(ctx context.Context, ops []offload.Op) (out []offload.Outcome) {
	for some := range slices.Chunk(ops, p.most) {
		out = append(out, p.Driver.Apply(ctx, some)...)
	}
	return out
}

// idle is software to which no packet comes.
type idle struct{}

func (idle) Swap(*flow.Table) error                { return nil }
func (idle) Judged() map[flow.RuleID]flow.Counter  { return nil }
func (idle) Policed() map[flow.RuleID]flow.Counter { return nil }
func (idle) Cached() map[flow.RuleID]flow.Counter  { return nil }
func (idle) Stats() (s fallback.Stats)             { return s }
