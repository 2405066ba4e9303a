package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/fallback"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/flow/flowtest"
)

// watched are rules that do everything that a verdict can be.
const watched = `apiVersion: bladeflow/v1
kind: RuleSet
metadata: {name: s}
spec:
  default: normal
  rules:
    - {name: web, priority: 30, match: {in_port: vf0, ip_proto: udp, dst_port: 80}, actions: [output: uplink]}
    - {name: host, priority: 20, match: {in_port: vf0, ip_proto: udp, dst_port: 53}, actions: [pass]}
    - {name: rest, priority: 10, match: {in_port: vf0}, actions: [drop]}
`

// sender returns what sends frames on the far end of a representor.
func sender(t *testing.T, netdev string) func(frame []byte) {
	t.Helper()
	dev, err := net.InterfaceByName(netdev)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return func(frame []byte) {
		t.Helper()
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: dev.Index}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestObserve runs an agent on two representors, looks on in many ways at once, sends
// frames, and compares what each has seen with what the rules say.
func TestObserve(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		f := configuration(t, "  datapath: afpacket\n  uplink: nic0/pf0\n  root: "+sysTree(t)+"\n")
		rewrite(t, f.Rules[0], watched)
		d, err := Open(f, quiet)
		if err != nil {
			t.Error(err)
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		until(t, d, "the first generation", func(s *Status) bool { return s.Generation == 1 })

		type seen struct{ Port, Rule, Verdict, Out string }
		frames := map[string][]byte{}
		expected := map[string]seen{}
		add := func(want seen, text string) {
			k, err := flow.ParseKey(fmt.Sprintf("%s,src_mac=02:00:00:00:00:77,src_ip=10.0.0.1,dst_ip=10.0.0.2,src_port=%d", text, len(frames)+1), d.ports)
			if err != nil {
				t.Fatal(err)
			}
			frame, err := flow.Frame(k, make([]byte, 40))
			if err != nil {
				t.Fatal(err)
			}
			frames[string(frame)], expected[string(frame)] = frame, want
		}
		const vf, pf = "nic0/pf0/vf0", "nic0/pf0"
		for range 5 {
			add(seen{vf, "s/web", "output", pf}, "in_port=vf0,ip_proto=udp,dst_port=80")
			add(seen{vf, "s/host", "pass", "kernel:" + vf}, "in_port=vf0,ip_proto=udp,dst_port=53")
			add(seen{vf, "s/rest", "drop", ""}, "in_port=vf0,ip_proto=tcp,dst_port=80")
			add(seen{pf, "-", "normal", ""}, "in_port=uplink,ip_proto=udp,dst_port=80")
		}
		looks := []struct {
			Look
			has func(seen) bool
		}{
			{Look{}, func(seen) bool { return true }},
			{Look{Tiers: []string{"software"}, Frames: true}, func(seen) bool { return true }},
			{Look{Rules: []string{"web", "-"}}, func(s seen) bool { return s.Rule == "s/web" || s.Rule == "-" }},
			{Look{Verdicts: []string{"drop", "pass"}, Ports: []string{"vf0"}}, func(s seen) bool { return s.Verdict == "drop" || s.Verdict == "pass" }},
		}
		if len(looks) != maxObservers {
			t.Fatalf("%d looks, and %d are allowed", len(looks), maxObservers)
		}
		saw := make([]map[string]seen, len(looks))
		gone := make(chan error, len(looks))
		began := make(chan bool, len(looks))
		for i, l := range looks {
			wanted := 0
			for _, s := range expected {
				if l.has(s) {
					wanted++
				}
			}
			saw[i] = map[string]seen{}
			go func() {
				gone <- Observe(ctx, f.Observe, l.Look, func() { began <- true }, func(o *Observed) error {
					for text, frame := range frames {
						k, _ := flow.Parse(frame, flow.Port(slices.Index([]string{"", pf, vf}, o.Port)))
						if o.Packet != flow.FormatKey(k, d.ports) {
							continue
						}
						saw[i][text] = seen{o.Port, o.Rule, o.Verdict, strings.Join(o.Out, ",")}
						if l.Frames != (o.Frame != nil) || l.Frames && (!bytes.Equal(o.Frame, frame) || o.Length != len(frame)) {
							return fmt.Errorf("frame %x of %d bytes, sent was %x", o.Frame, o.Length, frame)
						}
						if o.Tier != "software" || o.Packets != 1 || o.Bytes != uint64(len(frame)) || o.Generation != 1 || time.Since(o.Time) > time.Hour {
							return fmt.Errorf("%+v", o)
						}
					}
					if len(saw[i]) == wanted {
						return errInjected
					}
					return nil
				})
			}()
		}
		for range looks {
			select {
			case <-began:
			case err := <-gone:
				t.Fatal(err)
			}
		}
		var fault *flow.Fault
		if err := Observe(ctx, f.Observe, Look{}, func() { t.Error("one too many looks") }, nil); !errors.As(err, &fault) || fault.Code != "E_OBSERVERS" {
			t.Error(err)
		}
		for _, from := range []struct{ netdev, port string }{{"far0", pf}, {"far1", vf}} {
			send := sender(t, from.netdev)
			for text, frame := range frames {
				if expected[text].Port == from.port {
					send(frame)
				}
			}
		}
		for range looks {
			if err := <-gone; !errors.Is(err, errInjected) {
				t.Error(err)
			}
		}
		for i, l := range looks {
			want := map[string]seen{}
			for text, s := range expected {
				if l.has(s) {
					want[text] = s
				}
			}
			if diff := cmp.Diff(want, saw[i]); diff != "" {
				t.Errorf("%+v: -want +got\n%s", l.Look, diff)
			}
		}
		until(t, d, "all of them to have gone", func(*Status) bool { return d.window.looking.Load() == 0 })
		refused(t, f.Observe)
		until(t, d, "all of them to have gone", func(*Status) bool { return d.window.looking.Load() == 0 })

		// Who looks when the agent ends is told so.
		last := make(chan error, 1)
		go func() {
			last <- Observe(context.Background(), f.Observe, Look{}, func() { began <- true }, func(*Observed) error { return nil })
		}()
		<-began
		cancel()
		if err := errors.Join(<-ended, d.Close()); err != nil {
			t.Error(err)
		}
		if err := <-last; !errors.Is(err, store.ErrUnreachable) {
			t.Error(err)
		}
		if err := Observe(context.Background(), f.Observe, Look{}, nil, nil); !errors.Is(err, store.ErrUnreachable) {
			t.Error(err)
		}
	})
}

