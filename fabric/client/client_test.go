package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// rig is a manager with certificates for ann, who is admin, and vic, who is viewer.
type rig struct {
	*testing.T
	dir string
	url string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{T: t, dir: filepath.Join(t.TempDir(), "pki")}
	users := []pki.User{{Name: "ann", Role: pki.Admin}, {Name: "vic", Role: pki.Viewer}}
	if _, err := pki.Init(r.dir, pki.Options{Users: users}); err != nil {
		t.Fatal(err)
	}
	server, err := pki.ServerTLS(pki.FilesOf(r.dir, pki.ServerName))
	if err != nil {
		t.Fatal(err)
	}
	m, err := manager.New(manager.Config{Store: store.NewMemory(), Name: "m1", Listen: "127.0.0.1:0", TLS: server, Log: slog.New(slog.DiscardHandler)})
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
	r.url = m.URL()
	return r
}

// as returns a client with a certificate of dir.
func (r *rig) as(dir, name string) *Client {
	r.Helper()
	c, err := pki.ClientTLS(pki.FilesOf(dir, name))
	if err != nil {
		r.Fatal(err)
	}
	client, err := New(Config{Server: r.url, TLS: c, Timeout: 10 * time.Second})
	if err != nil {
		r.Fatal(err)
	}
	return client
}

func network(name string, vlan int, revision int64) json.RawMessage {
	return json.RawMessage(fmt.Sprintf(`{"apiVersion":"bladeflow/v1","kind":"Network","metadata":{"name":%q,"revision":%d},"spec":{"vlan":%d}}`, name, revision, vlan))
}

// faulty fails unless err is a fault of that code around kind.
func faulty(t *testing.T, err error, code string, kind error) {
	t.Helper()
	f, ok := errors.AsType[*flow.Fault](err)
	if !ok || f.Code != code || kind != nil && !errors.Is(err, kind) || f.What == "" || f.Why == "" || f.Remedy == "" {
		t.Errorf("got %v, want %s that is %v", err, code, kind)
	}
}

// TestChanges goes through the calls that read and change, as they succeed and fail.
func TestChanges(t *testing.T) {
	r := newRig(t)
	ctx, c := t.Context(), r.as(r.dir, "ann")
	p, err := c.Apply(ctx, []json.RawMessage{network("front", 10, 0)}, true)
	if err != nil || !p.DryRun || len(p.Changes) != 1 || p.Changes[0].How != "created" {
		t.Fatalf("dry run: %v %+v", err, p)
	}
	_, err = Networks.Get(ctx, c, "front")
	faulty(t, err, "E_NOT_FOUND", ErrNotFound)
	if p, err = c.Apply(ctx, []json.RawMessage{network("front", 10, 0), network("back", 20, 0)}, false); err != nil || p.Revision != 1 {
		t.Fatalf("apply: %v %+v", err, p)
	}
	n, err := Networks.Get(ctx, c, "front")
	if err != nil || n.Spec.VLAN != 10 || n.Metadata.Revision != 1 {
		t.Errorf("get: %v %+v", err, n)
	}
	if _, err := c.Snapshot(ctx, "start", api.SnapshotSpec{Note: "two networks"}); err != nil {
		t.Error(err)
	}
	_, err = c.Snapshot(ctx, "start", api.SnapshotSpec{})
	faulty(t, err, "E_CONFLICT", ErrConflict)

	if _, err := c.Apply(ctx, []json.RawMessage{network("front", 11, 1)}, false); err != nil {
		t.Error(err)
	}
	_, err = c.Apply(ctx, []json.RawMessage{network("front", 12, 1)}, false)
	faulty(t, err, "E_CONFLICT", ErrConflict)
	front := api.NewHead(api.KindNetwork, "front")
	front.Metadata.Revision = 1
	_, err = c.Delete(ctx, []api.Head{front}, false)
	faulty(t, err, "E_CONFLICT", ErrConflict)
	_, err = c.Apply(ctx, []json.RawMessage{json.RawMessage(`{"kind":"Network","spec":{"vlann":1}}`)}, false)
	faulty(t, err, "E_FIELD_UNKNOWN", nil)
	if _, err := c.Delete(ctx, []api.Head{api.NewHead(api.KindNetwork, "back")}, false); err != nil {
		t.Error(err)
	}
	d, err := c.Diff(ctx, "start", 0)
	if err != nil || len(d.Items) != 2 {
		t.Errorf("diff: %v %+v", err, d)
	}
	if _, err := c.Revert(ctx, api.Revert{Snapshot: "start"}, false); err != nil {
		t.Error(err)
	}
	if d, err = c.Diff(ctx, "start", 0); err != nil || len(d.Items) != 0 {
		t.Errorf("diff after revert: %v %+v", err, d)
	}
	_, err = c.Move(ctx, "web", api.Move{Blade: "b1"}, false)
	faulty(t, err, "E_NOT_FOUND", ErrNotFound)
	_, err = c.Candidates(ctx, "web")
	faulty(t, err, "E_NOT_FOUND", ErrNotFound)
	all, err := Networks.List(ctx, c, Query{Tenant: "default"})
	if err != nil || len(all.Items) != 2 {
		t.Errorf("list: %v %+v", err, all)
	}
	if all, err = Networks.List(ctx, c, Query{Tenant: "other"}); err != nil || len(all.Items) != 0 {
		t.Errorf("list of another tenant: %v %+v", err, all)
	}
	if all, err = Networks.List(ctx, c, Query{Labels: "!stage"}); err != nil || len(all.Items) != 2 {
		t.Errorf("list of what has no stage: %v %+v", err, all)
	}
	_, err = Networks.List(ctx, c, Query{Labels: "=x"})
	faulty(t, err, "E_VALUE", nil)

	vic := r.as(r.dir, "vic")
	if _, err := Networks.List(ctx, vic, Query{}); err != nil {
		t.Error(err)
	}
	_, err = vic.Apply(ctx, []json.RawMessage{network("front", 10, 0)}, false)
	faulty(t, err, "E_DENIED", ErrDenied)
}

