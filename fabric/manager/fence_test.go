package manager

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// held is a store whose transactions can be made to wait on their way, as they do behind
// a slow network.
type held struct {
	store.Store
	mu      sync.Mutex
	gate    chan struct{} // guarded by mu; nil lets through
	waiting int           // guarded by mu
	ended   []error       // guarded by mu; how those that waited ended
}

func (h *held) Txn(ctx context.Context, compares []store.Compare, ops []store.Op) (int64, error) {
	h.mu.Lock()
	gate := h.gate
	if gate != nil {
		h.waiting++
	}
	h.mu.Unlock()
	if gate == nil {
		return h.Store.Txn(ctx, compares, ops)
	}
	<-gate
	at, err := h.Store.Txn(context.WithoutCancel(ctx), compares, ops) // it was sent: nobody calls it back
	h.mu.Lock()
	h.ended = append(h.ended, err)
	h.mu.Unlock()
	return at, err
}

// TestDelayedWrites: what a leader wrote reaches the store after another leads. It has no
// effect, whatever the old leader believes.
func TestDelayedWrites(t *testing.T) {
	s := store.NewMemory()
	slow := &held{Store: s}
	r := newRig(t, slow)
	r.store = s
	r.blade("b1", 4, 0)
	r.basics("b1")
	waitSettled(r, "b1")
	if !r.m.Leading() {
		t.Fatal("the first manager does not lead")
	}
	other := r.start(Config{Listen: "127.0.0.1:0"})
	r.url = other.URL()

	gate := make(chan struct{})
	slow.mu.Lock()
	slow.gate = gate
	slow.mu.Unlock()
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	eventually(t, "the old leader publishes", func() bool {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return slow.waiting > 0
	})
	if _, err := s.Txn(t.Context(), nil, []store.Op{store.Delete(store.Election("manager"))}); err != nil { // as its lease runs out
		t.Fatal(err)
	}
	r.profile("web", "active", "b1")
	r.want(200, "PUT", "rulesets/web", object("RuleSet", "web", `{"rules":[]}`))
	waitSettled(r, "b1")
	before, err := s.Read(t.Context(), store.Generation("b1"))
	if err != nil {
		t.Fatal(err)
	}
	slow.mu.Lock()
	slow.gate = nil
	slow.mu.Unlock()
	close(gate)
	eventually(t, "the delayed write arrives", func() bool {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		return len(slow.ended) == slow.waiting
	})
	slow.mu.Lock()
	for _, err := range slow.ended {
		if !errors.Is(err, store.ErrConflict) {
			t.Errorf("a write of yesterday's leader: %v", err)
		}
	}
	slow.mu.Unlock()
	if after, err := s.Read(t.Context(), store.Generation("b1")); err != nil || after.Modified != before.Modified {
		t.Errorf("the record of b1 was written at %d, then at %d, %v", before.Modified, after.Modified, err)
	}
	eventually(t, "the old leader knows", func() bool { return other.Leading() && !r.m.Leading() })
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not in a minute", what)
		}
	}
}

// Some tests need managers and members of a store that can be stopped and killed: this
// test program, started again with one of these set.
const (
	managerAt = "BLADEFLOW_TEST_MANAGER" // endpoints of the store
	memberAt  = "BLADEFLOW_TEST_MEMBER"  // JSON of a store.ServerConfig
)

