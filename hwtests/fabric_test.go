package hwtests

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/traffic"
)

// fabricLab is an emulated chassis whose blades are members of a fabric: a store with
// TLS and rights, a manager, and an agent on each blade with its own certificate.
type fabricLab struct {
	*testing.T
	*Chassis
	url    string
	store  store.ServerConfig
	server *store.Server
}

func newFabricLab(t *testing.T) *fabricLab {
	t.Helper()
	needs(t, "afxdp")
	dir := t.TempDir()
	names := []string{"b1", "b2"}
	if _, err := pki.Init(dir, pki.Options{Blades: names}); err != nil {
		t.Fatal(err)
	}
	f := pki.FilesOf(dir, pki.ServerName)
	l := &fabricLab{T: t, store: store.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0",
		TLS: &store.ServerTLS{CA: f.CA, Cert: f.Cert, Key: f.Key, PeerName: pki.ServerName}}}
	var err error
	if l.server, err = store.Start(t.Context(), l.store); err != nil {
		t.Fatal(err)
	}
	server := l.server
	l.store.Listen = strings.TrimPrefix(server.Endpoint(), "https://")
	t.Cleanup(func() { l.server.Stop() })
	if err := server.Local().Enforce(t.Context(), names...); err != nil {
		t.Fatal(err)
	}
	dial := func(ctx context.Context, name string) (store.Store, error) {
		config, err := pki.ClientTLS(pki.FilesOf(dir, name))
		if err != nil {
			return nil, err
		}
		return store.Dial(ctx, store.DialConfig{Endpoints: []string{server.Endpoint()}, TLS: config})
	}
	s, err := dial(t.Context(), pki.ManagerName)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(t.Output(), nil))
	m, err := manager.New(manager.Config{Store: s, Name: "m1", Listen: "127.0.0.1:0", Log: log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	l.Chassis, err = Start(ctx, Config{Config: lab.Config{Blades: 2, VFs: 2, Entries: 128}, Log: log, Member: &Membership{Dial: dial, Keep: t.TempDir()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Stop(); err != nil {
			t.Error(err)
		}
	})
	l.url = m.URL() + "/api/v1/"
	return l
}

// call calls the API and decodes what it answers.
func (f *fabricLab) call(method, path, body string, out any) {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		f.Fatalf("%s %s: %v, %s: %s", method, path, err, resp.Status, data)
	}
	if out != nil {
		if err := json.Unmarshal(data, out); err != nil {
			f.Fatal(err)
		}
	}
}

// active waits until the profile is active on the blade, or on any, and all blades
// have done what they were told; and returns where it is, and how long it took.
func (f *fabricLab) active(profile, blade string) (api.ProfileStatus, time.Duration) {
	f.Helper()
	begin := time.Now()
	for {
		var p api.Profile
		f.call("GET", "profiles/"+profile, "", &p)
		var blades api.List[api.Blade]
		f.call("GET", "blades", "", &blades)
		settled := len(blades.Items) == 2
		for _, b := range blades.Items {
			settled = settled && b.Status != nil && b.Status.State == "settled"
		}
		if settled && p.Status != nil && p.Status.State == "active" && (blade == "" || p.Status.Blade == blade) {
			return *p.Status, time.Since(begin)
		}
		if time.Since(begin) > 20*time.Second {
			text, _ := json.Marshal(blades.Items)
			f.Fatalf("profile %s is %+v, want active on %q; blades %s", profile, p.Status, blade, text)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func wire(kind, name, spec string) string {
	return fmt.Sprintf(`{"apiVersion":"bladeflow/v1","kind":%q,"metadata":{"name":%q},"spec":%s}`, kind, name, spec)
}

// at returns the attachment with this name.
func (f *fabricLab) at(blade, port string) *lab.Attachment {
	f.Helper()
	for _, b := range f.Blades {
		for _, a := range b.Attached {
			if b.Name == blade && a.Name == port {
				return a
			}
		}
	}
	f.Fatalf("no port %s on %s", port, blade)
	return nil
}

// webMAC is where the web profile's vNIC is reached.
const webMAC = 0x02_00_00_00_aa_01

// create describes the chassis and creates the profile web somewhere.
func (f *fabricLab) create() (api.ProfileStatus, time.Duration) {
	f.Helper()
	items := []string{wire("Chassis", "c1", `{"slots":2}`), wire("Blade", "b1", `{"chassis":"c1","slot":1}`), wire("Blade", "b2", `{"chassis":"c1","slot":2}`),
		wire("Network", "front", `{"vlan":0}`),
		wire("RuleSet", "web", `{"tier":"tenant","default":"drop","rules":[{"name":"web","priority":10,"match":{"ip_proto":"udp","dst_port":"80"},"actions":["normal"]}]}`)}
	f.call("POST", "apply", `{"apiVersion":"bladeflow/v1","kind":"List","metadata":{"revision":0,"cursor":0},"items":[`+strings.Join(items, ",")+`]}`, nil)

	f.call("PUT", "profiles/web", wire("Profile", "web", `{"vnics":[{"name":"eth0","mac":"`+flow.FormatMAC(webMAC)+`","network":"front"}],"ruleSets":["web"]}`), nil)
	return f.active("web", "")
}

// TestFabric creates a profile, moves it to the other blade while packets are sent to
// it, and takes that back.
func TestFabric(t *testing.T) {
	f := newFabricLab(t)
	const goal = 2 * time.Second
	here, created := f.create()
	f.call("PUT", "snapshots/before", wire("Snapshot", "before", `{"note":"before the move"}`), nil)
	other := map[string]string{"b1": "b2", "b2": "b1"}[here.Blade]
	old := f.at(here.Blade, here.VNICs[0].Port)
	if is := hardwareAddress(t, old); is != flow.FormatMAC(webMAC) {
		t.Errorf("the workload has %s", is)
	}

	// Packets come in by both blades' uplinks at once, as from a switch that floods.
	stopped, stop := context.WithCancel(t.Context())
	sent := make(chan traffic.Report, 1)
	go func() { sent <- f.flood(stopped, webMAC) }()
	time.Sleep(300 * time.Millisecond)
	begin := time.Now()
	f.call("POST", "profiles/web/move", `{"blade":"`+other+`"}`, nil)
	there, _ := f.active("web", other)
	moved := time.Since(begin)
	time.Sleep(300 * time.Millisecond)
	stop()
	report := <-sent
	next := f.at(other, there.VNICs[0].Port)
	gap, lost, twice := interruption(old, next, report)

	if is := hardwareAddress(t, old); is == flow.FormatMAC(webMAC) || linkUp(t, old) {
		t.Errorf("the old workload has %s, its link is up: %t", is, linkUp(t, old))
	}
	if is := hardwareAddress(t, next); is != flow.FormatMAC(webMAC) {
		t.Errorf("the new workload has %s", is)
	}
	begin = time.Now()
	f.call("POST", "revert", `{"snapshot":"before"}`, nil)
	f.active("web", here.Blade)
	reverted := time.Since(begin)
	var diff api.List[api.Difference]
	if f.call("GET", "diff?snapshot=before", "", &diff); len(diff.Items) != 0 {
		t.Errorf("after the revert differ %+v", diff.Items)
	}
	show(t, map[string]any{"create_seconds": created.Seconds(), "move_seconds": moved.Seconds(), "revert_seconds": reverted.Seconds(),
		"interruption_seconds": gap.Seconds(), "sent": report.Sent, "lost": lost, "delivered_twice": twice})
	for what, took := range map[string]time.Duration{"create": created, "move": moved, "revert": reverted} {
		if took > goal {
			t.Errorf("%s took %s, the goal is %s", what, took, goal)
		}
	}
	if twice > 0 || lost == report.Sent {
		t.Errorf("%d of %d packets were delivered on both blades, %d on none", twice, report.Sent, lost)
	}
}

// TestFabricCutOff takes the store away under traffic: every packet is delivered all the
// same, the agents say that nobody talks to them, and afterwards a move works.
func TestFabricCutOff(t *testing.T) {
	f := newFabricLab(t)
	here, _ := f.create()
	at := f.at(here.Blade, here.VNICs[0].Port)
	stopped, stop := context.WithCancel(t.Context())
	sent := make(chan traffic.Report, 1)
	go func() { sent <- f.flood(stopped, webMAC) }()
	time.Sleep(200 * time.Millisecond)
	f.server.Stop()
	away := time.Now()
	for _, b := range f.Blades {
		for s := b.Agent.Status(); s.Error == nil || s.Error.Code != "E_UNREACHABLE" || !s.Proved; s = b.Agent.Status() {
			if time.Since(away) > 20*time.Second {
				t.Fatalf("%s without its store says %+v", b.Name, s.Error)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	stop()
	report := <-sent
	lost := 0
	for n := range uint64(report.Sent) {
		if at.Leaves.Cell(n).Copies != 1 {
			lost++
		}
	}
	show(t, map[string]any{"away_seconds": time.Since(away).Seconds(), "sent": report.Sent, "not_once": lost})
	if lost > 0 || report.Sent < 1000 {
		t.Errorf("%d of %d packets were not delivered once while the store was away", lost, report.Sent)
	}
	var err error
	if f.server, err = store.Start(t.Context(), f.store); err != nil {
		t.Fatal(err)
	}
	back := time.Now()
	other := map[string]string{"b1": "b2", "b2": "b1"}[here.Blade]
	for f.try("POST", "profiles/web/move", `{"blade":"`+other+`"}`) != http.StatusOK {
		if time.Since(back) > 20*time.Second {
			t.Fatal("no move is taken after the store came back")
		}
		time.Sleep(50 * time.Millisecond)
	}
	f.active("web", other)
	t.Logf("moved %s after the store came back", time.Since(back))
}

// try calls the API and returns the answer's status.
func (f *fabricLab) try(method, path, body string) int {
	f.Helper()
	req, err := http.NewRequestWithContext(f.Context(), method, f.url+path, strings.NewReader(body))
	if err != nil {
		f.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		f.Fatal(err)
	}
	resp.Body.Close()
	return resp.StatusCode
}

// flood sends web packets for a MAC into the wire that joins the blades, until ctx ends.
func (f *fabricLab) flood(ctx context.Context, mac uint64) traffic.Report {
	var k flow.Key
	text := fmt.Sprintf("in_port=uplink,src_mac=02:00:00:00:bb:01,dst_mac=%s,ip_proto=udp,src_ip=10.9.0.1,dst_ip=10.9.0.2,src_port=1000,dst_port=80", flow.FormatMAC(mac))
	k, err := flow.ParseKey(text, f.Blades[0].Ports)
	if err != nil {
		f.Error(err)
		return traffic.Report{}
	}
	frame := stampable(k)
	var senders []*traffic.Sender
	for _, b := range f.Blades {
		s, err := b.At(lab.Uplink).Sender()
		if err != nil {
			f.Error(err)
			return traffic.Report{}
		}
		defer s.Close()
		senders = append(senders, s)
	}
	reports := make(chan traffic.Report, len(senders))
	for _, s := range senders {
		go func() {
			r, err := s.Send(ctx, traffic.Load{Frames: traffic.Cycle(frame), Count: 1 << 16, Rate: 2000})
			if err != nil && ctx.Err() == nil {
				f.Error(err)
			}
			reports <- r
		}()
	}
	a, b := <-reports, <-reports
	a.Sent = min(a.Sent, b.Sent)
	return a
}

// interruption is the time from the last packet at the old place to the first at the
// new one, how many packets came nowhere and how many at both.
func interruption(old, next *lab.Attachment, sent traffic.Report) (gap time.Duration, lost, twice int) {
	var last, first int64
	for n := range uint64(sent.Sent) {
		a, b := old.Leaves.Cell(n), next.Leaves.Cell(n)
		last = max(last, a.First)
		if first == 0 {
			first = b.First
		}
		switch {
		case a.Copies+b.Copies == 0:
			lost++
		case a.Copies > 0 && b.Copies > 0:
			twice++
		}
	}
	return time.Duration(first - last), lost, twice
}

func hardwareAddress(t *testing.T, a *lab.Attachment) string {
	t.Helper()
	l, err := a.Outside.NS.Links().LinkByName(a.Outside.Name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().HardwareAddr.String()
}

func linkUp(t *testing.T, a *lab.Attachment) bool {
	t.Helper()
	l, err := a.Front.NS.Links().LinkByName(a.Front.Name)
	if err != nil {
		t.Fatal(err)
	}
	return l.Attrs().RawFlags&1 != 0
}
