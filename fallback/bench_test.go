package fallback_test

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// ahead is how many frames a benchmark sends before it looks how many came through.
const ahead = 1024

// BenchmarkVeth is the whole path: frames from one workload through the datapath to
// another. cpu-ns/frame is all the process spends, kernel and sender included.
func BenchmarkVeth(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			inNamespace(b)
			cables := map[flow.Port]*cable{1: layCable(b, "a", dropper(b)), 2: layCable(b, "b", dropper(b))}
			config := fallback.Config{Links: map[flow.Port]fallback.Link{}}
			for port, c := range cables {
				l, err := k.open(c.rep)
				must.Have(b, k.feature, err)
				b.Cleanup(func() { l.Close() })
				config.Links[port] = l
			}
			d := run(b, config)
			swap(b, d, flowtest.NewTable(nil, flow.Actions{{Op: flow.Output, Ports: []flow.Port{2}}}))
			frame := testFrame(64, 0, 1)
			start := cpuTime(b)
			for n := 0; b.Loop(); n++ {
				cables[1].send(b, frame)
				for n%(ahead/2) == 0 && uint64(n) > d.Stats().Frames+ahead/2 {
					time.Sleep(10 * time.Microsecond)
				}
			}
			for d.Stats().Sent < uint64(b.N) {
				time.Sleep(10 * time.Microsecond)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "frames/s")
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/frame")
			if s := d.Stats(); s.Failed > 0 || s.Links[1].Dropped+s.Links[2].Dropped > 0 {
				b.Errorf("lost frames: %+v", s)
			}
		})
	}
}

// dropper is an XDP program that drops.
func dropper(b *testing.B) *ebpf.Program {
	b.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.XDP, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	must.Have(b, "xdp", err)
	b.Cleanup(func() { p.Close() })
	return p
}

// BenchmarkSend is one link sending batches of 64.
func BenchmarkSend(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			inNamespace(b)
			l, err := k.open(layCable(b, "0", dropper(b)).rep)
			must.Have(b, k.feature, err)
			b.Cleanup(func() { l.Close() })
			frame := testFrame(64, 0, 1)
			start := cpuTime(b)
			for n := 0; b.Loop(); n++ {
				if err := l.Send(frame); err != nil {
					b.Fatal(err)
				}
				if n%64 == 63 {
					if err := l.Flush(); err != nil {
						b.Fatal(err)
					}
				}
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/frame")
		})
	}
}

// BenchmarkPass is one frame handed to the kernel.
func BenchmarkPass(b *testing.B) {
	for _, k := range kinds {
		b.Run(k.name, func(b *testing.B) {
			inNamespace(b)
			c := layCable(b, "0", dropper(b))
			l, err := k.open(c.rep)
			must.Have(b, k.feature, err)
			b.Cleanup(func() { l.Close() })
			kernel, err := k.kernel(map[flow.Port]int{1: c.rep})
			must.Have(b, k.feature, err)
			b.Cleanup(func() { kernel.Close() })
			frame := testFrame(64, 0, 1)
			b.ReportAllocs()
			start := cpuTime(b)
			for b.Loop() {
				if err := kernel.Deliver(1, frame); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/frame")
		})
	}
}

// BenchmarkRawSend is the sender of BenchmarkVeth alone, into a device that drops.
func BenchmarkRawSend(b *testing.B) {
	inNamespace(b)
	c := layCable(b, "0", dropper(b))
	frame := testFrame(64, 0, 1)
	start := cpuTime(b)
	for b.Loop() {
		unix.Send(c.socket, frame, 0)
	}
	b.ReportMetric(float64(cpuTime(b)-start)/float64(b.N), "cpu-ns/frame")
}
