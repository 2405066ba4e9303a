package agent

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

// Fabric is a blade's line to the fabric's store: a [Source] of what the manager wants
// of the blade, and the reporter of how it is.
//
// Problem. The line may break at any time and for any time; the store may come back
// older; a manager that was cut off may write late; and what is written may be meant
// for a newer agent. The blade shall follow the newest that it understands, and never
// go back.
//
// Idea. A record is taken only if it is not behind the last one taken, in its number
// and, in the same store, in its revision; if its rules are there and what they make
// has the digest promised; and if a table can be made of it. Everything else is a
// fault that is reported while the last one taken goes on. What is taken is first
// written to a file, so that a restarted agent knows what it must not go back from,
// and has it, store or no store.
//
// Reading is list, then watch; when the watch cannot go on, because history was
// compacted or the store replaced, list again. There is no other catching up: a record
// is whole, so the newest is all that counts.
type Fabric struct {
	config  FabricConfig
	wake    chan struct{} // holds one: something else is wanted
	changed chan struct{} // holds one: something else is to be reported

	mu       sync.Mutex // guards what follows
	taken    taken
	wanted   *Wanted
	refusal  error     // what is wrong with the newest record
	heard    time.Time // when the store last answered; zero if it never did
	silence  error     // why it does not answer now; nil if it does
	identity string    // of the store we speak with
	status   *Status
}

// FabricConfig says which blade it is and where its store is.
type FabricConfig struct {
	Blade     string      // name of the blade, and of its user in the store
	Ports     *flow.Ports // of the blade
	Dial      func(context.Context) (store.Store, error)
	Keep      string // file for the last generation taken; empty keeps none
	Inventory func() (fabric.Inventory, []fabric.Finding, error)
	Counters  func() []discover.Counter // of the blade's functions; nil reports none
	Interval  time.Duration             // least time between two reports of the same thing; 1 s if zero
	Lease     time.Duration             // for how long a silent blade counts as alive; 10 s if zero
	Version   string                    // of the program, for the report
	Log       *slog.Logger              // nothing is logged if nil
}

// taken is the last record taken: what no other may be behind.
type taken struct {
	record   record
	content  fabric.Content
	table    *flow.Table
	store    string
	revision int64
	shards   map[[32]byte][]flow.Rule // rules of its shards, so that only new ones are read
	edits    map[flow.RuleID]edit     // what it says of rules instead of the shards
}

var _ Source = (*Fabric)(nil)

// NewFabric returns a line that is not open yet; what the file holds is wanted
// already, as [Wanted.Restored]. A file that cannot be read is a fault: without it
// nobody knows what the blade must not go back from.
func NewFabric(c FabricConfig) (*Fabric, error) {
	if c.Interval == 0 {
		c.Interval = time.Second
	}
	if c.Lease == 0 {
		c.Lease = 10 * time.Second
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	f := &Fabric{config: c, wake: make(chan struct{}, 1), changed: make(chan struct{}, 1)}
	return f, f.restore()
}

// Wanted implements [Source].
func (f *Fabric) Wanted() (*Wanted, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refusal != nil {
		return f.wanted, f.refusal
	}
	return f.wanted, f.silence
}

// Wake is for [Config.Wake].
func (f *Fabric) Wake() <-chan struct{} { return f.wake }

// Report is for [Config.Report].
func (f *Fabric) Report(s *Status) {
	f.mu.Lock()
	f.status = s
	f.mu.Unlock()
	ping(f.changed)
}

func ping(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Run keeps the line until ctx ends, and returns nil then: the store's absence is a
// fault of Wanted, not an end.
func (f *Fabric) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		s, err := f.config.Dial(ctx)
		if err != nil {
			f.lost(err)
			pause(ctx)
			continue
		}
		var done sync.WaitGroup
		done.Go(func() { f.follow(ctx, s) })
		done.Go(func() { f.report(ctx, s) })
		done.Wait()
		if c, ok := s.(interface{ Close() error }); ok {
			c.Close() // nothing is under way any more
		}
	}
	return nil
}

// pause waits a second or two, so that blades which lost their store together do not
// come back together.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(time.Second + rand.N(time.Second)):
	}
}

// reached notes that the store answered.
func (f *Fabric) reached() {
	f.mu.Lock()
	was := f.silence
	f.heard, f.silence = time.Now(), nil
	f.mu.Unlock()
	if was != nil {
		f.config.Log.Info("the store answers again")
		ping(f.wake)
	}
}

