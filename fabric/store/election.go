package store

import (
	"context"
	"errors"
	"time"
)

// Of any number of candidates one leads: the one whose leased key is there. That a
// leader has lost its lease it may learn late, or never, if its process was stopped
// for a while; so the key's creation revision is a fence, and every write of a leader
// carries it. A write of yesterday's leader is a conflict, whatever that leader
// believes. The compare costs nothing: it rides in the write's own transaction.

// Leader is a won election. It lasts until its lease is lost.
type Leader struct {
	store    Store
	key      Key
	revision int64
	lease    *Lease
}

// Campaign waits until the candidate leads the election or ctx ends; ctx ends its
// leadership, too. Others find candidate (an address, say) in the election's key.
// When a leader dies, the next leads at most ttl, and what etcd adds, later.
func Campaign(ctx context.Context, s Store, election, candidate string, ttl time.Duration) (*Leader, error) {
	lease, err := s.Lease(ctx, ttl)
	if err != nil {
		return nil, err
	}
	l := &Leader{store: s, key: Election(election), lease: lease}
	if err := l.win(ctx, candidate); err != nil {
		cleanup, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = lease.Revoke(cleanup) // else it runs out
		return nil, err
	}
	return l, nil
}

func (l *Leader) win(ctx context.Context, candidate string) error {
	for {
		revision, err := l.store.Txn(ctx, []Compare{Absent(l.key)}, []Op{PutLeased(l.key, []byte(candidate), l.lease)})
		if err == nil {
			l.revision = revision
			return nil
		}
		if !errors.Is(err, ErrConflict) && !errors.Is(err, ErrUnreachable) {
			return err
		}
		now, err := l.store.Read(ctx, l.key)
		switch {
		case errors.Is(err, ErrNotFound):
			continue
		case err != nil:
			return err
		case now.Lease == l.lease.ID: // a write that was not acknowledged and yet was done
			l.revision = now.Created
			return nil
		}
		if err := l.vacant(ctx, now); err != nil {
			return err
		}
	}
}

// vacant waits until the leader that was read is gone.
func (l *Leader) vacant(ctx context.Context, leader KV) error {
	watching, cancel := context.WithCancel(ctx)
	defer cancel()
	changes := l.store.Watch(watching, Prefix(l.key), leader.Modified)
	for {
		select {
		case b, open := <-changes:
			if !open {
				return ctx.Err()
			}
			if b.Err != nil && !errors.Is(b.Err, ErrCompacted) {
				return b.Err
			}
			if b.Err != nil {
				return nil // look again
			}
			for _, e := range b.Events {
				if e.Key == l.key && e.Deleted {
					return nil
				}
			}
		case <-l.lease.Lost():
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return leaseGone(l.key)
		}
	}
}

// Fence holds as long as the leader leads: put it into every transaction.
func (l *Leader) Fence() Compare { return CreatedAt(l.key, l.revision) }

// Revision is when the leader came to lead; a later leader's is greater.
func (l *Leader) Revision() int64 { return l.revision }

// Lost is closed when the leader may lead no more.
func (l *Leader) Lost() <-chan struct{} { return l.lease.Lost() }

// Resign lets the next candidate lead at once.
func (l *Leader) Resign(ctx context.Context) error { return l.lease.Revoke(ctx) }

// Leading returns the candidate that leads an election, ErrNotFound if none does.
func Leading(ctx context.Context, s Store, election string) (string, error) {
	kv, err := s.Read(ctx, Election(election))
	return string(kv.Value), err
}
