package peers

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Config says what to measure.
type Config struct {
	Frames      int      // for each path and repetition; 0 is 1,000,000
	RoundTrips  int      // for each latency and repetition; 0 is 5,000
	Repetitions int      // 0 is 5
	Rules       int      // in the table; 0 is 10,000
	Flows       int      // a power of two; 0 is 1,024
	Only        []string // names of paths; all if empty
	Install     bool     // packages of the distribution that paths need and that are missing
	Seed        uint64   // of rules and flows
	Commit      string   // for the record
	Doing       func(format string, a ...any)
}

// bench is a run.
type bench struct {
	Config
	traffic traffic
	cpus    [2]int // the path's, and the sender's where that is another one
	left    []LeftOut
	figures []*figure
	delays  []*delay
	began   time.Time
	load    float64 // then

	installed installs
}

// Run measures. What this machine does not have is left out, and named; an error is
// something that should have worked. The process must be root, and stays on one or two
// CPUs meanwhile.
func Run(ctx context.Context, c Config) (*Report, error) {
	b := &bench{Config: c, began: time.Now(), load: load1()}
	if err := b.complete(); err != nil {
		return nil, err
	}
	// Sender and sockets are threads of this process, which must not take the places that
	// the datapath's goroutines run in: an agent has those to itself.
	places := runtime.GOMAXPROCS(0)
	runtime.GOMAXPROCS(places + 2)
	defer runtime.GOMAXPROCS(places)
	restore, err := pin(b.cpus[0])
	if err != nil {
		return nil, err
	}
	err = b.measure(ctx)
	if err := errors.Join(err, restore()); err != nil {
		return nil, err
	}
	return b.report(), nil
}

// complete checks the configuration and fills in what it leaves open.
func (b *bench) complete() error {
	for value, byDefault := range map[*int]int{&b.Frames: 1_000_000, &b.RoundTrips: 5_000, &b.Repetitions: 5, &b.Rules: 10_000, &b.Flows: 1024} {
		if *value == 0 {
			*value = byDefault
		}
	}
	wrong := func(what string, a ...any) error {
		return &flow.Fault{Code: "E_BENCH", What: "bench datapath", Why: fmt.Sprintf(what, a...), Remedy: "see 'bladeflow bench datapath --help'"}
	}
	if b.Frames < 1 || b.RoundTrips < 1 || b.Repetitions < 1 || b.Rules < 1 {
		return wrong("a number is below 1")
	}
	if b.Flows < 1 || b.Flows > 1<<16 || b.Flows&(b.Flows-1) != 0 {
		return wrong("%d flows are not a power of two up to 65,536", b.Flows)
	}
	for _, name := range b.Only {
		if !slices.Contains(Names(), name) {
			return wrong("there is no path %q: there are %v", name, Names())
		}
	}
	if b.Doing == nil {
		b.Doing = func(string, ...any) {}
	}
	cpus, err := usableCPUs()
	if err != nil {
		return err
	}
	b.cpus = [2]int{cpus[len(cpus)-1], cpus[max(0, len(cpus)-2)]}
	b.traffic = newTraffic(b.Rules, b.Flows, b.Seed)
	return nil
}

// measure goes through all paths and comes back, so that what disturbs the machine
// for some time disturbs all of them.
func (b *bench) measure(ctx context.Context) error {
	var chosen []path
	for _, p := range paths() {
		if len(b.Only) > 0 && !slices.Contains(b.Only, p.name) {
			continue
		}
		if p.needs != "" && b.Install {
			b.Doing("installing %s", packages[p.needs])
		}
		if why := p.missing(ctx, b.Install); why != "" {
			b.left = append(b.left, LeftOut{p.name, why})
			continue
		}
		chosen = append(chosen, p)
	}
	for repetition := range b.Repetitions {
		doing := func(p *path, what string) {
			b.Doing("repetition %d of %d: %s, %s", repetition+1, b.Repetitions, p.name, what)
		}
		for i := range chosen {
			p := &chosen[i]
			for _, mode := range p.modes {
				if b.cpus[0] == b.cpus[1] && (mode == TwoCores || mode == UserCore) {
					continue
				}
				doing(p, string(mode))
				if err := b.throughput(ctx, p, mode); err != nil {
					return fmt.Errorf("%s, %s: %w", p.name, mode, err)
				}
			}
			if p.both {
				doing(p, "round trips")
				if err := b.latency(ctx, p); err != nil {
					return fmt.Errorf("%s, round trips: %w", p.name, err)
				}
			}
			runtime.GC() // in nobody's time
		}
		if len(b.Only) > 0 {
			continue
		}
		b.Doing("repetition %d of %d: verdicts into the cache", repetition+1, b.Repetitions)
		if err := b.install(); err != nil {
			return fmt.Errorf("verdicts into the cache: %w", err)
		}
	}
	return nil
}

// Names returns the names of all paths.
func Names() []string {
	var names []string
	for _, p := range paths() {
		names = append(names, p.name)
	}
	return names
}
