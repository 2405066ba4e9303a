package store

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Client is a store that is an etcd server or cluster.
type Client struct {
	etcd    *clientv3.Client
	tls     *tls.Config
	timeout time.Duration
	users   bool // the server knows users by their certificates
}

var _ Store = (*Client)(nil)

// DialConfig says where a store is and who we are.
type DialConfig struct {
	Endpoints []string      // URLs of all members: https://HOST:PORT, http://…, unix:///PATH
	TLS       *tls.Config   // with the caller's certificate; its common name is the user whose rights hold
	Timeout   time.Duration // of calls without a deadline; [Timeout] if zero
}

// Reconnection: the first retry comes soon, the pauses grow to at most two seconds
// and are spread, so that a thousand blades do not come back in the same instant.
var reconnect = grpc.ConnectParams{
	Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.3, MaxDelay: 2 * time.Second},
	MinConnectTimeout: 2 * time.Second,
}

// Dial connects to a store and asks it for its schema record, so that what is wrong
// with the address or the certificate is said here and not at the first deadline.
// The record need not exist.
func Dial(ctx context.Context, c DialConfig) (*Client, error) {
	if c.Timeout == 0 {
		c.Timeout = Timeout
	}
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:            c.Endpoints,
		TLS:                  c.TLS,
		DialTimeout:          c.Timeout,
		DialKeepAliveTime:    10 * time.Second, // a peer that vanished is found out after at most 13 s
		DialKeepAliveTimeout: 3 * time.Second,
		Logger:               zap.NewNop(),
		DialOptions:          []grpc.DialOption{grpc.WithConnectParams(reconnect)},
	})
	if err != nil {
		return nil, unreachable(strings.Join(c.Endpoints, ", "), err)
	}
	client := &Client{etcd: etcd, tls: c.TLS, timeout: c.Timeout, users: c.TLS != nil}
	if err := client.probe(ctx); err != nil {
		etcd.Close()
		return nil, err
	}
	if _, err := client.Read(ctx, SchemaKey); err != nil && !errors.Is(err, ErrNotFound) {
		etcd.Close()
		return nil, err
	}
	return client, nil
}

// Close ends watches and leases' keep-alive; the leases themselves run out.
func (c *Client) Close() error {
	if err := c.etcd.Close(); !errors.Is(err, context.Canceled) { // which a client without connections calls its end
		return err
	}
	return nil
}

// Read implements Store. The answer is linearizable: a quorum agrees on it.
func (c *Client) Read(ctx context.Context, key Key) (KV, error) {
	var got *clientv3.GetResponse
	err := c.call(ctx, string(key), func(ctx context.Context) (err error) {
		got, err = c.etcd.Get(ctx, string(key))
		return err
	})
	if err != nil {
		return KV{}, err
	}
	if len(got.Kvs) == 0 {
		return KV{}, notFound(key)
	}
	return fromEtcd(got.Kvs[0]), nil
}

// List implements Store.
func (c *Client) List(ctx context.Context, prefix Prefix) ([]KV, int64, error) {
	var got *clientv3.GetResponse
	err := c.call(ctx, string(prefix), func(ctx context.Context) (err error) {
		got, err = c.etcd.Get(ctx, string(prefix), clientv3.WithPrefix())
		return err
	})
	if err != nil {
		return nil, 0, err
	}
	var list []KV
	for _, kv := range got.Kvs {
		list = append(list, fromEtcd(kv))
	}
	return list, got.Header.Revision, nil
}

// Txn implements Store. If a compare does not hold, the same request reads the
// compared keys, so that the conflict can be explained without a second look.
func (c *Client) Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error) {
	if err := checkTxn(compares, ops); err != nil {
		return 0, err
	}
	var ifs []clientv3.Cmp
	var otherwise []clientv3.Op
	for _, cmp := range compares {
		ifs = append(ifs, cmp.etcd())
		otherwise = append(otherwise, clientv3.OpGet(string(cmp.Key), clientv3.WithKeysOnly()))
	}
	var then []clientv3.Op
	what := "a transaction"
	for i, o := range ops {
		then = append(then, o.etcd())
		if i == 0 {
			what = o.where()
		}
	}
	var got *clientv3.TxnResponse
	err := c.call(ctx, what, func(ctx context.Context) (err error) {
		got, err = c.etcd.Txn(ctx).If(ifs...).Then(then...).Else(otherwise...).Commit()
		return err
	})
	switch {
	case err != nil:
		return 0, err
	case got.Succeeded:
		return got.Header.Revision, nil
	}
	for i, r := range got.Responses {
		var now KV
		if kvs := r.GetResponseRange().GetKvs(); len(kvs) > 0 {
			now = KV{Created: kvs[0].CreateRevision, Modified: kvs[0].ModRevision}
		}
		if !compares[i].holds(now) {
			return 0, conflict(compares[i], now)
		}
	}
	panic("store: etcd refused a transaction whose compares all hold")
}

