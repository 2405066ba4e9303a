// Package store keeps what bladeflow wants and what it has seen: keys with values,
// every change numbered by a revision. [Store] is the little that the fabric needs
// of it; three things behave alike behind it and run through one suite:
//
//   - [Memory], in this process, for tests;
//   - the server of [Start], etcd v3 inside this process, by default;
//   - an etcd cluster elsewhere, by its URLs, with [Dial].
//
// The package knows how keys are laid out (keys.go), who may read and write which
// (rights.go), how one leader is found and fenced (election.go) and how a value
// keeps the fields that an older program does not know (document.go). It never
// knows what a value means, never logs, and never holds counters: those change too
// often. Start reading with Store, then keys.go.
package store

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// Store is a map of keys to values with a history. One revision is one transaction;
// revisions count up by one and start at 1 in an empty store. A call whose context has no
// deadline gets one ([Timeout]). Errors are faults around the Err… values of this
// package, or the context's own error if the caller cancelled.
//
// All methods may be called by any goroutine.
type Store interface {
	// Read returns the key's value now, ErrNotFound if it has none.
	Read(ctx context.Context, key Key) (KV, error)

	// List returns everything under prefix, in the order of keys, as it was at
	// the revision returned: watch after that one to miss nothing.
	List(ctx context.Context, prefix Prefix) ([]KV, int64, error)

	// Txn does all ops if all compares hold, at once, and returns the revision
	// after it; else it does nothing and returns ErrConflict. After
	// ErrUnreachable it may have been done or not: read before you repeat it.
	Txn(ctx context.Context, compares []Compare, ops []Op) (int64, error)

	// Watch sends every change under prefix that is later than revision after,
	// in order, until ctx ends. It goes on by itself when the connection breaks
	// or the leader of a cluster changes. If it cannot, the last batch has Err
	// set: ErrCompacted says that the history after that revision is gone (or
	// the store was replaced by an older one), so list again; the channel is
	// then closed. A reader that is slow costs memory, not others' time.
	Watch(ctx context.Context, prefix Prefix, after int64) <-chan Batch

	// Lease makes a lease of at least ttl (whole seconds, at least what
	// the server wants: 2 s) and keeps it alive until ctx ends. Keys put
	// with it vanish ttl after that, or at once when it is revoked.
	Lease(ctx context.Context, ttl time.Duration) (*Lease, error)
}

// Timeout bounds a call whose context has no deadline.
const Timeout = 5 * time.Second

// Limits of one transaction, the same for all stores: etcd's own defaults, so that
// an external cluster needs no setting.
const (
	MaxOps   = 128     // ops, and compares
	MaxBytes = 1 << 20 // of all keys and values; etcd refuses more than 1.5 MiB with what it adds
)

// KV is a key with its value.
type KV struct {
	Key      Key
	Value    []byte
	Created  int64   // revision of the put that made the key
	Modified int64   // revision of its last put; in an event, of the event
	Lease    LeaseID // 0 if the key stays until it is deleted
}

// Event is one change. Of a deleted key only Key and Modified are set.
type Event struct {
	KV
	Deleted bool
}

// Batch is what a watch sends: the events of one or more whole revisions, in order.
type Batch struct {
	Revision int64 // nothing at or before it follows
	Events   []Event
	Err      error // set in the last batch of a watch that cannot go on
}

// Compare is a condition of a transaction.
type Compare struct {
	Key      Key
	created  bool
	revision int64
}

// Absent holds if the key has no value.
func Absent(key Key) Compare { return Compare{Key: key, created: true} }

// Unchanged holds if the key's last put is still the one that was read.
func Unchanged(kv KV) Compare { return Compare{Key: kv.Key, revision: kv.Modified} }

// CreatedAt holds if the key was made at that revision and never deleted since.
func CreatedAt(key Key, revision int64) Compare {
	return Compare{Key: key, created: true, revision: revision}
}

// holds reports whether the condition holds for the key as it is; the zero KV is an
// absent key.
func (c Compare) holds(now KV) bool {
	if c.created {
		return now.Created == c.revision
	}
	return now.Modified == c.revision
}

