package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/provision/provisiontest"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/offload/verify"
)

// line is a store behind a line that can be cut: nothing gets through, and a watch
// keeps silent until the line is mended, as etcd's client does it.
type line struct {
	*store.Memory
	cut    atomic.Bool
	writes atomic.Int64
}

func (l *line) broken() error {
	if l.cut.Load() {
		return &flow.Fault{Code: "E_UNREACHABLE", What: "line", Why: "cut", Err: store.ErrUnreachable}
	}
	return nil
}

func (l *line) Read(ctx context.Context, key store.Key) (store.KV, error) {
	if err := l.broken(); err != nil {
		return store.KV{}, err
	}
	return l.Memory.Read(ctx, key)
}

func (l *line) List(ctx context.Context, p store.Prefix) ([]store.KV, int64, error) {
	if err := l.broken(); err != nil {
		return nil, 0, err
	}
	return l.Memory.List(ctx, p)
}

func (l *line) Txn(ctx context.Context, c []store.Compare, ops []store.Op) (int64, error) {
	if err := l.broken(); err != nil {
		return 0, err
	}
	l.writes.Add(1)
	return l.Memory.Txn(ctx, c, ops)
}

func (l *line) Lease(ctx context.Context, ttl time.Duration) (*store.Lease, error) {
	if err := l.broken(); err != nil {
		return nil, err
	}
	return l.Memory.Lease(ctx, ttl)
}

func (l *line) Watch(ctx context.Context, p store.Prefix, after int64) <-chan store.Batch {
	out := make(chan store.Batch)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			inner, stop := context.WithCancel(ctx)
			for b := range l.Memory.Watch(inner, p, after) {
				if l.cut.Load() {
					break // and again from the last that came through
				}
				out <- b
				after = b.Revision
			}
			stop()
			time.Sleep(100 * time.Millisecond)
			for l.cut.Load() && ctx.Err() == nil {
				time.Sleep(100 * time.Millisecond)
			}
		}
	}()
	return out
}

// Close leaves the memory open for the next connection.
func (l *line) Close() error { return nil }

// world is one blade of a fabric in memory, and its store.
type world struct {
	*testing.T
	*rig
	store  *store.Memory
	line   *line
	vfs    *provisiontest.VFs
	fabric *Fabric
	keep   string
	stop   func()
}

const blade = "b1"