func (c Compare) etcd() clientv3.Cmp {
	if c.created {
		return clientv3.Compare(clientv3.CreateRevision(string(c.Key)), "=", c.revision)
	}
	return clientv3.Compare(clientv3.ModRevision(string(c.Key)), "=", c.revision)
}

func (o Op) etcd() clientv3.Op {
	switch o.kind {
	case opPut:
		return clientv3.OpPut(string(o.key), string(o.value), clientv3.WithLease(clientv3.LeaseID(o.lease)))
	case opDelete:
		return clientv3.OpDelete(string(o.key))
	default:
		return clientv3.OpDelete(string(o.prefix), clientv3.WithPrefix())
	}
}

func fromEtcd(kv *mvccpb.KeyValue) KV {
	return KV{Key: Key(kv.Key), Value: kv.Value, Created: kv.CreateRevision, Modified: kv.ModRevision, Lease: LeaseID(kv.Lease)}
}

func eventFromEtcd(e *clientv3.Event) Event {
	if e.Type == clientv3.EventTypeDelete {
		return Event{KV: KV{Key: Key(e.Kv.Key), Modified: e.Kv.ModRevision}, Deleted: true}
	}
	return Event{KV: fromEtcd(e.Kv)}
}

// Watch implements Store.
func (c *Client) Watch(ctx context.Context, prefix Prefix, after int64) <-chan Batch {
	out := make(chan Batch)
	go func() {
		defer close(out)
		for ctx.Err() == nil {
			var err error
			after, err = c.watch(ctx, prefix, after, out)
			if ctx.Err() != nil {
				return // it ends as was asked, and says nothing of it
			}
			if errors.Is(err, ErrUnreachable) {
				select { // the member we watch at has no leader: ask again, there or at another
				case <-time.After(reconnect.Backoff.BaseDelay):
				case <-ctx.Done():
				}
				continue
			}
			if err != nil {
				select {
				case out <- Batch{Err: err}:
				case <-ctx.Done():
				}
				return
			}
		}
	}()
	return out
}

// watch sends what one watch of etcd tells until it fails, and returns how far it
// came. Etcd's client resumes by itself at another member; a member that is cut off
// from its leader would keep silent, so we require one.
func (c *Client) watch(ctx context.Context, prefix Prefix, after int64, out chan<- Batch) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := c.etcd.Watch(clientv3.WithRequireLeader(ctx), string(prefix), clientv3.WithPrefix(),
		clientv3.WithRev(after+1), clientv3.WithCreatedNotify(), clientv3.WithProgressNotify())
	for a := range answers {
		if err := a.Err(); err != nil {
			if errors.Is(err, rpctypes.ErrCompacted) {
				return after, compacted(prefix, after, historyGone)
			}
			if strings.Contains(err.Error(), rpctypes.ErrPermissionDenied.Error()) { // a watch says it in words only
				err = rpctypes.ErrPermissionDenied
			}
			return after, c.fault(ctx, string(prefix), err)
		}
		if (a.Created || a.IsProgressNotify()) && a.Header.Revision < after {
			switch older, err := c.olderThan(ctx, after); {
			case err != nil:
				return after, c.fault(ctx, string(prefix), err)
			case older:
				return after, compacted(prefix, after, storeIsOlder)
			}
		}
		var b Batch
		for _, e := range a.Events {
			b.Events = append(b.Events, eventFromEtcd(e))
			b.Revision = e.Kv.ModRevision
		}
		if a.IsProgressNotify() {
			b.Revision = a.Header.Revision
		}
		if b.Revision == 0 {
			continue
		}
		select {
		case out <- b:
			after = b.Revision
		case <-ctx.Done():
			return after, ctx.Err()
		}
	}
	if err := ctx.Err(); err != nil {
		return after, err
	}
	return after, closed(string(prefix))
}

