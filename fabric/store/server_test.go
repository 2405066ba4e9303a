package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

func started(t testing.TB, c ServerConfig) *Server {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:0"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	begin := time.Now()
	s, err := Start(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("ready after %v", time.Since(begin).Round(time.Millisecond))
	t.Cleanup(s.Stop)
	return s
}

func dialled(t testing.TB, c DialConfig) *Client {
	t.Helper()
	client, err := Dial(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	s := started(t, ServerConfig{})
	t.Run("in the process", func(t *testing.T) { conform(t, s.Local()) })
	t.Run("over the network", func(t *testing.T) { conform(t, dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})) })
}

func TestUnixSocket(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "store.sock")
	s := started(t, ServerConfig{Listen: path})
	c := dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})
	if _, err := Init(t.Context(), c); err != nil {
		t.Error(err)
	}
	_, err := Start(t.Context(), ServerConfig{Dir: t.TempDir(), Listen: path + "2", TLS: &ServerTLS{}})
	wantFault(t, err, "E_STORE_CONFIG", "no TLS on a unix socket")
	for _, c := range []*Client{c, s.Local()} {
		wantFault(t, c.Enforce(t.Context()), "E_STORE_CONFIG", "knows nobody")
	}
}

func TestListensOnlyWhereItMay(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"0.0.0.0:0", ":2379", "192.0.2.1:2379", "[::]:0", "localhost:0", "fabric.example:2379"} {
		_, err := Start(t.Context(), ServerConfig{Dir: t.TempDir(), Listen: address})
		wantFault(t, err, "E_LISTEN", "without TLS")
		_, err = Start(t.Context(), ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Name: "a", Peers: map[string]string{"a": address}})
		wantFault(t, err, "E_LISTEN", "without TLS")
	}
	_, err := Start(t.Context(), ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Name: "c", Peers: map[string]string{"a": "127.0.0.1:0"}})
	wantFault(t, err, "E_STORE_CONFIG", "not among its peers")
	_, err = Start(t.Context(), ServerConfig{Dir: t.TempDir(), Listen: "127.0.0.1:0", Name: "a", Peers: map[string]string{"a": "127.0.0.1:0"}, TLS: &ServerTLS{}})
	wantFault(t, err, "E_STORE_CONFIG", "which certificates")
}

// TestRestart: state outlives the process that has it, and only one process has it.
func TestRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := started(t, ServerConfig{Dir: dir})
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Error(info.Mode(), err)
	}
	_, err := Start(t.Context(), ServerConfig{Dir: dir, Listen: "127.0.0.1:0"})
	wantFault(t, err, "E_STORE_LOCKED", "another process")
	c := s.Local()
	schema, err := Init(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.Stop()
	if took := time.Since(begin); took > 8*time.Second {
		t.Errorf("stopping took %v", took)
	}
	again := started(t, ServerConfig{Dir: dir}).Local()
	if now, err := Init(t.Context(), again); err != nil || now != schema {
		t.Errorf("schema %+v, then %+v, %v", schema, now, err)
	}
}

// TestWipeAndRestore is the whole way: back up a server, lose its directory, restore
// into a new one.
func TestWipeAndRestore(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	s := started(t, ServerConfig{Dir: dir})
	c := s.Local()
	if _, err := Init(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	for i := range 500 {
		sure(t)(c.Txn(t.Context(), nil, []Op{Put(Wanted("profile", "default", fmt.Sprint(i)), fmt.Append(nil, `{"n":`, i, `}`))}))
	}
	want, _, err := c.List(t.Context(), AllWanted)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "backup"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := Backup(t.Context(), c, file); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}

	fresh := started(t, ServerConfig{Dir: dir}).Local()
	if _, err := file.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(t.Context(), fresh, file); err != nil {
		t.Fatal(err)
	}
	got, _, err := fresh.List(t.Context(), AllWanted)
	if diff := cmp.Diff(values(want), values(got)); diff != "" || err != nil {
		t.Error(diff, err)
	}
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	c := started(t, ServerConfig{Quota: 4 << 20}).Local()
	var err error
	for i := 0; i < 500 && err == nil; i++ { // etcd looks at the size that is on disk, which follows
		_, err = c.Txn(t.Context(), nil, []Op{Put(Wanted("blob", "default", fmt.Sprint(i)), make([]byte, 100_000))})
	}
	wantErr(t, err, ErrNoSpace)
	wantFault(t, err, "E_NO_SPACE", "quota")
	if list, _, err := c.List(t.Context(), AllWanted); err != nil || len(list) == 0 {
		t.Errorf("a full store must still be readable: %d, %v", len(list), err)
	}
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	_, err := Dial(t.Context(), DialConfig{Endpoints: []string{"http://" + freeAddress(t)}})
	wantErr(t, err, ErrUnreachable)
	if took := time.Since(begin); took > time.Second {
		t.Errorf("nobody listens: said after %v", took)
	}
	s := started(t, ServerConfig{})
	c := dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}, Timeout: 500 * time.Millisecond})
	s.Stop()
	begin = time.Now()
	_, err = c.Read(t.Context(), SchemaKey)
	wantErr(t, err, ErrUnreachable)
	_, err = c.Txn(t.Context(), nil, []Op{Put(SchemaKey, nil)})
	wantErr(t, err, ErrUnreachable)
	if took := time.Since(begin); took > 3*time.Second {
		t.Errorf("two calls with 0.5 s took %v", took)
	}
}