// refused asks for what there is not.
func refused(t *testing.T, socket string) {
	for code, l := range map[string]Look{
		"E_VALUE":        {Verdicts: []string{"dorp"}},
		"E_PORT_UNKNOWN": {Ports: []string{"vf9"}},
		"E_NOT_FOUND":    {Rules: []string{"wbe"}},
	} {
		var fault *flow.Fault
		err := Observe(t.Context(), socket, l, func() { t.Errorf("%+v: it looks", l) }, nil)
		if !errors.As(err, &fault) || fault.Code != code || fault.Remedy == "" {
			t.Errorf("%+v: %v", l, err)
		}
	}
	var fault *flow.Fault
	if err := Observe(t.Context(), socket, Look{Tiers: []string{"hardwear"}}, nil, nil); !errors.As(err, &fault) || !strings.Contains(fault.Remedy, "hardware") {
		t.Error(err)
	}
	if err := Observe(t.Context(), socket, Look{Rate: MaxRate + 1}, nil, nil); !errors.As(err, &fault) || fault.Code != "E_VALUE" {
		t.Error(err)
	}
}

// TestWindow: the socket is its user's alone, or a group's, too; what a killed process has
// left is replaced, and a living one's is not, nor is a file of another kind.
func TestWindow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s.observe")
	mode := func() os.FileMode {
		t.Helper()
		s, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		return s.Mode().Perm()
	}
	l, err := listenAlone(path, "")
	if err != nil {
		t.Fatal(err)
	}
	if mode() != 0o600 {
		t.Errorf("mode %o", mode())
	}
	if _, err := listenAlone(path, ""); err == nil || !strings.Contains(err.Error(), "another process") {
		t.Error(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	own, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	if l, err = listenAlone(path, own.Name); err != nil {
		t.Fatal(err)
	}
	if mode() != 0o660 {
		t.Errorf("mode %o for a group", mode())
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := listenAlone(path, "no-such-group"); err == nil {
		t.Error("a group that is not there may look")
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket is there all the same:", err)
	}
	precious, link := filepath.Join(t.TempDir(), "file"), filepath.Join(t.TempDir(), "link")
	if err := errors.Join(os.WriteFile(precious, []byte("data"), 0o600), os.Symlink(precious, link)); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{precious, link} {
		var fault *flow.Fault
		if _, err := listenAlone(path, ""); !errors.As(err, &fault) || fault.Code != "E_VALUE" {
			t.Error(err)
		}
		if b, err := os.ReadFile(path); err != nil || string(b) != "data" {
			t.Errorf("%s is gone: %v", path, err)
		}
	}
}

// TestAnswered compares the lines of counting tiers with how far counters went.
func TestAnswered(t *testing.T) {
	tab := web(t, 7)
	at := time.Date(2026, 11, 30, 9, 0, 0, 0, time.UTC)
	was, is := map[flow.RuleID]flow.Counter{}, map[flow.RuleID]flow.Counter{}
	for i := range tab.Len() + 1 {
		id := tab.Rule(i).ID
		was[id] = flow.Counter{Packets: 5, Bytes: 500}
		is[id] = flow.Counter{Packets: 5 + uint64(i%3), Bytes: 500 + uint64(i%3)*64}
	}
	is[99], was[98] = flow.Counter{Packets: 1}, flow.Counter{Packets: 1} // of no rule of the table
	lines := answered(tierCache, was, is, tab, at)
	var packets, want uint64
	for _, l := range lines {
		packets += l.Packets
		if l.Bytes != 64*l.Packets || l.Tier != "cache" || l.Generation != 7 || !l.Time.Equal(at) || l.Packet != "" {
			t.Errorf("%+v", l)
		}
	}
	for i := range tab.Len() + 1 {
		want += uint64(i % 3)
	}
	if packets != want {
		t.Errorf("lines tell of %d packets, counters of %d", packets, want)
	}
	d := &Daemon{ports: testPorts}
	d.datapath, _ = fallback.New(fallback.Config{})
	if err := d.datapath.Swap(tab); err != nil {
		t.Fatal(err)
	}
	for _, l := range []struct {
		Look
		of   Observed
		want bool
	}{
		{Look{}, Observed{Rule: "x", Verdict: "drop"}, true},
		{Look{Verdicts: []string{"drop"}}, Observed{Verdict: "pass"}, false},
		{Look{Ports: []string{"vf0"}}, Observed{Port: "nic0/pf0/vf0"}, true},
		{Look{Ports: []string{"vf0"}}, Observed{Port: "nic0/pf0/vf1"}, false},
		{Look{Ports: []string{"vf0"}}, Observed{}, false},
		{Look{Rules: []string{"block"}}, Observed{Rule: tab.Rule(0).Name}, true},
		{Look{Rules: []string{"block"}}, Observed{Rule: tab.Rule(1).Name}, false},
	} {
		o := &observer{Look: l.Look, daemon: d}
		if err := o.resolve(); err != nil {
			t.Fatal(err)
		}
		if got := o.shows(&l.of); got != l.want {
			t.Errorf("%+v shows %+v: %v", l.Look, l.of, got)
		}
	}
	if lines := answered(tierHardware, nil, is, nil, at); lines != nil {
		t.Errorf("without a table: %+v", lines)
	}
}

// TestLineOf: a frame that police or a third tag stops has gone nowhere.
func TestLineOf(t *testing.T) {
	list, err := flow.ParseActions("mirror:#2,police(rate=1,burst=1),output:#3", nil)
	if err != nil {
		t.Fatal(err)
	}
	tab := flowtest.NewTable(nil, list)
	frame, err := flow.Frame(flow.Key{}, make([]byte, 40))
	if err != nil {
		t.Fatal(err)
	}
	s := fallback.Sample{Table: tab, Rule: 0, Verdict: flow.Drop, Length: len(frame), Frame: frame, Skipped: 3}
	if l := lineOf(&s); l.Verdict != "drop" || l.Out != nil || l.Skipped != 3 || l.Rule != "-" {
		t.Errorf("%+v", l)
	}
}

// TestQuery: a look comes through a request as it was.
func TestQuery(t *testing.T) {
	for _, l := range []Look{{Rate: DefaultRate}, {Ports: []string{"a", "b"}, Rules: []string{"-"}, Verdicts: []string{"drop"}, Tiers: []string{"cache"}, Rate: 7, Frames: true}} {
		q, err := url.ParseQuery(l.query())
		if err != nil {
			t.Fatal(err)
		}
		got, err := lookOf(q)
		if diff := cmp.Diff(l, got); diff != "" || err != nil {
			t.Errorf("%v: -want +got\n%s", err, diff)
		}
	}
}

// TestManyNames: what a worker compares frames with is bounded, whatever is asked for.
func TestManyNames(t *testing.T) {
	for _, what := range []string{"port", "rule", "verdict", "tier"} {
		names := make([]string, maxNames+1)
		for i := range names {
			names[i] = fmt.Sprint("n", i)
		}
		var fault *flow.Fault
		if _, err := lookOf(url.Values{what: names}); !errors.As(err, &fault) || fault.Code != "E_VALUE" || !strings.Contains(fault.Why, what) || fault.Remedy == "" {
			t.Errorf("%d of %s: %v", len(names), what, err)
		}
		names = names[:maxNames]
		l, err := lookOf(url.Values{what: slices.Repeat(names, 1000)})
		if got := slices.Concat(l.Ports, l.Rules, l.Verdicts, l.Tiers); err != nil || !slices.Equal(got, names) {
			t.Errorf("%d of %s, each a thousand times: %v, %d", len(names), what, err, len(got))
		}
	}
}

// piped listens to connections within this process, so that their time can be made up.
type piped struct {
	calls  chan net.Conn
	closed context.Context
	close  func()
}

func (l piped) Accept() (net.Conn, error) {
	select {
	case c := <-l.calls:
		return c, nil
	case <-l.closed.Done():
		return nil, net.ErrClosed
	}
}

func (l piped) Close() error   { l.close(); return nil }
func (l piped) Addr() net.Addr { return &net.UnixAddr{Name: "piped", Net: "unix"} }

// TestIdle: who asks for nothing, and who reads nothing, keeps a place from others for a
// while and no longer, and who reads slowly goes on.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		l := piped{calls: make(chan net.Conn)}
		l.closed, l.close = context.WithCancel(context.Background())
		d := &Daemon{log: quiet, window: &window{Listener: l, places: make(chan bool, maxConnections)}}
		mux, stalled := http.NewServeMux(), make(chan error, 1)
		mux.HandleFunc("GET /once", func(http.ResponseWriter, *http.Request) {})
		mux.HandleFunc("GET /lines", func(w http.ResponseWriter, r *http.Request) {
			o := &observer{Look: Look{Rate: MaxRate}, to: http.NewResponseController(w), lines: json.NewEncoder(w)}
			var err error
			for err == nil {
				err = o.write(r.Context(), &Observed{Rule: "-"})
			}
			stalled <- err
		})
		ended := make(chan error, 1)
		go func() { ended <- d.serve(ctx, d.window, mux) }()
		ask := func(path string) (net.Conn, *http.Response) {
			mine, its := net.Pipe()
			l.calls <- its
			if _, err := fmt.Fprintf(mine, "GET %s HTTP/1.1\r\nHost: agent\r\n\r\n", path); err != nil {
				t.Fatal(err)
			}
			answer, err := http.ReadResponse(bufio.NewReader(mine), nil)
			if err != nil || answer.StatusCode != http.StatusOK {
				t.Fatal(answer, err)
			}
			return mine, answer
		}
		_, slow := ask("/lines")
		var idle []net.Conn
		for range maxConnections - 1 {
			c, _ := ask("/once")
			idle = append(idle, c)
		}
		var late atomic.Bool
		go func() {
			c, _ := ask("/once")
			late.Store(true)
			c.Close()
		}()
		synctest.Wait()
		if late.Load() {
			t.Errorf("more than %d connections", maxConnections)
		}
		time.Sleep(maxIdle)
		synctest.Wait()
		if !late.Load() {
			t.Error("idle ones are held for ever")
		}
		for _, c := range idle {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Error(err)
			}
		}
		for range 5 {
			if _, err := io.ReadFull(slow.Body, make([]byte, 16<<10)); err != nil { // more than is on its way
				t.Fatal("a slow reader: ", err)
			}
			time.Sleep(maxStall * 2 / 3)
		}
		if time.Sleep(maxStall); len(stalled) == 0 {
			t.Fatal("who does not read is written to for ever")
		}
		if err := <-stalled; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