// inWorld runs f where time is not real; the blade's agent is not running yet.
func inWorld(t *testing.T, f func(*testing.T, *world)) {
	t.Helper()
	keep := filepath.Join(t.TempDir(), "generation.json")
	synctest.Test(t, func(t *testing.T) {
		m := store.NewMemory()
		if _, err := store.Init(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		w := &world{T: t, rig: newRig(t, 64), store: m, line: &line{Memory: m}, vfs: provisiontest.New(vf(blade, 0), vf(blade, 1), vf(blade, 2)), keep: keep}
		defer func() { // also when f fails: the test's words are what should be seen
			if w.stop != nil {
				w.stop()
			}
			m.Close()
		}()
		f(t, w)
	})
}

// start starts an agent, new in everything but the kept file.
func (w *world) start() {
	w.Helper()
	if w.stop != nil {
		w.stop()
	}
	var err error
	w.fabric, err = NewFabric(FabricConfig{Blade: blade, Ports: testPorts, Keep: w.keep,
		Dial: func(context.Context) (store.Store, error) { return w.line, w.line.broken() }})
	if err != nil {
		w.Fatal(err)
	}
	c := w.config()
	c.Source, c.Wake, c.Report, c.VFs, c.Blade, c.Now = w.fabric, w.fabric.Wake(), w.fabric.Report, w.vfs, blade, time.Now
	w.agent = New(c)
	ctx, cancel := context.WithCancel(w.Context())
	var done sync.WaitGroup
	done.Go(func() { w.agent.Run(ctx) })
	done.Go(func() { w.fabric.Run(ctx) })
	w.stop = func() {
		cancel()
		done.Wait()
	}
	w.rest()
}

// rest waits until all has come to rest.
func (w *world) rest() {
	time.Sleep(5 * time.Second)
	synctest.Wait()
}

func (w *world) publish(number uint64, c fabric.Content, change ...func(*api.Generation)) {
	w.Helper()
	g, shards := published(number, c, 2)
	for _, f := range change {
		f(g)
	}
	if err := write(w.Context(), w.store, blade, g, shards); err != nil {
		w.Fatal(err)
	}
	w.rest()
}

// reported is what the blade last said of itself.
func (w *world) reported() api.GenerationStatus {
	w.Helper()
	var s api.BladeStatus
	kv, err := w.store.Read(w.Context(), store.Status(blade, api.PartGeneration))
	if err == nil {
		err = json.Unmarshal(kv.Value, &s)
	}
	if err != nil {
		w.Fatal(err)
	}
	return s.Status
}

// runs checks that the generation is in force, proved and reported, and that the
// report has this error's code or none.
func (w *world) runs(number uint64, code string) {
	w.Helper()
	if t := w.software.current(); t == nil || uint64(t.Generation()) != number {
		w.Fatalf("the table in force is %v, want generation %d", t, number)
	}
	m, _ := w.nic.Model(w.Context())
	if err := verify.Check(w.software.current(), w.installed(), m); err != nil {
		w.Fatal(err)
	}
	s := w.reported()
	got := ""
	if s.Error != nil {
		got = s.Error.Code
	}
	if s.Generation != number || !s.Proved || got != code {
		w.Fatalf("reported is generation %d, proved %t, error %+v; want %d, true, %q", s.Generation, s.Proved, s.Error, number, code)
	}
}

var (
	one = []string{"name=a,priority=2,in_port=vf0,ip_proto=tcp,dst_port=80 actions=output:vf1", "name=b,priority=1,in_port=vf0 actions=drop",
		"name=c,priority=3,in_port=vf1,ip_proto=udp actions=pass"}
	two = append(one[:2:2], "name=d,priority=9,ip_proto=icmp actions=drop")
)

func bind(index int, mac uint64) fabric.Bound {
	return fabric.Bound{VNIC: fabric.VNICName{Profile: "p", VNIC: fmt.Sprintf("n%d", index)}, VF: vf(blade, index), Port: flow.Port(index + 2),
		Setting: fabric.Setting{MAC: mac, VLAN: 7, QoS: fabric.QoS{Maximum: 1e9}, Traffic: true}}
}

// TestFollows goes through a blade's life: told nothing, told, told more, with links
// that wait.
func TestFollows(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		if w.software.current() != nil {
			t.Fatal("a table is in force, and nobody has said which")
		}
		vnics := []fabric.Bound{bind(0, 0x0201), bind(1, 0x0202)}
		first := content(t, blade, vnics, one...)
		w.publish(1, first, func(g *api.Generation) { g.Spec.VNICs[1].Connect = false })
		w.runs(1, "")
		s := w.reported()
		if s.Digest != first.Digest.String() || s.Record == 0 || len(s.VFs) != 2 || !s.VFs[0].Link || s.VFs[1].Link || !s.VFs[1].Ours || s.VFs[1].MAC != "00:00:00:00:02:02" {
			t.Fatalf("%+v", s)
		}
		running := w.software.current()
		w.publish(1, first)
		if got := w.reported(); !got.VFs[1].Link || got.Record <= s.Record || w.software.current() != running {
			t.Fatalf("%+v; the same table is in force: %t", got, w.software.current() == running)
		}
		w.publish(2, content(t, blade, nil, two...))
		w.runs(2, "")
		if got := w.reported(); len(got.VFs) != 0 {
			t.Fatalf("%+v", got.VFs)
		}
		time.Sleep(time.Second + time.Millisecond) // with rest: six intervals, which is what rules wait at most
		synctest.Wait()
		var rules api.Rules
		kv, err := w.store.Read(w.Context(), store.Status(blade, api.PartRules))
		if err = errors.Join(err, json.Unmarshal(kv.Value, &rules)); err != nil || rules.Status.Generation != 2 || len(rules.Status.Rules) != 4 {
			t.Fatalf("%v, %+v", err, rules)
		}
	})
}