// TestUnanswered checks what is said when there is no answer, or none of a manager.
func TestUnanswered(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	foreign := filepath.Join(t.TempDir(), "pki")
	if _, err := pki.Init(foreign, pki.Options{Users: []pki.User{{Name: "ann", Role: pki.Admin}}}); err != nil {
		t.Fatal(err)
	}
	_, err := Networks.List(ctx, r.as(foreign, "ann"), Query{})
	faulty(t, err, "E_UNTRUSTED", ErrDenied)
	mixed := r.as(r.dir, "ann")
	mixed.http.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate = r.as(foreign, "ann").http.Transport.(*http.Transport).TLSClientConfig.GetClientCertificate
	_, err = Networks.List(ctx, mixed, Query{})
	faulty(t, err, "E_DENIED", ErrDenied)

	for server, code := range map[string]string{"": "E_SERVER", "fabric:8443": "E_SERVER", "https://fabric:8443": "E_SERVER", "http://10.0.0.1:80": "E_SERVER", "https://a/b": "E_SERVER"} {
		_, err := New(Config{Server: server})
		faulty(t, err, code, nil)
	}
	nobody, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody.Close()
	plain := func(address string) *Client {
		c, err := New(Config{Server: address, Timeout: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	_, err = Networks.List(ctx, plain("http://"+nobody.Addr().String()), Query{})
	faulty(t, err, "E_UNREACHABLE", ErrUnreachable)
	_, err = Networks.List(ctx, plain(strings.Replace(r.url, "https", "http", 1)), Query{})
	faulty(t, err, "E_API", nil)

	ended := make(chan struct{})
	strange := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/v1/vfs" {
			<-ended
		}
		fmt.Fprint(w, "<html>hello</html>")
	}))
	defer strange.Close()
	defer close(ended)
	_, err = Networks.List(ctx, plain(strange.URL), Query{})
	faulty(t, err, "E_API", nil)
	_, err = VFs.List(ctx, plain(strange.URL), Query{})
	faulty(t, err, "E_UNREACHABLE", ErrUnreachable)
	stopped, stop := context.WithCancel(ctx)
	stop()
	if _, err = VFs.List(stopped, plain(strange.URL), Query{}); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
