package peers

import (
	"os"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Report is what a run has found. Every number is the median over the repetitions, with
// the least and the greatest beside it.
type Report struct {
	Machine     Machine   `json:"machine"`
	FrameBytes  int       `json:"frame_bytes"`
	Frames      int       `json:"frames"` // for each path and repetition
	Flows       int       `json:"flows"`
	Rules       int       `json:"rules"`
	Repetitions int       `json:"repetitions"`
	Seed        uint64    `json:"seed"`
	Paths       []Path    `json:"paths"`
	Latency     []Latency `json:"latency"`
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
	Cores     int     `json:"cores"` // one: sender and sink included; two: the path's core alone
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

// Ratio compares two paths, or two ways to do the same.
type Ratio struct {
	What  string  `json:"what"`
	Cores int     `json:"cores"`
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
	r := &Report{Machine: machine(), FrameBytes: frameBytes, Frames: b.Frames, Flows: b.Flows, Rules: b.Rules, Repetitions: b.Repetitions, Seed: b.Seed,
		Paths: []Path{}, Latency: []Latency{}, Ratios: []Ratio{}, LeftOut: append([]LeftOut{}, b.left...)}
	slices.SortStableFunc(b.figures, func(x, y *figure) int { return x.cores - y.cores })
	for _, f := range b.figures {
		p := Path{Name: f.path.name, Does: f.path.does, Cores: f.cores, CPU: spreadOf(f.costs()), Delivered: 1}
		p.Mpps = 1000 / p.CPU.Median
		for _, v := range f.samples {
			p.Delivered = min(p.Delivered, v.delivered)
		}
		r.Paths = append(r.Paths, p)
	}
	for _, d := range b.delays {
		r.Latency = append(r.Latency, Latency{d.path.name, spreadOf(d.p50), spreadOf(d.p99), d.sent, d.lost})
	}
	for _, bar := range bars {
		if v := bar.of(b); v != nil {
			s := spreadOf(v)
			r.Ratios = append(r.Ratios, Ratio{bar.what, bar.cores, s, bar.bar, bar.most, s.Median >= bar.bar && !bar.most || s.Median <= bar.bar && bar.most})
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
	what  string
	cores int
	bar   float64
	most  bool
	of    func(b *bench) []float64 // one number for each repetition; nil if something was not measured
}

// bars are those of the project. Each compares within one repetition.
var bars = []bar{
	{"cache hit: CPU of " + linuxBridge + " / ours", 1, 3, false, cpu(linuxBridge, cacheForward, 1, over)},
	{"cache hit: CPU of " + tcxRedirect + " / ours", 1, 2, false, cpu(tcxRedirect, cacheForward, 1, over)},
	{"cache hit: CPU ns of ours - " + xdpRedirect, 1, 35, true, cpu(cacheForward, xdpRedirect, 1, minus)},
	{"receive, classify, drop: CPU of " + nftDrop + " / ours", 1, 1.6, false, cpu(nftDrop, goDrop, 1, over)},
	{"receive, classify, drop: CPU of " + tcxDrop + " / ours", 1, 1.3, false, cpu(tcxDrop, goDrop, 1, over)},
	{"forward in Go: CPU of " + linuxBridge + " / ours", 1, 0.9, false, cpu(linuxBridge, goForward, 1, over)},
	{"forward in Go: CPU of " + linuxBridge + " / ours", 2, 0.9, false, cpu(linuxBridge, goForward, 2, over)},
	{"forward in Go: CPU of " + openVSwitch + " / ours", 2, 1, false, cpu(openVSwitch, goForward, 2, over)},
	{"cache hit: median round trip of ours / " + linuxBridge, 1, 1, true, trip(cacheForward, linuxBridge)},
	{"forward in Go: median round trip of ours / " + xdpRedirect, 1, 2.2, true, trip(goForward, xdpRedirect)},
}

func over(x, y float64) float64  { return x / y }
func minus(x, y float64) float64 { return x - y }

func cpu(x, y string, cores int, f func(x, y float64) float64) func(b *bench) []float64 {
	return func(b *bench) []float64 {
		find := func(name string) []float64 {
			for _, g := range b.figures {
				if g.path.name == name && g.cores == cores {
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
