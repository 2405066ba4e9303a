package manager

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/capacity/history"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Config is what a manager needs.
type Config struct {
	Store  store.Store
	Name   string      // of this manager among its like
	Listen string      // HOST:PORT of the API; empty serves none
	TLS    *tls.Config // of the listener, with clients' certificates required; nil only on loopback
	Log    *slog.Logger

	// Admit gives a new blade its rights in the store; nil if somebody else does.
	Admit func(ctx context.Context, blade string) error

	// Expel takes them away from a blade that was deleted; nil if somebody else does.
	Expel func(ctx context.Context, blade string) error

	// Lease is how long others wait before they lead in the place of a leader that has
	// gone; 5 s if zero.
	Lease time.Duration

	Keep Keep // how much history

	// Compact makes the store forget its own past before a revision; nil if it does so by
	// itself.
	Compact func(ctx context.Context, revision int64) error

	Capacity Capacity       // how capacity is counted
	History  *history.Store // of demand; nil if nothing is recorded and reports have no past
	Poll     time.Duration  // how often reports are looked at for it; 10 s if zero

	Now func() time.Time // time.Now if nil
}

// Manager is one of the fabric's managers.
type Manager struct {
	config   Config
	store    store.Store
	log      *slog.Logger
	now      func() time.Time
	listener net.Listener
	cache    contents

	mu      sync.Mutex
	current *view                          // guarded by mu; nil before the store was read
	changed chan struct{}                  // guarded by mu; closed when current is replaced
	leading bool                           // guarded by mu
	held    map[fabric.BladeID]*flow.Fault // guarded by mu; replaced, never changed
	unfit   refusals                       // guarded by mu

	expecting map[docID]*doc // guarded by mu; replaced, never changed
}

// New makes a manager and opens its listener. Without TLS only loopback is allowed.
func New(c Config) (*Manager, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Lease == 0 {
		c.Lease = 5 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = 10 * time.Second
	}
	m := &Manager{config: c, store: c.Store, log: c.Log, now: c.Now, changed: make(chan struct{}), held: map[fabric.BladeID]*flow.Fault{}}
	if c.Listen == "" {
		return m, nil
	}
	host, _, err := net.SplitHostPort(c.Listen)
	ip := net.ParseIP(host)
	switch {
	case err != nil:
		return nil, &flow.Fault{Code: "E_LISTEN", What: "manager on " + c.Listen, Why: err.Error(), Remedy: "write HOST:PORT", Err: err}
	case c.TLS == nil && (ip == nil || !ip.IsLoopback()):
		return nil, &flow.Fault{Code: "E_LISTEN", What: "manager on " + c.Listen, Why: "without TLS everyone on the network could change the fabric",
			Remedy: "listen on 127.0.0.1, or set certificates (bladeflow pki init)"}
	case c.TLS != nil && c.TLS.ClientAuth != tls.RequireAndVerifyClientCert:
		return nil, &flow.Fault{Code: "E_LISTEN", What: "manager on " + c.Listen, Why: "its TLS does not ask clients for certificates", Remedy: "require them: they say who may do what"}
	}
	m.listener, err = net.Listen("tcp", c.Listen)
	if err != nil {
		return nil, &flow.Fault{Code: "E_LISTEN", What: "manager on " + c.Listen, Why: err.Error(), Remedy: "use a free port", Err: err}
	}
	return m, nil
}

// URL is where the API is.
func (m *Manager) URL() string {
	if m.listener == nil {
		return ""
	}
	scheme := "http"
	if m.config.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + m.listener.Addr().String()
}

// Run runs the manager until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	if _, err := store.Init(ctx, m.store); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var running sync.WaitGroup
	running.Go(func() { m.follow(ctx) })
	running.Go(func() { m.campaign(ctx) })
	defer running.Wait()
	defer cancel()
	if m.listener == nil {
		<-ctx.Done()
		return nil
	}
	server := &http.Server{Handler: m.Handler(), TLSConfig: m.config.TLS, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10,
		BaseContext: func(net.Listener) context.Context { return ctx }, ErrorLog: log.New(serverLog{m.log}, "", 0)}
	failed := make(chan error, 1)
	go func() {
		if m.config.TLS != nil {
			failed <- server.ServeTLS(m.listener, "", "")
		} else {
			failed <- server.Serve(m.listener)
		}
	}()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	stopping, stop := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer stop()
	if err := server.Shutdown(stopping); err != nil {
		return server.Close()
	}
	return nil
}

// Leading reports whether this manager compiles and publishes.
func (m *Manager) Leading() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.leading
}

func (m *Manager) setLeading(leading bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.leading = leading
}

// campaign leads whenever it can.
func (m *Manager) campaign(ctx context.Context) {
	for ctx.Err() == nil {
		leader, err := store.Campaign(ctx, m.store, "manager", cmp.Or(m.URL(), m.config.Name), m.config.Lease)
		if err != nil {
			if ctx.Err() == nil {
				m.log.Warn("cannot campaign", "error", err)
				pause(ctx, time.Second)
			}
			continue
		}
		m.setLeading(true)
		m.log.Info("leading", "revision", leader.Revision())
		m.lead(ctx, leader)
		m.setLeading(false)
		if ctx.Err() == nil {
			m.log.Warn("not leading any more")
		}
		stopping, stop := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		if err := leader.Resign(stopping); err != nil && !errors.Is(err, store.ErrUnreachable) {
			m.log.Warn("cannot resign", "error", err)
		}
		stop()
	}
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}
