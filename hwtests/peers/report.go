package peers

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Report is what a run has found. Every number is the median over the repetitions, with
// the least and the greatest beside it.
type Report struct {
	Commit      string    `json:"commit,omitempty"` // that this program was built from, if it knows
	Machine     Machine   `json:"machine"`
	Load        float64   `json:"load_at_begin"` // processes that ran or waited for a CPU, over a minute
	Seconds     float64   `json:"seconds"`
	FrameBytes  int       `json:"frame_bytes"`
	Frames      int       `json:"frames"` // for each path and repetition
	Flows       int       `json:"flows"`
	Rules       int       `json:"rules"`
	Repetitions int       `json:"repetitions"`
	Seed        uint64    `json:"seed"`
	Paths       []Path    `json:"paths"`
	Latency     []Latency `json:"latency"`
	Installs    []Install `json:"installs"`
	Ratios      []Ratio   `json:"ratios"`
	LeftOut     []LeftOut `json:"left_out"`
}

// Machine says where it was found.
type Machine struct {
	CPU    string `json:"cpu"`
	Cores  int    `json:"cores"`
	Kernel string `json:"kernel"`
	Go     string `json:"go"`
}

// Spread is the median of some numbers and how far they go.
type Spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// Wide reports whether the numbers are more than a quarter of the median apart: the
// machine was not quiet.
func (s Spread) Wide() bool { return s.Most-s.Least > s.Median/4 }

// Path is what a frame costs on one path.
type Path struct {
	Name      string  `json:"path"`
	Does      string  `json:"does"`
	Mode      Mode    `json:"mode"`
	CPU       Spread  `json:"cpu_ns_per_frame"`
	Mpps      float64 `json:"mframes_per_core_second"`
	Delivered float64 `json:"delivered"` // least share of the frames made
}

// Latency is the time of a round trip: two ways through the path, everything on one core.
type Latency struct {
	Name  string `json:"path"`
	P50   Spread `json:"p50_us"`
	P99   Spread `json:"p99_us"`
	Trips int    `json:"round_trips"`
	Lost  int    `json:"lost"`
}

// Install is what it takes to tell the kernel of one new flow.
type Install struct {
	Name string `json:"way"`
	CPU  Spread `json:"cpu_ns"`
}

// Ratio compares two paths, or two ways to do the same.
type Ratio struct {
	What  string  `json:"what"`
	Mode  Mode    `json:"mode"`
	Value Spread  `json:"value"`
	Bar   float64 `json:"bar"`
	Most  bool    `json:"at_most"` // Value must not be above Bar; else not below
	Met   bool    `json:"met"`
}

// LeftOut is a path that was not measured.
type LeftOut struct {
	Name string `json:"path"`
	Why  string `json:"why"`
}

func spreadOf(numbers []float64) Spread {
	s := slices.Sorted(slices.Values(numbers))
	return Spread{s[len(s)/2], s[0], s[len(s)-1]}
}

func (b *bench) report() *Report {
	r := &Report{Commit: b.Commit, Machine: machine(), Load: b.load, Seconds: time.Since(b.began).Seconds(), FrameBytes: frameBytes, Frames: b.Frames, Flows: b.Flows, Rules: b.Rules, Repetitions: b.Repetitions, Seed: b.Seed,
		Paths: []Path{}, Latency: []Latency{}, Installs: []Install{}, Ratios: []Ratio{}, LeftOut: append([]LeftOut{}, b.left...)}
	modes := []Mode{OneCore, ToKernel, TwoCores, UserCore}
	slices.SortStableFunc(b.figures, func(x, y *figure) int { return slices.Index(modes, x.mode) - slices.Index(modes, y.mode) })
	for _, f := range b.figures {
		p := Path{Name: f.path.name, Does: f.path.does, Mode: f.mode, CPU: spreadOf(f.costs()), Delivered: 1}
		p.Mpps = 1000 / p.CPU.Median
		for _, v := range f.samples {
			p.Delivered = min(p.Delivered, v.delivered)
		}
		r.Paths = append(r.Paths, p)
	}
	for _, d := range b.delays {
		r.Latency = append(r.Latency, Latency{d.path.name, spreadOf(d.p50), spreadOf(d.p99), d.sent, d.lost})
	}
	if in := b.installed; len(in.cache) > 0 {
		r.Installs = append(r.Installs, Install{cacheInstall, spreadOf(in.cache)}, Install{mapUpdate, spreadOf(in.update)})
	}
	for _, bar := range bars {
		if v := bar.of(b); v != nil {
			s := spreadOf(v)
			r.Ratios = append(r.Ratios, Ratio{bar.what, bar.mode, s, bar.bar, bar.most, s.Median >= bar.bar && !bar.most || s.Median <= bar.bar && bar.most})
		}
	}
	return r
}

