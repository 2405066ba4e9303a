package store

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"os"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/bladeflow/bladeflow/fabric/pki"
)

// TestRights: a blade reads its own wanted prefix and writes its own status, and
// everything else is refused.
func TestRights(t *testing.T) {
	t.Parallel()
	s := newSecured(t, "b1", "b10", "b2")
	server := started(t, ServerConfig{TLS: s.server()})
	s.endpoints = []string{server.Endpoint()}
	ctx := ctxOf(t)
	local := server.Local()
	if _, err := Init(ctx, local); err != nil {
		t.Fatal(err)
	}
	wantErr(t, local.Admit(ctx, "root"), ErrDenied)
	wantErr(t, local.Admit(ctx, "manager"), ErrDenied)
	if err := local.Enforce(ctx, "b1", "b10"); err != nil {
		t.Fatal(err)
	}
	_, err := local.Read(ctx, SchemaKey)
	wantErr(t, err, ErrDenied)
	root := s.client("root")
	if err := root.Enforce(ctx, "b1", "b10", "b2"); err != nil { // again, as root
		t.Fatal(err)
	}
	manager, b1, b2 := s.client("manager"), s.client("b1"), s.client("b2")

	var shard [32]byte
	wanted := []Op{Put(Wanted("profile", "default", "p"), nil), Put(History(1), nil)}
	for _, b := range []string{"b1", "b10", "b2"} {
		wanted = append(wanted, Put(Generation(b), []byte("1")), Put(Shard(b, shard), []byte("x")))
	}
	at := sure(t)(manager.Txn(ctx, nil, wanted))
	theirs, err := b2.Lease(ctx, 10*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sure(t)(b2.Txn(ctx, nil, []Op{PutLeased(Status("b2", "agent"), []byte("2"), theirs)}))

	t.Run("may", func(t *testing.T) {
		if _, err := ReadSchema(ctx, b1); err != nil {
			t.Error(err)
		}
		if list, _, err := b1.List(ctx, BladeWanted("b1")); err != nil || len(list) != 2 {
			t.Error(list, err)
		}
		collect(t, b1.Watch(ctx, BladeWanted("b1"), at-1), 2)
		own, err := b1.Lease(ctx, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		sure(t)(b1.Txn(ctx, []Compare{Absent(Status("b1", "agent"))}, []Op{PutLeased(Status("b1", "agent"), []byte("1"), own)}))
		if list, _, err := manager.List(ctx, AllStatus); err != nil || len(list) != 2 {
			t.Error(list, err)
		}
		if err := own.Revoke(ctx); err != nil {
			t.Error(err)
		}
	})

	t.Run("may not read", func(t *testing.T) {
		for _, key := range []Key{Generation("b2"), Generation("b10"), Status("b2", "agent"), Wanted("profile", "default", "p"), History(1), State(1), Chunk(Sum{}), PendingKey, WritingKey, Election("compile")} {
			_, err := b1.Read(ctx, key)
			wantErr(t, err, ErrDenied)
		}
		for _, prefix := range []Prefix{"/", Everything, AllBlades, AllStatus, AllWanted, AllHistory, AllStates, AllChunks, BladeWanted("b2"), BladeWanted("b10"), BladeStatus("b10"),
			AllBlades + "b1", AllBlades + "b", AllStatus + "b1"} {
			_, _, err := b1.List(ctx, prefix)
			wantErr(t, err, ErrDenied)
			watching, stop := context.WithTimeout(ctx, 5*time.Second)
			b, open := <-b1.Watch(watching, prefix, at)
			if !open {
				t.Errorf("watch of %s: no answer", prefix)
			}
			wantErr(t, b.Err, ErrDenied)
			stop()
		}
	})

	t.Run("may not write", func(t *testing.T) {
		for _, op := range []Op{
			Put(Generation("b1"), nil), Delete(Generation("b1")), DeleteAll(BladeWanted("b1")), Put(Shard("b1", shard), nil),
			Put(Generation("b2"), nil), Put(Status("b2", "agent"), nil), Delete(Status("b2", "agent")), Put(Status("b10", "agent"), nil),
			DeleteAll(AllStatus), DeleteAll(Everything), Put(SchemaKey, nil), Put(Wanted("profile", "default", "evil"), nil),
			Put(Election("compile"), nil), Put(Chunk(Sum{}), nil), Delete(Chunk(Sum{})), Put(PendingKey, nil), Put(WritingKey, nil), PutLeased(WritingKey, nil, theirs), Put(State(1), nil), Put("/elsewhere", nil), Put(Key(AllStatus)+"b1", nil),
			PutLeased(Status("b1", "agent"), nil, theirs), // which would keep b2 from renewing its lease's keys
		} {
			_, err := b1.Txn(ctx, nil, []Op{op})
			wantErr(t, err, ErrDenied)
			_, err = b1.Txn(ctx, nil, []Op{Put(Status("b1", "x"), nil), op}) // not in company, either
			if op.kind != opDeleteAll {
				wantErr(t, err, ErrDenied)
			}
		}
		for _, c := range []Compare{Absent(Generation("b2")), CreatedAt(Wanted("profile", "default", "p"), at)} {
			_, err := b1.Txn(ctx, []Compare{c}, []Op{Put(Status("b1", "x"), nil)}) // a compare is a way to read
			wantErr(t, err, ErrDenied)
		}
		_, err := b1.Read(ctx, Status("b1", "x"))
		wantErr(t, err, ErrNotFound)
	})

	t.Run("may not rule", func(t *testing.T) {
		wantErr(t, b1.Enforce(ctx), ErrDenied)
		wantErr(t, b1.Admit(ctx, "b3"), ErrDenied)
		wantErr(t, b1.Expel(ctx, "b2"), ErrDenied)
		wantErr(t, manager.Admit(ctx, "b3"), ErrDenied)
		wantErr(t, b1.Compact(ctx, at), ErrDenied)
		raw := b1.etcd
		for what, call := range map[string]func() error{
			"revoke another's lease": func() error { _, err := raw.Revoke(ctx, clientv3.LeaseID(theirs.ID)); return err },
			"another's lease's keys": func() error {
				_, err := raw.TimeToLive(ctx, clientv3.LeaseID(theirs.ID), clientv3.WithAttachedKeys())
				return err
			},
			"list leases":     func() error { _, err := raw.Leases(ctx); return err },
			"turn rights off": func() error { _, err := raw.AuthDisable(ctx); return err },
			"grant":           func() error { _, err := raw.UserGrantRole(ctx, "b1", "root"); return err },
			"add a member":    func() error { _, err := raw.MemberAdd(ctx, []string{"http://127.0.0.1:1"}); return err },
			"remove a member": func() error { _, err := raw.MemberRemove(ctx, 1); return err },
			"defragment":      func() error { _, err := raw.Defragment(ctx, s.endpoints[0]); return err },
			"take a snapshot": func() error { return readSnapshot(ctx, raw) },
			"move leadership": func() error { _, err := raw.MoveLeader(ctx, 1); return err },
			"hash the keys":   func() error { _, err := raw.HashKV(ctx, s.endpoints[0], 0); return err },
			"disarm the alarm": func() error {
				_, err := raw.AlarmDisarm(ctx, &clientv3.AlarmMember{MemberID: 1, Alarm: pb.AlarmType_NOSPACE})
				return err
			},
		} {
			if err := call(); err == nil {
				t.Errorf("b1 may %s", what)
			} else if got := b1.fault(ctx, what, err); !isDenied(got) {
				t.Errorf("%s: %v", what, err)
			}
		}
		if _, err := b2.Read(ctx, Status("b2", "agent")); err != nil {
			t.Errorf("what b1 tried hurt b2: %v", err)
		}
	})

	t.Run("expelled", func(t *testing.T) {
		if err := root.Expel(ctx, "b1"); err != nil {
			t.Fatal(err)
		}
		_, err := b1.Read(ctx, Generation("b1"))
		wantErr(t, err, ErrDenied)
		_, err = b1.Txn(ctx, nil, []Op{Put(Status("b1", "x"), nil)})
		wantErr(t, err, ErrDenied)
		if err := root.Expel(ctx, "b1"); err != nil {
			t.Errorf("again: %v", err)
		}
	})
}

func isDenied(err error) bool { return err != nil && errors.Is(err, ErrDenied) }

func readSnapshot(ctx context.Context, c *clientv3.Client) error {
	r, err := c.Snapshot(ctx)
	if err != nil {
		return err
	}
	defer r.Close()
	_, err = r.Read(make([]byte, 1))
	return err
}

// TestStrangers: who has no certificate of this fabric, or one that gives no rights,
// is refused at once and told why.
func TestStrangers(t *testing.T) {
	t.Parallel()
	s := newSecured(t, "b1", "late")
	server := started(t, ServerConfig{TLS: s.server()})
	s.endpoints = []string{server.Endpoint()}
	if err := server.Local().Enforce(t.Context(), "b1"); err != nil {
		t.Fatal(err)
	}
	foreign := newSecured(t, "b1")
	ours := s.tls("b1").RootCAs
	present := func(config *tls.Config) *tls.Config {
		config = config.Clone()
		config.RootCAs = ours
		return config
	}
	late := s.tls("late")
	expire(t, s.dir, "late")
	for _, c := range []struct {
		who string
		tls *tls.Config
		why string
	}{
		{"no certificate", &tls.Config{RootCAs: ours}, "certificate required"},
		{"foreign CA", present(foreign.tls("b1")), "unknown certificate authority"},
		{"expired", late, "expired certificate"},
		{"trusts another CA", foreign.tls("b1"), "unknown authority"},
		{"not admitted", s.tls("ann"), "rights"},
		{"the server itself", s.tls("server"), "rights"},
	} {
		t.Run(c.who, func(t *testing.T) {
			begin := time.Now()
			_, err := Dial(t.Context(), DialConfig{Endpoints: s.endpoints, TLS: c.tls})
			wantErr(t, err, ErrDenied)
			wantFault(t, err, "E_DENIED", c.why)
			if took := time.Since(begin); took > 2*time.Second {
				t.Errorf("refused after %v", took)
			}
		})
	}
	t.Run("no answer is no refusal", func(t *testing.T) {
		silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and then nothing
		if err != nil {
			t.Fatal(err)
		}
		defer silent.Close()
		abrupt, err := net.Listen("tcp", "127.0.0.1:0") // hangs up
		if err != nil {
			t.Fatal(err)
		}
		defer abrupt.Close()
		go func() {
			for {
				conn, err := abrupt.Accept()
				if err != nil {
					return
				}
				conn.Close()
			}
		}()
		dead := []string{"https://" + silent.Addr().String(), "https://" + abrupt.Addr().String()}
		_, err = Dial(t.Context(), DialConfig{Endpoints: dead, TLS: s.tls("b1"), Timeout: 300 * time.Millisecond})
		wantErr(t, err, ErrUnreachable)
		cancelled, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = Dial(cancelled, DialConfig{Endpoints: dead, TLS: s.tls("b1")})
		wantErr(t, err, context.Canceled)
		begin := time.Now()
		dialled(t, DialConfig{Endpoints: append(dead, s.endpoints...), TLS: s.tls("b1")})
		if took := time.Since(begin); took > 3*time.Second {
			t.Errorf("two dead members delayed the third by %v", took)
		}
	})
	t.Run("expires while connected", func(t *testing.T) {
		c := dialled(t, DialConfig{Endpoints: s.endpoints, TLS: s.tls("b1"), Timeout: 500 * time.Millisecond})
		expire(t, s.dir, "b1")
		if _, err := ReadSchema(t.Context(), c); err == nil || isDenied(err) {
			t.Errorf("a connection that is up: %v", err) // it lasts until it breaks
		}
		wantErr(t, c.refusal(), ErrDenied)
	})
}

// expire replaces a certificate by one that has ended.
func expire(t *testing.T, dir, name string) {
	t.Helper()
	read := func(path string) []byte {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(text)
		return block.Bytes
	}
	f := pki.FilesOf(dir, name)
	cert, err := x509.ParseCertificate(read(f.Cert))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.ParseCertificate(read(f.CA))
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(read(pki.FilesOf(dir, pki.CAName).Key))
	if err != nil {
		t.Fatal(err)
	}
	cert.NotBefore, cert.NotAfter = time.Now().Add(-2*time.Hour), time.Now().Add(-time.Hour)
	der, err := x509.CreateCertificate(rand.Reader, cert, ca, cert.PublicKey, key.(*ecdsa.PrivateKey))
	if err == nil {
		err = os.WriteFile(f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