// lost notes that it did not. The first reason of a silence stays.
func (f *Fabric) lost(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.silence != nil || errors.Is(err, context.Canceled) {
		return
	}
	since := "this agent has started"
	if !f.heard.IsZero() {
		since = f.heard.Format(time.RFC3339)
	}
	if f.heard.IsZero() && errors.Is(err, store.ErrDenied) {
		f.silence = &flow.Fault{Code: code(err), What: "blade " + f.config.Blade, Why: "the store does not let it in: the fabric does not know this blade yet, or is about to give it its rights: " + err.Error(),
			Remedy: "create the blade, if it is not there; this agent goes on trying", Err: err}
		f.config.Log.Warn("not let in by the store yet; trying again", "error", err)
	} else {
		f.silence = &flow.Fault{Code: code(err), What: "store", Why: fmt.Sprintf("nothing was heard since %s: %v", since, err),
			Remedy: "help the store or the network between; what is in force stays", Err: err}
		f.config.Log.Warn("cut off from the store", "error", err)
	}
	ping(f.wake)
}

// follow reads what is wanted until ctx ends.
func (f *Fabric) follow(ctx context.Context, s store.Store) {
	for ctx.Err() == nil {
		if err := f.catchUp(ctx, s); err != nil && !errors.Is(err, store.ErrCompacted) {
			f.lost(err)
			pause(ctx)
		}
	}
}

// catchUp lists and then watches until the watch cannot go on.
func (f *Fabric) catchUp(ctx context.Context, s store.Store) error {
	schema, err := store.ReadSchema(ctx, s)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	list, revision, err := s.List(ctx, store.BladeWanted(f.config.Blade))
	if err != nil {
		return err
	}
	f.mu.Lock()
	f.identity = schema.Store
	f.mu.Unlock()
	f.reached()
	now := map[store.Key]store.KV{}
	for _, kv := range list {
		now[kv.Key] = kv
	}
	f.take(now)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for batch := range s.Watch(ctx, store.BladeWanted(f.config.Blade), revision) {
		if batch.Err != nil {
			return batch.Err
		}
		f.reached()
		for _, e := range batch.Events {
			if e.Deleted {
				delete(now, e.Key)
			} else {
				now[e.Key] = e.KV
			}
		}
		f.take(now)
	}
	return ctx.Err()
}

