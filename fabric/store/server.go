package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.uber.org/zap"
	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/flow"
)

// Server is an etcd member inside this process.
type Server struct {
	etcd   *embed.Etcd
	scheme string
	lock   *os.File
	disk   *disk
	stop   sync.Once
}

// ServerConfig says how to run a member.
type ServerConfig struct {
	Dir    string            // data directory, made 0700; one process at a time
	Listen string            // HOST:PORT for clients, port 0 for a free one; or the absolute path of a unix socket
	TLS    *ServerTLS        // needed unless Listen and Peers are loopback or a socket; without it no rights can be enforced
	Name   string            // of this member; default "store"
	Peers  map[string]string // name → HOST:PORT between members, this one included; empty for a single member, which then opens no port for peers
	Quota  int64             // bytes of the database; [DefaultQuota] if zero
	Room   int64             // bytes of the disk below which it takes no more writes; [DefaultRoom] if zero
	Log    *slog.Logger      // gets what etcd reports as errors; nil drops it
}

// ServerTLS names the PEM files of a member; they are read anew for every connection,
// so a renewed certificate needs no restart.
type ServerTLS struct {
	CA, Cert, Key string
	PeerName      string // the common name that other members' certificates have; nobody else may join
}

// DefaultQuota is the most that etcd's authors advise. Etcd's own default, 2 GiB, is
// less than a fabric may need: two generations of 10k different rules on each of
// 1,000 blades are 0.4 GB before history and compaction's slack.
const DefaultQuota int64 = 8 << 30

// Start starts a member and returns when it serves, which in a cluster needs a
// majority. It compacts its history every hour. While its disk is nearly full it takes no
// writes (ErrNoSpace), and goes on with all else.
func Start(ctx context.Context, c ServerConfig) (*Server, error) {
	config, scheme, err := c.etcd()
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, err
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	etcd, err := embed.StartEtcd(config)
	if err != nil {
		lock.Close()
		return nil, &flow.Fault{Code: "E_STORE_START", What: "store in " + c.Dir, Why: err.Error(),
			Remedy: "check the address and the directory", Err: err}
	}
	s := &Server{etcd: etcd, scheme: scheme, lock: lock}
	select {
	case <-etcd.Server.ReadyNotify():
		s.disk = watchDisk(etcd, c)
		return s, nil
	case err = <-etcd.Err():
	case <-ctx.Done():
		err = ctx.Err()
	}
	s.Stop()
	return nil, unreachable("store in "+c.Dir, err)
}

