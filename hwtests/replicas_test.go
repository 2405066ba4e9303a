package hwtests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

// replica is one of three machines that each run a member of the store and a manager, as a
// process that can be killed: this test program, started again.
type replica struct {
	Name      string
	Listen    string            // of the API
	Dir       string            // of the member
	Store     string            // HOST:PORT of the member
	Peers     map[string]string // of the cluster
	Endpoints []string          // of all members
	PKI       string

	cmd *exec.Cmd
}

const replicaEnvironment = "BLADEFLOW_TEST_REPLICA"

func TestMain(m *testing.M) {
	if text := os.Getenv(replicaEnvironment); text != "" {
		var r replica
		err := json.Unmarshal([]byte(text), &r)
		if err == nil {
			err = r.run()
		}
		fmt.Fprintln(os.Stderr, r.Name, err)
		os.Exit(1)
	}
	if config := os.Getenv(agentEnvironment); config != "" {
		fmt.Fprintln(os.Stderr, "agent", runAgent(config))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// run is the process: the member at once, the manager when standard input ends, so that
// rights can be given in between.
func (r *replica) run() error {
	ctx := context.Background()
	files := pki.FilesOf(r.PKI, pki.ServerName)
	server, err := store.Start(ctx, store.ServerConfig{Dir: r.Dir, Listen: r.Store, Name: r.Name, Peers: r.Peers,
		TLS: &store.ServerTLS{CA: files.CA, Cert: files.Cert, Key: files.Key, PeerName: pki.ServerName}})
	if err != nil {
		return err
	}
	defer server.Stop()
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
		return err
	}
	config, err := pki.ClientTLS(pki.FilesOf(r.PKI, pki.ManagerName))
	if err != nil {
		return err
	}
	s, err := store.Dial(ctx, store.DialConfig{Endpoints: r.Endpoints, TLS: config})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("replica", r.Name)
	for {
		m, err := manager.New(manager.Config{Store: s, Name: r.Name, Listen: r.Listen, Log: log, Lease: 2 * time.Second})
		if err != nil {
			return err
		}
		if err = m.Run(ctx); !errors.Is(err, store.ErrUnreachable) { // the cluster has no leader at the moment
			return err
		}
	}
}

// start starts the process, whose manager works when what it returns is closed.
func (r *replica) start(t *testing.T) io.Closer {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Env = append(os.Environ(), replicaEnvironment+"="+string(text))
	r.cmd.Stdout, r.cmd.Stderr = t.Output(), t.Output()
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	hold, err := r.cmd.StdinPipe()
	if err == nil {
		err = r.cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	return hold
}

func (r *replica) kill() {
	_ = r.cmd.Process.Kill() // an error says that it is gone
	_ = r.cmd.Wait()         // killed
}

// replicated is a fabric of three replicas.
type replicated struct {
	*fabricLab
	replicas  []*replica
	endpoints []string
}

func newReplicated(t *testing.T) *replicated {
	t.Helper()
	needs(t, "afxdp")
	r := &replicated{fabricLab: &fabricLab{t, &Fabric{Lines: map[string]*Line{}, dir: t.TempDir()}}}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := pki.Init(r.certificates(), pki.Options{Blades: []string{"b1", "b2"}}); err != nil {
		t.Fatal(err)
	}
	peers := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		one := &replica{Name: name, Listen: free(t), Dir: filepath.Join(r.dir, name), Store: free(t), PKI: r.certificates()}
		r.replicas = append(r.replicas, one)
		peers[name] = free(t)
		r.endpoints = append(r.endpoints, "https://"+one.Store)
	}
	var holds []io.Closer
	for _, one := range r.replicas {
		one.Peers, one.Endpoints = peers, r.endpoints
		holds = append(holds, one.start(t))
		r.closers = append(r.closers, one.kill)
	}
	r.insist("giving rights", func() error {
		root, err := r.Dial(t.Context(), pki.RootName, r.endpoints...)
		if err != nil {
			return err
		}
		defer root.Close()
		return root.Enforce(t.Context(), "b1", "b2")
	})
	for _, h := range holds {
		h.Close()
	}
	var err error
	r.Chassis, err = Start(context.Background(), Config{Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Config: lab.Config{Blades: 2, VFs: 3, Entries: 128},
		Member: &Membership{Keep: r.dir, Dial: func(ctx context.Context, blade string) (store.Store, error) {
			return r.Dial(ctx, blade, r.endpoints...)
		}}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// insist repeats f until it succeeds.
func (r *replicated) insist(what string, f func() error) {
	r.Helper()
	begin := time.Now()
	for err := f(); err != nil; err = f() {
		if time.Since(begin) > settling {
			r.Fatalf("%s: %v", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// ask has f asked of one manager after the other until one answers.
func (r *replicated) ask(what string, f func() error) {
	r.Helper()
	next := 0
	r.insist(what, func() error {
		c, err := client.New(client.Config{Server: "http://" + r.replicas[next%3].Listen, Timeout: 5 * time.Second})
		if err != nil {
			return err
		}
		next++
		r.API = c
		return f()
	})
}

// leader returns the replica whose manager leads.
func (r *replicated) leader() *replica {
	r.Helper()
	var found *replica
	r.insist("finding the leader", func() error {
		s, err := r.Dial(r.Context(), pki.ManagerName, r.endpoints...)
		if err != nil {
			return err
		}
		defer s.Close()
		url, err := store.Leading(r.Context(), s, "manager")
		for _, one := range r.replicas {
			if err == nil && url == "http://"+one.Listen {
				found = one
			}
		}
		if err == nil && found == nil {
			err = fmt.Errorf("%s leads", url)
		}
		return err
	})
	return found
}

// TestLeaderKilled has three machines with a member of the store and a manager each, and
// kills the leading one in the middle of moves, twice, under traffic to a profile that
// moves and one that does not. What was answered is done, each once; no packet to the one
// that stays is lost, none to the other ever comes at two places.
func TestLeaderKilled(t *testing.T) {
	t.Parallel()
	r := newReplicated(t)
	const dbMAC, moves = webMAC + 1, 9
	r.ask("describing the chassis", func() error { return r.describe(t.Context()) })
	db := webProfile()
	db.Metadata.Name, db.Spec.VNICs[0].MAC = "db", flow.FormatMAC(dbMAC)
	r.ask("creating profiles", func() error { return r.Apply(t.Context(), webProfile(), db) })
	var here, stays api.ProfileStatus
	r.ask("settling", func() (err error) { stays, err = r.Settled(t.Context(), "db"); return err })
	r.ask("settling", func() (err error) { here, err = r.Settled(t.Context(), "web"); return err })
	begin := time.Now()
	came, err := r.Deliver(t.Context(), 500, func() error {
		for n := range moves {
			to := other(here.Blade)
			var dead *replica
			if n%3 == 1 && n < 6 {
				dead = r.leader()
				time.AfterFunc(20*time.Millisecond, dead.kill)
			}
			r.ask("moving", func() error {
				_, err := r.API.Move(t.Context(), "web", api.Move{Blade: to}, false)
				return err
			})
			r.ask("settling", func() (err error) { here, err = r.Settled(t.Context(), "web"); return err })
			if here.Blade != to {
				return fmt.Errorf("move %d: the profile is on %s, not %s", n, here.Blade, to)
			}
			if dead != nil {
				dead.start(t).Close()
			}
		}
		return nil
	}, Target{webMAC, 80}, Target{dbMAC, 80})
	if err != nil {
		t.Fatal(err)
	}
	web, still := came[0], came[1]
	show(t, map[string]any{"moves": moves, "seconds": time.Since(begin).Seconds(), "moving": map[string]int{"sent": web.Sent, "lost": web.Lost, "twice": web.Twice},
		"still": map[string]int{"sent": still.Sent, "lost": still.Lost, "twice": still.Twice}})
	if web.Twice+web.Changed > 0 || len(web.Ports()) != 2 {
		t.Errorf("to the profile that moves: %+v", web)
	}
	if !still.Once(r.index(stays.Blade)) {
		t.Errorf("to the profile that stays: %+v", still)
	}
	var events api.List[api.Event]
	r.ask("reading the history", func() (err error) { events, err = client.Events.List(t.Context(), r.API, client.Query{}); return err })
	moved := 0
	for i, e := range events.Items {
		if e.Metadata.Revision != int64(i+1) {
			t.Errorf("event %d is change %d", i+1, e.Metadata.Revision)
		}
		if e.Spec.Verb == "move" {
			moved++
		}
	}
	if moved != moves {
		t.Errorf("%d moves are in the history, %d were made", moved, moves)
	}
}