// take takes the record that is there now, if there is one: a blade that is told
// nothing goes on.
func (f *Fabric) take(now map[store.Key]store.KV) {
	kv, told := now[store.Generation(f.config.Blade)]
	if !told {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wanted != nil && !f.wanted.Restored && f.taken.store == f.identity && f.taken.revision == kv.Modified {
		return // shards come and go by themselves
	}
	shard := func(sum [32]byte) []byte { return now[store.Shard(f.config.Blade, sum)].Value }
	next, err := f.understand(kv.Value, shard, f.identity, kv.Modified)
	was := f.refusal
	if err == nil {
		f.wanted = f.want(next)
		f.taken = next
		err = f.keep(kv.Value, shard)
	}
	f.refusal = err
	if err != nil && words(was) != err.Error() {
		f.config.Log.Error("the newest generation is not taken as it is", "error", err)
	}
	ping(f.wake)
}

// want returns what is wanted by what was understood, with the table that is wanted
// already if it is the same content.
func (f *Fabric) want(next taken) *Wanted {
	w := &Wanted{Table: next.table, Digest: next.record.Digest, VNICs: next.record.orders(next.content.VNICs), Record: next.revision}
	if f.wanted != nil && f.taken.record.Number == next.record.Number && f.taken.content.Digest == next.content.Digest {
		w.Table = f.wanted.Table
	}
	return w
}

// understand makes a content of a record, or says why it may not be taken.
func (f *Fabric) understand(text []byte, shard func([32]byte) []byte, identity string, revision int64) (taken, error) {
	r, err := readRecord(text)
	if err != nil {
		return taken{}, err
	}
	next := taken{record: r, store: identity, revision: revision, shards: map[[32]byte][]flow.Rule{}}
	if err := f.taken.behind(next); err != nil {
		return taken{}, err
	}
	sums, err := r.sums()
	if err != nil {
		return taken{}, err
	}
	for _, sum := range sums {
		some, known := f.taken.shards[sum]
		if !known {
			value := shard(sum)
			if value == nil || sha256.Sum256(value) != sum {
				return taken{}, f.fault("E_SHARD", fmt.Sprintf("generation %d", r.Number), fmt.Sprintf("shard %x is not there as it should be", sum[:6]), "see what the manager publishes")
			}
			if some, err = readShard(value, f.config.Ports); err != nil {
				return taken{}, err
			}
		}
		next.shards[sum] = some
	}
	if next.edits, err = r.edits(f.taken.edits, f.config.Ports); err != nil {
		return taken{}, err
	}
	rules := f.taken.followed(&next)
	if next.content, err = r.content(fabric.BladeID(f.config.Blade), f.config.Ports, rules); err != nil {
		return taken{}, err
	}
	if sum := next.content.Sum(); sum != next.content.Digest || len(rules) != r.Rules {
		return taken{}, f.fault("E_DIGEST", fmt.Sprintf("generation %d", r.Number), fmt.Sprintf("%d rules with digest %.12s are promised, %d with %.12s were read", r.Rules, r.Digest, len(rules), sum),
			"upgrade this agent if the manager is newer, else have the manager publish again")
	}
	next.table, err = flow.NewTable(next.content.Table)
	return next, err
}

// followed returns the rules of next in the order they are asked, which for all that did
// not change they are in already. Meaning: [api.GenerationSpec.Edited].
func (t *taken) followed(next *taken) []flow.Rule {
	touched := map[flow.RuleID]bool{} // rules that may not be what they were
	var now []flow.Rule               // those of them that there are
	touch := func(rules []flow.Rule, there bool) {
		for i := range rules {
			id := rules[i].ID
			touched[id] = true
			if _, edited := next.edits[id]; there && !edited {
				now = append(now, rules[i])
			}
		}
	}
	for sum, rules := range t.shards {
		if _, stays := next.shards[sum]; !stays {
			touch(rules, false)
		}
	}
	for sum, rules := range next.shards {
		if _, known := t.shards[sum]; !known {
			touch(rules, true)
		}
	}
	undone := false
	for id := range t.edits {
		touched[id] = true
		if _, edited := next.edits[id]; !edited {
			undone = true
		}
	}
	for id, e := range next.edits {
		touched[id] = true
		if !e.drop {
			now = append(now, e.rule)
		}
	}
	for sum, rules := range next.shards {
		if _, known := t.shards[sum]; !known || !undone {
			continue
		}
		for i := range rules { // as they are in the shards again
			_, was := t.edits[rules[i].ID]
			if _, is := next.edits[rules[i].ID]; was && !is {
				now = append(now, rules[i])
			}
		}
	}
	slices.SortFunc(now, func(a, b flow.Rule) int { return a.Before(&b) })
	was := t.content.Table.Rules
	out := make([]flow.Rule, 0, len(was)+len(now))
	for i := range was {
		if touched[was[i].ID] {
			continue
		}
		for len(now) > 0 && now[0].Before(&was[i]) < 0 {
			out, now = append(out, now[0]), now[1:]
		}
		out = append(out, was[i])
	}
	return append(out, now...)
}

func (f *Fabric) fault(code, what, why, remedy string) error {
	return &flow.Fault{Code: code, What: what, Why: why, Remedy: remedy + "; what is in force stays"}
}

// behind says why next must not follow t: a stale manager wrote it, or the store is
// an older one.
func (t *taken) behind(next taken) error {
	what := fmt.Sprintf("generation %d", next.record.Number)
	switch {
	case next.record.Number < t.record.Number:
		return &flow.Fault{Code: "E_GENERATION_OLD", What: what, Why: fmt.Sprintf("this blade has had generation %d already", t.record.Number),
			Remedy: "have the manager publish what is wanted under a new number; what is in force stays"}
	case next.record.Number == t.record.Number && next.record.Digest != t.record.Digest:
		return &flow.Fault{Code: "E_GENERATION_TWICE", What: what, Why: fmt.Sprintf("this blade has had another one of that number, with digest %.12s", t.record.Digest),
			Remedy: "have the manager publish what is wanted under a new number; what is in force stays"}
	case next.store == t.store && next.revision < t.revision:
		return &flow.Fault{Code: "E_GENERATION_OLD", What: what, Why: fmt.Sprintf("the store was at revision %d already, and this is of %d", t.revision, next.revision),
			Remedy: "see whether the store was replaced by an older one; what is in force stays"}
	}
	return nil
}

// keep writes what was taken to the file.
func (f *Fabric) keep(text []byte, shard func([32]byte) []byte) error {
	if f.config.Keep == "" {
		return nil
	}
	sums, err := f.taken.record.sums()
	if err == nil {
		err = replace(f.config.Keep, keptText(f.taken.store, f.taken.revision, text, sums, shard), 0o600, true)
	}
	if err != nil {
		return &flow.Fault{Code: "E_KEEP", What: f.config.Keep, Why: err.Error(), Remedy: "make room and let the agent write there: a restart would not know this generation", Err: err}
	}
	return nil
}

// restore takes what the file holds.
func (f *Fabric) restore() error {
	if f.config.Keep == "" {
		return nil
	}
	data, err := os.ReadFile(f.config.Keep)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	shard := func(sum [32]byte) []byte { return k.Shards[fmt.Sprintf("%x", sum)] }
	var next taken
	if err == nil {
		next, err = f.understand(k.Generation, shard, k.Store, k.Revision)
	}
	if err != nil {
		return &flow.Fault{Code: "E_KEPT", What: f.config.Keep, Why: "the last generation cannot be restored: " + err.Error(),
			Remedy: "remove the file to start anew from the store; the blade then no longer knows what it must not go back from", Err: err}
	}
	f.wanted = f.want(next)
	f.wanted.Restored = true
	f.taken = next
	return nil
}