// etcd translates the configuration and refuses listeners that would be open to the
// network without TLS.
func (c ServerConfig) etcd() (*embed.Config, string, error) {
	config := embed.NewConfig()
	config.Dir = c.Dir
	config.Name = c.Name
	if config.Name == "" {
		config.Name = "store"
	}
	config.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(errorLog{c.Log}))
	config.EnableGRPCGateway = false // a second way in, with its own idea of users
	config.TlsMinVersion = "TLS1.3"
	config.MaxTxnOps = MaxOps
	config.QuotaBackendBytes = c.Quota
	if c.Quota == 0 {
		config.QuotaBackendBytes = DefaultQuota
	}
	config.AutoCompactionMode = "periodic"
	config.AutoCompactionRetention = "1h"
	client, err := c.url(c.Listen)
	if err != nil {
		return nil, "", err
	}
	config.ListenClientUrls = []url.URL{client}
	config.AdvertiseClientUrls = config.ListenClientUrls
	config.ListenPeerUrls = nil
	config.TickMs, config.ElectionMs = 10, 100 // nobody to wait for: 0.1 s to lead instead of 1 s
	config.InitialCluster = config.Name + "=" + config.AdvertisePeerUrls[0].String()
	if len(c.Peers) > 0 {
		config.TickMs, config.ElectionMs = 100, 1000 // etcd's own
		var cluster []string
		for _, name := range slices.Sorted(maps.Keys(c.Peers)) {
			peer, err := c.url(c.Peers[name])
			if err != nil {
				return nil, "", err
			}
			cluster = append(cluster, name+"="+peer.String())
			if name == config.Name {
				config.ListenPeerUrls = []url.URL{peer}
				config.AdvertisePeerUrls = config.ListenPeerUrls
			}
		}
		if config.ListenPeerUrls == nil {
			return nil, "", &flow.Fault{Code: "E_STORE_CONFIG", What: "member " + config.Name, Why: "it is not among its peers",
				Remedy: "use one of " + strings.Join(slices.Sorted(maps.Keys(c.Peers)), ", ")}
		}
		config.InitialCluster = strings.Join(cluster, ",")
	}
	if t := c.TLS; t != nil {
		if t.PeerName == "" && len(c.Peers) > 0 {
			return nil, "", &flow.Fault{Code: "E_STORE_CONFIG", What: "member " + config.Name, Why: "nothing says which certificates are members'",
				Remedy: "set the common name that they have"}
		}
		config.ClientTLSInfo.CertFile, config.ClientTLSInfo.KeyFile = t.Cert, t.Key
		config.ClientTLSInfo.TrustedCAFile = t.CA
		config.ClientTLSInfo.ClientCertAuth = true
		config.PeerTLSInfo = config.ClientTLSInfo
		config.PeerTLSInfo.AllowedCNs = []string{t.PeerName}
	}
	return config, client.Scheme, nil
}

// url is where a member listens.
func (c ServerConfig) url(address string) (url.URL, error) {
	switch {
	case filepath.IsAbs(address) && c.TLS != nil:
		return url.URL{}, &flow.Fault{Code: "E_STORE_CONFIG", What: "store on " + address, Why: "there is no TLS on a unix socket",
			Remedy: "listen on 127.0.0.1, or set no certificates"}
	case filepath.IsAbs(address):
		return url.URL{Scheme: "unix", Path: address}, nil
	case c.TLS != nil:
		return url.URL{Scheme: "https", Host: address}, nil
	case !loopback(address):
		return url.URL{}, &flow.Fault{Code: "E_LISTEN", What: "store on " + address, Why: "without TLS everyone on the network could write",
			Remedy: "listen on 127.0.0.1 or on a unix socket, or set certificates (bladeflow pki init)"}
	}
	return url.URL{Scheme: "http", Host: address}, nil
}

// loopback reports whether only this machine reaches the address. Names count as
// not: what they mean can change.
func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && ip != nil && ip.IsLoopback()
}

// lockDir keeps a second process out; etcd itself would wait for the first without a
// word.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, &flow.Fault{Code: "E_FILE", What: "store in " + dir, Why: err.Error(), Remedy: "make the directory this user's, and make room in it", Err: err}
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", f.Name(), err)
		}
		return nil, &flow.Fault{Code: "E_STORE_LOCKED", What: "store in " + dir, Why: "another process has it open", Remedy: "stop that one, or use its address"}
	}
	return f, nil
}

// Endpoint is the URL for [Dial], with the port that was really taken.
func (s *Server) Endpoint() string {
	address := s.etcd.Clients[0].Addr()
	return s.scheme + "://" + address.String()
}

// Local returns a client that reaches this member without the network. It is nobody:
// once rights are enforced it is denied everything, and [Dial] with a certificate is
// the way.
func (s *Server) Local() *Client {
	return &Client{etcd: v3client.New(s.etcd.Server), timeout: Timeout, users: s.scheme == "https"}
}

// Failed tells if the member stopped by itself, and why.
func (s *Server) Failed() <-chan error { return s.etcd.Err() }

// Stop hands leadership over, ends connections and closes the database. It takes at
// most six seconds, while watches hang on it, and may be repeated.
func (s *Server) Stop() {
	s.stop.Do(func() {
		if s.disk != nil {
			s.disk.close()
		}
		s.etcd.Close()
		s.lock.Close()
	})
}