// TestRefuses publishes what must not be taken, and after each the good again.
func TestRefuses(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		good, other := content(t, blade, nil, one...), content(t, blade, nil, two...)
		n := uint64(7)
		w.publish(n, good)
		for _, c := range []struct {
			code   string
			number uint64 // to add
			change func(*api.Generation)
		}{
			{"E_GENERATION_OLD", ^uint64(0), nil},
			{"E_GENERATION_TWICE", 0, nil},
			{"E_DIGEST", 1, func(g *api.Generation) { g.Spec.Digest = good.Digest.String() }},
			{"E_DIGEST", 1, func(g *api.Generation) { g.Spec.Uplink = "" }},
			{"E_DIGEST", 1, func(g *api.Generation) { g.Spec.Rules-- }},
			{"E_DIGEST", 1, func(g *api.Generation) { g.Spec.Shards = g.Spec.Shards[1:] }},
			{"E_SHARD", 1, func(g *api.Generation) { g.Spec.Shards[0] = strings.Repeat("ab", 32) }},
			{"E_GENERATION", 1, func(g *api.Generation) { g.Spec.Shards[0] = "ab" }},
			{"E_GENERATION", 1, func(g *api.Generation) { g.Spec.Default = "teleport" }},
			{"E_GENERATION", 1, func(g *api.Generation) { g.Spec.Uplink = "nic9/pf9" }},
			{"E_SCHEMA", 1, func(g *api.Generation) { g.APIVersion = "bladeflow/v2" }},
			{"E_SCHEMA", 1, func(g *api.Generation) { g.Kind = "Delta" }},
		} {
			if c.change == nil {
				c.change = func(*api.Generation) {}
			}
			w.publish(n+c.number, other, c.change)
			w.runs(n, c.code)
			n += 2
			w.publish(n, good)
			w.runs(n, "")
		}
	})
}

// TestUnknownFields checks that what is only added to a record is passed over.
func TestUnknownFields(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		g, shards := published(1, content(t, blade, nil, one...), 2)
		text := strings.Replace(string(marshal(g)), `"spec":{`, `"spec":{"colour":"red",`, 1)
		if err := write(w.Context(), w.store, blade, json.RawMessage(text), shards); err != nil {
			t.Fatal(err)
		}
		w.rest()
		w.runs(1, "")
	})
}

// TestRestored starts agents anew on one kept file.
func TestRestored(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		w.publish(4, content(t, blade, []fabric.Bound{bind(0, 0x0201), bind(1, 0x0202)}, one...))
		w.runs(4, "")

		w.stop()
		w.line.cut.Store(true)
		w.vfs.Set(vf(blade, 1), fabric.VFState{}) // as after a reboot
		w.software.table = nil
		w.start()
		now, _ := w.vfs.Read()
		if got := w.software.current(); got == nil || got.Generation() != 4 || !now[vf(blade, 0)].Traffic {
			t.Fatalf("without its store the agent has %v and VFs %v", got, now)
		}
		if s := now[vf(blade, 1)]; s.Traffic || s.MAC != 0x0202 {
			t.Fatalf("without its store the agent made of the VF %s", s)
		}
		w.line.cut.Store(false)
		w.rest()
		w.runs(4, "")
		if now, _ = w.vfs.Read(); !now[vf(blade, 1)].Traffic {
			t.Fatalf("with its store the agent left the VF as %s", now[vf(blade, 1)])
		}

		w.publish(3, content(t, blade, nil, two...))
		w.start()
		w.runs(4, "E_GENERATION_OLD")

		if err := os.WriteFile(w.keep, []byte("{}"), 0o600); err != nil {
			t.Fatal(err)
		}
		var f *flow.Fault
		if _, err := NewFabric(FabricConfig{Blade: blade, Ports: testPorts, Keep: w.keep}); !errors.As(err, &f) || f.Code != "E_KEPT" {
			t.Fatal(err)
		}
	})
}

// TestCutOff cuts the line for a minute, in which more happens than history keeps.
func TestCutOff(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		w.publish(1, content(t, blade, []fabric.Bound{bind(0, 0x0201)}, one...))
		w.runs(1, "")
		before := w.agent.Status()

		w.line.cut.Store(true)
		at := time.Now()
		for n := range uint64(6) {
			w.publish(2+n, content(t, blade, nil, two...))
			time.Sleep(5 * time.Second)
		}
		s := w.agent.Status()
		if s.Generation != 1 || !s.Proved || len(s.VFs) != 1 || !s.VFs[0].Link {
			t.Fatalf("cut off, the blade is %+v", s)
		}
		if s.Error == nil || s.Error.Code != "E_UNREACHABLE" || s.Error.Since.Sub(at) > 10*time.Second || !strings.Contains(s.Error.Text, "nothing was heard since") {
			t.Fatalf("cut off, the status says %+v", s.Error)
		}
		if s.Rejected != before.Rejected {
			t.Fatalf("%d wanted states were rejected, and none was seen", s.Rejected-before.Rejected)
		}
		_, revision, err := w.store.List(w.Context(), store.Everything)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.store.Compact(w.Context(), revision); err != nil {
			t.Fatal(err)
		}
		w.line.cut.Store(false)
		w.rest()
		w.runs(7, "")
	})
}