// TestReconnect: a client outlives its server's restart. Its watch goes on without a
// gap, and a lease that is longer than the restart is kept.
func TestReconnect(t *testing.T) {
	t.Parallel()
	config := ServerConfig{Dir: filepath.Join(t.TempDir(), "data"), Listen: freeAddress(t)}
	s := started(t, config)
	c := dialled(t, DialConfig{Endpoints: []string{s.Endpoint()}})
	lease, err := c.Lease(t.Context(), 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	at := sure(t)(c.Txn(t.Context(), nil, []Op{PutLeased(Status("b1", "agent"), nil, lease)}))
	changes := c.Watch(t.Context(), Everything, at)
	sure(t)(c.Txn(t.Context(), nil, []Op{Put(History(1), nil)}))
	s.Stop()
	time.Sleep(500 * time.Millisecond)
	again := started(t, config)
	begin := time.Now()
	sure(t)(again.Local().Txn(t.Context(), nil, []Op{Put(History(2), nil)}))
	for _, e := range collect(t, changes, 2) {
		if e.Deleted {
			t.Errorf("%+v", e)
		}
	}
	t.Logf("the watch goes on %v after the server is back", time.Since(begin).Round(time.Millisecond))
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("the watch went on after %v", took)
	}
	if kv, err := c.Read(t.Context(), Status("b1", "agent")); err != nil || kv.Lease != lease.ID {
		t.Error(kv, err)
	}
	select {
	case <-lease.Lost():
		t.Error("the lease was lost")
	default:
	}
}

// freeAddress is an address for a server that is not there yet. Its port is below those
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

// secured is a fabric's certificates, and clients that hold them.
type secured struct {
	t         testing.TB
	dir       string
	endpoints []string
}

func newSecured(t testing.TB, blades ...string) *secured {
	t.Helper()
	s := &secured{t: t, dir: t.TempDir()}
	if _, err := pki.Init(s.dir, pki.Options{Blades: blades, Users: []pki.User{{Name: "ann", Role: pki.Admin}}}); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *secured) server() *ServerTLS {
	f := pki.FilesOf(s.dir, pki.ServerName)
	return &ServerTLS{CA: f.CA, Cert: f.Cert, Key: f.Key, PeerName: pki.ServerName}
}

func (s *secured) tls(name string) *tls.Config {
	s.t.Helper()
	c, err := pki.ClientTLS(pki.FilesOf(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *secured) client(name string) *Client {
	s.t.Helper()
	return dialled(s.t, DialConfig{Endpoints: s.endpoints, TLS: s.tls(name)})
}

// cluster starts three members with TLS.
func cluster(t *testing.T) (*secured, []*Server) {
	t.Helper()
	s := newSecured(t, "b1")
	peers := map[string]string{"a": freeAddress(t), "b": freeAddress(t), "c": freeAddress(t)}
	members := make([]*Server, 3)
	var wg sync.WaitGroup
	for i, name := range []string{"a", "b", "c"} {
		dir := t.TempDir()
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			var err error
			if members[i], err = Start(ctx, ServerConfig{Dir: dir, Listen: "127.0.0.1:0", TLS: s.server(), Name: name, Peers: peers}); err != nil {
				t.Error(err)
			}
		})
	}
	begin := time.Now()
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	t.Logf("three members ready after %v", time.Since(begin).Round(time.Millisecond))
	for _, m := range members {
		t.Cleanup(m.Stop)
		s.endpoints = append(s.endpoints, m.Endpoint())
	}
	conn, err := tls.Dial("tcp", peers["a"], s.tls("b1"))
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
		conn.Close()
	}
	if err == nil || !strings.Contains(err.Error(), "tls") {
		t.Errorf("a blade's certificate opens the members' port: %v", err)
	}
	return s, members
}