// Op is one step of a transaction.
type Op struct {
	kind   opKind
	key    Key
	prefix Prefix // of deleteAll
	value  []byte
	lease  LeaseID
}

type opKind uint8

const (
	opPut opKind = iota
	opDelete
	opDeleteAll
)

// Put sets the key's value and takes it off any lease.
func Put(key Key, value []byte) Op { return Op{kind: opPut, key: key, value: value} }

// PutLeased sets the key's value, and the key lives as long as the lease.
func PutLeased(key Key, value []byte, lease *Lease) Op {
	return Op{kind: opPut, key: key, value: value, lease: lease.ID}
}

// Delete removes the key; it need not exist.
func Delete(key Key) Op { return Op{kind: opDelete, key: key} }

// DeleteAll removes everything under prefix.
func DeleteAll(prefix Prefix) Op { return Op{kind: opDeleteAll, prefix: prefix} }

// covers reports whether a delete takes the key.
func (o Op) covers(key Key) bool {
	return o.kind == opDelete && o.key == key || o.kind == opDeleteAll && key.Under(o.prefix)
}

// where is the key or prefix of an op, for faults.
func (o Op) where() string {
	if o.kind == opDeleteAll {
		return string(o.prefix)
	}
	return string(o.key)
}

// checkTxn refuses what no store takes, so that all refuse it in the same words: too
// much, and two ops of one transaction that put one key, or put and delete it.
func checkTxn(compares []Compare, ops []Op) error {
	if len(compares) > MaxOps || len(ops) > MaxOps {
		return tooLarge(fmt.Sprintf("a transaction of %d ops and %d compares", len(ops), len(compares)), fmt.Sprintf("at most %d fit", MaxOps))
	}
	size, put := 0, make(map[Key]bool, len(ops))
	for _, o := range ops {
		size += len(o.where()) + len(o.value)
		if o.kind != opPut {
			continue
		}
		if put[o.key] {
			return twice(o.key)
		}
		put[o.key] = true
	}
	for _, o := range ops {
		for _, p := range ops {
			if p.kind == opPut && o.covers(p.key) {
				return twice(p.key)
			}
		}
	}
	if size > MaxBytes {
		return tooLarge(fmt.Sprintf("a transaction of %d bytes", size), fmt.Sprintf("at most %d fit", MaxBytes))
	}
	return nil
}

// Batches divides ops, in their order, into transactions that every store takes with at
// most few compares. An op that is too large by itself is refused when it is done.
func Batches(ops []Op) [][]Op {
	var out [][]Op
	begin, size := 0, 0
	for i, o := range ops {
		weight := len(o.where()) + len(o.value)
		if i > begin && (i-begin == MaxOps || size+weight > MaxBytes) {
			out = append(out, ops[begin:i])
			begin, size = i, 0
		}
		size += weight
	}
	if begin < len(ops) {
		out = append(out, ops[begin:])
	}
	return out
}

// LeaseID names a lease in its store.
type LeaseID int64

// Lease is time lent to keys. It is kept alive in the background.
type Lease struct {
	ID     LeaseID
	TTL    time.Duration // how long keys outlive the last sign of life
	lost   <-chan struct{}
	revoke func(context.Context) error
}

// Lost is closed when the lease is no longer kept alive: it ran out while the store
// could not be reached, was revoked, or its context ended.
func (l *Lease) Lost() <-chan struct{} { return l.lost }

// Revoke ends the lease and deletes its keys.
func (l *Lease) Revoke(ctx context.Context) error { return l.revoke(ctx) }

// seconds rounds a time to live up to what stores count in.
func seconds(ttl time.Duration) int64 { return max(1, int64((ttl+time.Second-1)/time.Second)) }

// withDeadline bounds ctx by timeout unless it is bounded already.
func withDeadline(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if _, bounded := ctx.Deadline(); bounded {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, timeout)
}

// Under reports whether the key lies under the prefix.
func (k Key) Under(p Prefix) bool { return strings.HasPrefix(string(k), string(p)) }