// TestMain plays the part that is set, or runs the tests.
func TestMain(m *testing.M) {
	part := playManager
	switch {
	case os.Getenv(managerAt) != "":
	case os.Getenv(memberAt) != "":
		part = playMember
	default:
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() { // whoever started it is gone
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	if err := part(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// playManager is a manager that says its address and runs until ctx ends.
func playManager(ctx context.Context) error {
	c, err := store.Dial(ctx, store.DialConfig{Endpoints: strings.Split(os.Getenv(managerAt), ",")})
	if err != nil {
		return err
	}
	defer c.Close()
	m, err := New(Config{Store: c, Listen: "127.0.0.1:0", Lease: 2 * time.Second, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		return err
	}
	fmt.Println(m.URL())
	return m.Run(ctx)
}

// playMember is a member of a store that says its address and runs until ctx ends.
func playMember(ctx context.Context) error {
	var c store.ServerConfig
	if err := json.Unmarshal([]byte(os.Getenv(memberAt)), &c); err != nil {
		return err
	}
	s, err := store.Start(ctx, c)
	if err != nil {
		return err
	}
	defer s.Stop()
	fmt.Println(s.Endpoint())
	<-ctx.Done()
	return nil
}

// process is one that plays a part.
type process struct {
	*exec.Cmd
	url string
	log *logged
}

// launch starts processes together and waits for their addresses.
func launch(t *testing.T, environments ...string) []*process {
	t.Helper()
	var out []*process
	var pipes []io.Reader
	for _, env := range environments {
		p := &process{Cmd: exec.Command(os.Args[0]), log: &logged{}}
		p.Env = append(os.Environ(), env)
		p.Stderr = p.log
		stdout, err1 := p.StdoutPipe()
		stdin, err2 := p.StdinPipe()
		if err := errors.Join(err1, err2, p.Start()); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = p.Process.Signal(syscall.SIGCONT)
			_ = p.Process.Kill()
			_ = stdin.Close()
			_ = p.Wait()
			if t.Failed() {
				t.Log(p.log.String())
			}
		})
		out, pipes = append(out, p), append(pipes, stdout)
	}
	for i, p := range out {
		line, err := bufio.NewReader(pipes[i]).ReadString('\n')
		if err != nil || !strings.HasPrefix(line, "http") {
			t.Fatalf("it says %q, %v\n%s", line, err, p.log)
		}
		p.url = strings.TrimSpace(line)
	}
	return out
}

// TestStoppedManager: the manager that leads is stopped for longer than its lease and
// goes on in the middle of what it did. Nothing it does then counts.
func TestStoppedManager(t *testing.T) {
	must.Long(t, "it starts processes")
	server, err := store.Start(t.Context(), store.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	local := server.Local()
	managers := launch(t, managerAt+"="+server.Endpoint(), managerAt+"="+server.Endpoint())
	r := &rig{t: t, store: local, m: nil, log: &logged{}, air: &air{at: map[address]map[string]bool{}}, puppets: map[string]*puppet{}, client: &http.Client{Timeout: 20 * time.Second}}
	var leader, other *process
	eventually(t, "one of two leads", func() bool {
		url, err := store.Leading(t.Context(), local, "manager")
		for i, p := range managers {
			if err == nil && p.url == url {
				leader, other = p, managers[1-i]
			}
		}
		return leader != nil
	})
	r.url = leader.url
	r.blade("b1", 4, 0)
	r.basics("b1")
	r.want(200, "PUT", "profiles/web", webProfile("web", 1))
	r.profile("web", "active", "b1")
	_, at, err := local.List(t.Context(), store.AllBlades)
	if err != nil {
		t.Fatal(err)
	}
	watching, enough := context.WithCancel(t.Context())
	records := local.Watch(watching, store.AllBlades, at)

	// Changes pour in while it is stopped: it has read some and answered none.
	set := func(n int) string {
		return object("RuleSet", "web", fmt.Sprintf(`{"rules":[{"name":"in","priority":%d,"match":{"ip_proto":"tcp"},"actions":["normal"]}]}`, n))
	}
	r.url = other.url
	for n := range 5 {
		r.want(200, "PUT", "rulesets/web", set(n))
	}
	if err := leader.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	for n := range 5 {
		r.want(200, "PUT", "rulesets/web", set(10+n))
	}
	eventually(t, "the other leads", func() bool {
		url, err := store.Leading(t.Context(), local, "manager")
		return err == nil && url == other.url
	})
	t.Logf("the other leads after %v", time.Since(begin).Round(time.Millisecond))
	r.want(200, "PUT", "rulesets/web", set(100))
	waitState(r, "b1")
	if err := leader.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	for n := range 10 {
		r.want(200, "PUT", "rulesets/web", set(200+n))
		time.Sleep(20 * time.Millisecond)
	}
	waitState(r, "b1")
	eventually(t, "the first knows that it does not lead", func() bool { return strings.Contains(leader.log.String(), "not leading any more") })
	r.url = leader.url // it serves, and what it serves is right
	waitState(r, "b1")
	var wanted api.RuleSet
	if r.do("GET", "rulesets/web", "", &wanted); wanted.Spec.Rules[0].Priority != 209 {
		t.Errorf("the first manager says priority %d", wanted.Spec.Rules[0].Priority)
	}
	enough()
	var number uint64
	var revision int64
	for b := range records {
		for _, e := range b.Events {
			var g api.Generation
			if e.Deleted || e.Key != store.Generation("b1") {
				continue
			}
			if err := json.Unmarshal(e.Value, &g); err != nil {
				t.Fatal(err)
			}
			if g.Spec.Number < number || g.Spec.Revision < revision {
				t.Errorf("generation %d of change %d after %d of %d", g.Spec.Number, g.Spec.Revision, number, revision)
			}
			number, revision = g.Spec.Number, g.Spec.Revision
		}
	}
}

// waitState waits until the API calls a blade settled.
func waitState(r *rig, blade string) {
	r.t.Helper()
	eventually(r.t, blade+" settles", func() bool {
		var b api.Blade
		status, _ := r.do("GET", "blades/"+blade, "", &b)
		return status == 200 && b.Status.State == "settled"
	})
}

// TestMemberKilled: of three members of the store the leading one is killed in the middle
// of a stream of changes. What was answered is there, each change once, in one order.
func TestMemberKilled(t *testing.T) {
	must.Long(t, "it starts processes")
	peers, environments := map[string]string{}, []string{}
	for _, name := range []string{"a", "b", "c"} {
		peers[name] = freeAddress(t)
	}
	for name := range peers {
		text, err := json.Marshal(store.ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Name: name, Peers: peers})
		if err != nil {
			t.Fatal(err)
		}
		environments = append(environments, memberAt+"="+string(text))
	}
	members := launch(t, environments...)
	var endpoints []string
	for _, p := range members {
		endpoints = append(endpoints, p.url)
	}
	client, err := store.Dial(t.Context(), store.DialConfig{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	r := newRig(t, client)
	r.client.Timeout = 10 * time.Second
	r.want(200, "PUT", "chassis/c1", object("Chassis", "c1", `{"slots":16}`))

	const writers, each = 4, 30
	var done sync.WaitGroup
	var mu sync.Mutex
	answered, unanswered := 0, 0
	kill := sync.OnceFunc(func() {
		if err := leadingMember(t, members).Process.Kill(); err != nil {
			t.Error(err)
		}
	})
	begin := time.Now()
	for w := range writers {
		done.Go(func() {
			for i := range each {
				name := fmt.Sprintf("n%d-%d", w, i)
				for try := 0; ; try++ {
					q, err := http.NewRequest("PUT", r.url+"/api/v1/networks/"+name, strings.NewReader(object("Network", name, fmt.Sprintf(`{"vlan":%d}`, 1+w*each+i))))
					if err != nil {
						t.Error(err)
						return
					}
					resp, err := r.client.Do(q)
					ok := err == nil && resp.StatusCode == 200
					if err == nil {
						text, _ := io.ReadAll(resp.Body)
						resp.Body.Close()
						if !ok && resp.StatusCode != 503 && resp.StatusCode != 409 || try > 50 {
							t.Errorf("%s: %s %s", name, resp.Status, text)
							return
						}
					}
					mu.Lock()
					if ok {
						answered++
					} else {
						unanswered++
					}
					now := answered == writers*each/3
					mu.Unlock()
					if now && ok {
						kill()
					}
					if ok {
						break
					}
				}
			}
		})
	}
	done.Wait()
	kill()
	t.Logf("%d changes in %v, %d asked again", answered, time.Since(begin).Round(time.Millisecond), unanswered)
	var networks api.List[api.Network]
	if r.do("GET", "networks", "", &networks); len(networks.Items) != writers*each {
		t.Errorf("%d of %d changes are there", len(networks.Items), writers*each)
	}
	var events api.List[api.Event]
	r.do("GET", "events", "", &events)
	created := map[string]int{}
	for i, e := range events.Items {
		if e.Metadata.Revision != int64(i+1) {
			t.Fatalf("event %d is change %d", i, e.Metadata.Revision)
		}
		for _, c := range e.Spec.Changes {
			created[c.Kind+" "+c.Name+" "+c.How]++
		}
	}
	if len(created) != writers*each+1 {
		t.Errorf("%d things were done, want %d", len(created), writers*each+1)
	}
	for what, n := range created {
		if n != 1 {
			t.Errorf("%s %d times", what, n)
		}
	}
}

// leadingMember finds the member that leads the others.
func leadingMember(t *testing.T, members []*process) *process {
	for _, p := range members {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{p.url}})
		if err != nil {
			continue
		}
		s, err := c.Status(t.Context(), p.url)
		c.Close()
		if err == nil && s.Leader == s.Header.MemberId {
			return p
		}
	}
	t.Error("no member leads")
	return members[0]
}

// freeAddress is an address for a process that is not there yet. Its port is below those
// that the kernel gives to connections, which would take it in the meantime.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", 10000+rand.IntN(20000)))
		if err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port is free")
	return ""
}