// TestEndingMember pins what a member says that ends while it is asked: whether the
// change was made is not known, so it may be asked again.
func TestEndingMember(t *testing.T) {
	c := dialled(t, DialConfig{Endpoints: []string{started(t, ServerConfig{}).Endpoint()}})
	for _, err := range []error{
		rpctypes.ErrGRPCStopped,
		status.Error(codes.Unknown, "raft: stopped"),
		status.Error(codes.Unknown, "unexpected HTTP status code received from server: 200 (OK); malformed header: missing HTTP content-type"),
	} {
		if got := c.fault(t.Context(), "key", err); !errors.Is(got, ErrUnreachable) {
			t.Errorf("%v became %v", err, got)
		}
	}
}

// TestCluster is a cluster of three, reached by its URLs, with TLS everywhere.
func TestCluster(t *testing.T) {
	must.Long(t, "takes 15 s")
	t.Parallel()
	s, members := cluster(t)
	t.Run("conformance", func(t *testing.T) { conform(t, dialled(t, DialConfig{Endpoints: s.endpoints, TLS: s.tls("root")})) })
	t.Run("the leader dies", func(t *testing.T) { leaderDies(t, s.client("manager"), members) })
}

// leaderDies stops the members' leader without a word while many write, through one
// client. What was acknowledged is there afterwards, the watch has seen it, a lease
// and the leadership that hangs on it go on.
func leaderDies(t *testing.T, c *Client, members []*Server) {
	ctx := ctxOf(t)
	leader, err := Campaign(ctx, c, "compile", "m1", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	_, at, err := c.List(ctx, AllWanted)
	if err != nil {
		t.Fatal(err)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	changes := c.Watch(watching, WantedKind("t"), at)

	const writers, each = 4, 60
	var mu sync.Mutex
	var acknowledged []time.Time
	var lost int
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range each {
				key := Wanted("t", fmt.Sprint(w), fmt.Sprint(i))
				for {
					try, cancel := context.WithTimeout(ctx, time.Second)
					_, err := c.Txn(try, []Compare{leader.Fence()}, []Op{Put(key, fmt.Append(nil, i))})
					cancel()
					if err == nil {
						break
					}
					if !errors.Is(err, ErrUnreachable) {
						t.Error(err)
						return
					}
					mu.Lock()
					lost++
					mu.Unlock()
				}
				mu.Lock()
				acknowledged = append(acknowledged, time.Now())
				if len(acknowledged) == writers*each/3 {
					crashLeader(t, members)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	var worst time.Duration
	for j := 1; j < len(acknowledged); j++ {
		worst = max(worst, acknowledged[j].Sub(acknowledged[j-1]))
	}
	t.Logf("longest pause between writes %v, %d answers without a result", worst.Round(time.Millisecond), lost)
	if worst > 8*time.Second {
		t.Errorf("nobody could write for %v", worst)
	}

	there, _, err := c.List(ctx, WantedKind("t"))
	if err != nil || len(there) != writers*each {
		t.Errorf("%d of %d acknowledged writes are there, %v", len(there), writers*each, err)
	}
	seen := map[Key]int{}
	for len(seen) < writers*each {
		for _, e := range collect(t, changes, 1) {
			seen[e.Key]++
		}
	}
	select {
	case <-leader.Lost():
		t.Error("a lease of 5 s did not outlive the crash of one member")
	default:
	}
}

// crashLeader stops the leader without handing over.
func crashLeader(t *testing.T, members []*Server) {
	for _, m := range members {
		if m.etcd.Server.Leader() == m.etcd.Server.MemberID() {
			m.etcd.Server.HardStop()
			go m.Stop()
			return
		}
	}
	t.Error("no leader")
}