func machine() Machine {
	cpu, _ := os.ReadFile("/proc/cpuinfo") // without it the machine has no name
	_, model, _ := strings.Cut(string(cpu), "model name\t: ")
	model, _, _ = strings.Cut(model, "\n")
	var name unix.Utsname
	unix.Uname(&name) // cannot fail
	return Machine{model, runtime.NumCPU(), unix.ByteSliceToString(name.Release[:]), runtime.Version()}
}

// load1 returns how many processes ran or waited for a CPU, over the last minute.
func load1() (load float64) {
	b, _ := os.ReadFile("/proc/loadavg") // without it nobody knows, and it is 0
	fmt.Sscan(string(b), &load)
	return load
}

// costs returns what a frame cost in each repetition.
func (f *figure) costs() []float64 {
	var c []float64
	for _, v := range f.samples {
		c = append(c, v.perFrame)
	}
	return c
}

// bar is what the datapath is held to.
type bar struct {
	what string
	mode Mode
	bar  float64
	most bool
	of   func(b *bench) []float64 // one number for each repetition; nil if something was not measured
}

// bars are those of the project. Each compares within one repetition.
var bars = []bar{
	{"cache hit: CPU of " + linuxBridge + " / ours", OneCore, 3, false, cpu(linuxBridge, cacheForward, OneCore, over)},
	{"cache hit: CPU of " + tcxRedirect + " / ours", OneCore, 2, false, cpu(tcxRedirect, cacheForward, OneCore, over)},
	{"cache hit: CPU ns of ours - " + xdpRedirect, OneCore, 35, true, cpu(cacheForward, xdpRedirect, OneCore, minus)},
	{"a flow made known: CPU of " + mapUpdate + " / ours", OneCore, 20, false, func(b *bench) []float64 { return pairs(b.installed.update, b.installed.cache, over) }},
	{"receive, classify, drop: CPU of " + nftDrop + " / ours", OneCore, 1.6, false, cpu(nftDrop, goDrop, OneCore, over)},
	{"receive, classify, drop: CPU of " + tcxDrop + " / ours", OneCore, 1.3, false, cpu(tcxDrop, goDrop, OneCore, over)},
	{"forward in Go: CPU of " + linuxBridge + " / ours", OneCore, 0.9, false, cpu(linuxBridge, goForward, OneCore, over)},
	{"forward in Go: CPU of " + linuxBridge + " / ours", ToKernel, 0.9, false, cpu(linuxBridge, goForward, ToKernel, over)},
	{"forward in Go: CPU of " + linuxBridge + " / ours", TwoCores, 0.9, false, cpu(linuxBridge, goForward, TwoCores, over)},
	{"forward in Go: CPU of " + openVSwitch + " / ours", UserCore, 1, false, cpu(openVSwitch, goForward, UserCore, over)},
	{"cache hit: median round trip of ours / " + linuxBridge, OneCore, 1, true, trip(cacheForward, linuxBridge)},
	{"forward in Go: median round trip of ours / " + xdpRedirect, OneCore, 2.2, true, trip(goForward, xdpRedirect)},
}

func over(x, y float64) float64  { return x / y }
func minus(x, y float64) float64 { return x - y }

func cpu(x, y string, mode Mode, f func(x, y float64) float64) func(b *bench) []float64 {
	return func(b *bench) []float64 {
		find := func(name string) []float64 {
			for _, g := range b.figures {
				if g.path.name == name && g.mode == mode {
					return g.costs()
				}
			}
			return nil
		}
		return pairs(find(x), find(y), f)
	}
}

func trip(x, y string) func(b *bench) []float64 {
	return func(b *bench) []float64 {
		find := func(name string) []float64 {
			for _, d := range b.delays {
				if d.path.name == name {
					return d.p50
				}
			}
			return nil
		}
		return pairs(find(x), find(y), over)
	}
}

func pairs(x, y []float64, f func(x, y float64) float64) (out []float64) {
	for i := range min(len(x), len(y)) {
		out = append(out, f(x[i], y[i]))
	}
	return out
}