// olderThan reports whether the store as a whole has not come to a revision. A member
// may lag behind the others, so what one member says of itself is no answer: a
// linearizable read is the leader's.
func (c *Client) olderThan(ctx context.Context, revision int64) (bool, error) {
	r, err := c.etcd.Get(ctx, string(SchemaKey), clientv3.WithCountOnly())
	if err != nil {
		return false, err
	}
	return r.Header.Revision < revision, nil
}

// Lease implements Store.
func (c *Client) Lease(ctx context.Context, ttl time.Duration) (*Lease, error) {
	var granted *clientv3.LeaseGrantResponse
	err := c.call(ctx, "a lease", func(ctx context.Context) (err error) {
		granted, err = c.etcd.Grant(ctx, seconds(ttl))
		return err
	})
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	alive, err := c.etcd.KeepAlive(ctx, granted.ID)
	if err != nil {
		stop()
		return nil, c.fault(ctx, "a lease", err)
	}
	lost := make(chan struct{})
	go func() {
		defer close(lost)
		defer stop()
		for range alive { // closed by etcd's client when the lease's time has passed unanswered
		}
	}()
	revoke := func(ctx context.Context) error {
		return c.call(ctx, "a lease", func(ctx context.Context) error {
			_, err := c.etcd.Revoke(ctx, granted.ID)
			if err != nil && !errors.Is(err, rpctypes.ErrLeaseNotFound) {
				return err
			}
			stop()
			return nil
		})
	}
	return &Lease{ID: LeaseID(granted.ID), TTL: time.Duration(granted.TTL) * time.Second, lost: lost, revoke: revoke}, nil
}

// Compact forgets the history before revision. It needs the root user once rights
// are enforced; the embedded server does it by itself.
func (c *Client) Compact(ctx context.Context, revision int64) error {
	err := c.call(ctx, "compaction", func(ctx context.Context) error {
		_, err := c.etcd.Compact(ctx, revision)
		return err
	})
	if errors.Is(err, rpctypes.ErrFutureRev) || errors.Is(err, rpctypes.ErrCompacted) {
		return compacted(Everything, revision, "only revisions later than the last compaction and not in the future can be compacted")
	}
	return err
}

// call does one request with a deadline. A change of somebody's rights makes etcd
// refuse requests that were checked under the old ones; these are asked again.
func (c *Client) call(ctx context.Context, what string, request func(context.Context) error) error {
	ctx, cancel := withDeadline(ctx, c.timeout)
	defer cancel()
	if err := ctx.Err(); err != nil {
		return c.fault(ctx, what, err)
	}
	if c.etcd.Ctx().Err() != nil {
		return closed(what)
	}
	err := request(ctx)
	for try := 0; try < 5 && errors.Is(err, rpctypes.ErrAuthOldRevision); try++ {
		err = request(ctx)
	}
	return c.fault(ctx, what, err)
}

// ending reports whether a member says, with no code of its own, that it is ending: its
// raft has stopped already, or its HTTP server closed the call before gRPC wrote a header.
func ending(err error) bool {
	return strings.HasSuffix(err.Error(), "raft: stopped") || strings.Contains(err.Error(), "unexpected HTTP status code received from server")
}

// fault turns what etcd's client says into the errors of this package. What it does
// not know it returns as it is, with what was asked.
func (c *Client) fault(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	err = rpctypes.Error(err)
	var said rpctypes.EtcdError
	code := status.Code(err)
	if errors.As(err, &said) {
		code = said.Code()
	}
	switch {
	case errors.Is(err, rpctypes.ErrNoSpace):
		return noSpace(what)
	case errors.Is(err, rpctypes.ErrRequestTooLarge), errors.Is(err, rpctypes.ErrTooManyOps):
		return tooLarge(what, err.Error())
	case errors.Is(err, rpctypes.ErrLeaseNotFound):
		return leaseGone(Key(what))
	case code == codes.PermissionDenied, code == codes.Unauthenticated,
		errors.Is(err, rpctypes.ErrUserEmpty), errors.Is(err, rpctypes.ErrAuthFailed):
		return denied(what, "the store's rights do not allow it")
	case errors.Is(err, context.DeadlineExceeded), code == codes.DeadlineExceeded, code == codes.Unavailable,
		code == codes.Unknown && ending(err):
		if refusal := c.refusal(); refusal != nil {
			return refusal
		}
		return unreachable(what, err)
	case errors.Is(err, context.Canceled), errors.Is(err, clientv3.ErrNoAvailableEndpoints), code == codes.Canceled:
		return closed(what) // the caller did not cancel, so the client was closed
	}
	return fmt.Errorf("%s: %w", what, err)
}