// TestSilence checks that a blade whose agent ended is not alive, and that its last
// words stay.
func TestSilence(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.start()
		w.publish(1, content(t, blade, nil, one...))
		alive := func() error {
			_, err := w.store.Read(w.Context(), store.Status(blade, api.PartAlive))
			return err
		}
		if err := alive(); err != nil {
			t.Fatal(err)
		}
		w.stop()
		w.stop = nil
		time.Sleep(11 * time.Second)
		synctest.Wait()
		if err := alive(); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("alive: %v", err)
		}
		if s := w.reported(); s.Generation != 1 {
			t.Fatalf("%+v", s)
		}
	})
}

// TestReportPace has statuses that change all the time, and counts what is written.
func TestReportPace(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		f, err := NewFabric(FabricConfig{Blade: blade, Ports: testPorts, Dial: func(context.Context) (store.Store, error) { return w.line, nil }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(w.Context())
		var done sync.WaitGroup
		done.Go(func() { f.Run(ctx) })
		status := func(n int) *Status {
			return &Status{Reconciled: time.Now(), Mismatches: uint64(n), Rules: []RuleStatus{{Name: "r", Software: Count{Packets: uint64(n)}}}}
		}
		const seconds = 30
		for n := range 100 * seconds {
			f.Report(status(n))
			time.Sleep(10 * time.Millisecond)
		}
		// alive, and two parts each second at most
		if n := w.line.writes.Load(); n > 2*seconds+3 || n < seconds {
			t.Errorf("%d writes in %d s", n, seconds)
		}
		at := time.Now()
		important := status(0)
		important.Generation = 9
		f.Report(important)
		synctest.Wait()
		if s := w.reported(); s.Generation != 9 || time.Since(at) > 0 {
			t.Errorf("what is important was reported as %+v after %s", s, time.Since(at))
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		still := w.line.writes.Load()
		for range 100 {
			f.Report(important)
			time.Sleep(100 * time.Millisecond)
		}
		if n := w.line.writes.Load(); n != still {
			t.Errorf("%d writes of what did not change", n-still)
		}
		cancel()
		done.Wait()
	})
}

// TestProvision follows what is written to VFs, and when, against the table.
func TestProvision(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		var lies atomic.Bool // the driver about rates
		w.vfs.Fault = func(_ fabric.VFID, s fabric.Setting) (fabric.Setting, error) {
			if lies.Load() {
				s.QoS.Maximum = 0
			}
			return s, nil
		}
		w.vfs.Wrote = func(now map[fabric.VFID]fabric.VFState) {
			t := w.software.current()
			for id, s := range now {
				if s.Traffic && (t == nil || len(t.Switch().Stations()) == 0) {
					w.Errorf("%s speaks as %s, and the table in force does not know it", id, s)
				}
			}
		}
		w.start()
		w.publish(1, content(t, blade, []fabric.Bound{bind(0, 0x0201)}, one...))
		w.runs(1, "")
		w.publish(2, content(t, blade, []fabric.Bound{bind(1, 0x0201)}, one...)) // to the VF beside it
		w.runs(2, "")
		if now, _ := w.vfs.Read(); len(now) != 1 || !now[vf(blade, 1)].Traffic {
			t.Fatalf("%v", now)
		}

		lies.Store(true)
		record := w.reported().Record
		w.publish(3, content(t, blade, []fabric.Bound{bind(1, 0x0201), bind(2, 0x0203)}, two...))
		w.runs(2, "E_VF_READBACK")
		if s := w.reported(); s.Record != record {
			t.Fatalf("a record that cannot be followed is reported as acted on: %+v", s)
		}
		lies.Store(false)
		w.rest()
		w.runs(3, "")
		w.vfs.Set(vf(blade, 2), fabric.VFState{}) // behind our back
		w.rest()
		if now, _ := w.vfs.Read(); !now[vf(blade, 2)].Traffic {
			t.Fatalf("%v", now)
		}
	})
}
