package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"math/rand/v2"
	"reflect"
	"time"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/fabric/store"
)

// Problem. A manager wants to know at once when a blade has done what it was told, and
// what its rules count now and then; a store that a thousand blades report to must not
// drown in counters, nor in a blade that changes its mind ten times a second.
//
// Idea. Parts by pace. What is in force goes out at once when generation, digest,
// proof or VFs change, else at most once an interval; rules and counters when an interval
// or, for a long list, the time that [rulesPace] gives it has passed, and some intervals
// after a change, when all blades have something more important to say, each after another
// time; the inventory when it changes, looked at every half minute. What did not change is
// not written. All of it counts contact with the store, and where there was none for some
// intervals, a reading makes it.
//
// A round says when the next is due, and a timer waits for that. (A ticker of one interval,
// with each part asking whether its interval has passed, was one round late whenever a part
// was written between two ticks, or the clock was read a little after one: the report then
// came after up to two intervals.)
//
// Measured: the report of 1,000 rules is 146 KB.

// rulesPace is how many bytes a second of rules and counters a blade may write. The store
// keeps an hour of history: of 200 blades that all count, 2.9 GB at most.
const rulesPace = 4096

// reporter is what was reported over one connection.
type reporter struct {
	*Fabric
	store    store.Store
	lease    *store.Lease
	identity string // of the store that was told

	told      map[string]part
	looked    time.Time // at the inventory
	counted   time.Time // what passed functions
	inventory []byte
	rulesDue  time.Time
	rulesOf   *Status         // whose rules were looked at last
	rulesTold api.RulesStatus // and written last
}

// part is one part as it was written last.
type part struct {
	value  []byte
	at     time.Time
	urgent string // what of it may not wait
}

// inventoryPace is how often the inventory is read, countersPace how often the counters of
// functions are: demand is recorded in 5-minute values.
const (
	inventoryPace = 30 * time.Second
	countersPace  = 10 * time.Second
)

// report tells the store how the blade is until ctx ends.
func (f *Fabric) report(ctx context.Context, s store.Store) {
	r := &reporter{Fabric: f, store: s, told: map[string]part{}}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-f.changed:
		}
		next, err := r.round(ctx)
		if err != nil {
			f.lost(err)
			next = time.Now().Add(f.config.Interval)
		}
		timer.Reset(time.Until(next))
	}
}

// round writes what is due and returns when the next round is. It stops at the first part
// that cannot be written.
func (r *reporter) round(ctx context.Context) (next time.Time, err error) {
	r.mu.Lock()
	status, identity, heard := r.status, r.Fabric.identity, r.heard
	r.mu.Unlock()
	if identity != r.identity { // another store, or the same from a backup
		r.identity, r.told, r.lease, r.rulesOf, r.rulesTold = identity, map[string]part{}, nil, nil, api.RulesStatus{}
	}
	now := time.Now()
	if err := r.alive(ctx, now); err != nil {
		return next, err
	}
	if err := r.lookAround(ctx, now); err != nil {
		return next, err
	}
	if err := r.count(ctx, now); err != nil {
		return next, err
	}
	next = now.Add(3 * r.config.Interval)
	if status != nil && !status.Reconciled.IsZero() {
		for _, tell := range []func(context.Context, time.Time, *Status) (time.Time, error){r.generation, r.rules} {
			due, err := tell(ctx, now, status)
			if err != nil {
				return next, err
			}
			if !due.IsZero() && due.Before(next) {
				next = due
			}
		}
	}
	if now.Sub(heard) < 3*r.config.Interval {
		return next, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 3*r.config.Interval)
	defer cancel()
	if _, err := r.store.Read(ctx, store.Status(r.config.Blade, api.PartAlive)); err != nil {
		return next, err
	}
	r.reached()
	return next, nil
}

// alive says that the agent runs, on a lease that ends soon after it does.
func (r *reporter) alive(ctx context.Context, now time.Time) error {
	if r.lease != nil {
		select {
		case <-r.lease.Lost():
		default:
			return nil
		}
	}
	lease, err := r.store.Lease(ctx, r.config.Lease)
	if err != nil {
		return err
	}
	value, err := json.Marshal(aliveReport(r.config.Blade, api.AliveStatus{Version: r.config.Version, Since: now}))
	if err != nil {
		return err
	}
	if _, err := r.store.Txn(ctx, nil, []store.Op{store.PutLeased(store.Status(r.config.Blade, api.PartAlive), value, lease)}); err != nil {
		return err
	}
	r.lease = lease
	r.reached()
	return nil
}

// lookAround reports the inventory if it changed. One that cannot be read is no news.
func (r *reporter) lookAround(ctx context.Context, now time.Time) error {
	if r.config.Inventory == nil {
		return nil
	}
	if r.inventory == nil || now.Sub(r.looked) >= inventoryPace {
		r.looked = now
		inv, findings, err := r.config.Inventory()
		if err != nil {
			r.config.Log.Error("the inventory cannot be read", "error", err)
			return nil
		}
		if r.inventory, err = json.Marshal(discover.NewObject(r.config.Blade, inv, findings)); err != nil {
			return err
		}
	}
	return r.write(ctx, api.PartInventory, part{value: r.inventory, at: now})
}

// count reports what has passed the blade's functions, if anything has.
func (r *reporter) count(ctx context.Context, now time.Time) error {
	if r.config.Counters == nil || now.Sub(r.counted) < countersPace {
		return nil
	}
	r.counted = now
	report := portsReport(r.config.Blade, r.config.Counters())
	text, err := json.Marshal(report) // without the time: an hour of silence is no news
	if err != nil || len(report.Status.Ports) == 0 || string(text) == r.told[api.PartPorts].urgent {
		return err
	}
	report.Status.At = now
	value, err := json.Marshal(report)
	if err != nil {
		return err
	}
	return r.write(ctx, api.PartPorts, part{value, now, string(text)})
}

// generation reports what is in force, and returns when it may, if it may not yet.
func (r *reporter) generation(ctx context.Context, now time.Time, s *Status) (due time.Time, err error) {
	value, err := json.Marshal(generationReport(r.config.Blade, s))
	if err != nil {
		return due, err
	}
	last := r.told[api.PartGeneration]
	if bytes.Equal(value, last.value) {
		return due, nil
	}
	urgent, err := json.Marshal([]any{s.Record, s.Generation, s.Digest, s.Proved, s.VFs})
	if err != nil {
		return due, err
	}
	if due := last.at.Add(r.config.Interval); string(urgent) == last.urgent && now.Before(due) {
		return due, nil
	}
	if string(urgent) != last.urgent {
		r.rulesDue = now.Add(3*r.config.Interval + rand.N(3*r.config.Interval))
	}
	return due, r.write(ctx, api.PartGeneration, part{value, now, string(urgent)})
}

// rules reports where rules live and what they counted, and returns when it may, if it
// may not yet.
func (r *reporter) rules(ctx context.Context, now time.Time, s *Status) (due time.Time, err error) {
	switch {
	case s == r.rulesOf:
		return due, nil
	case now.Before(r.rulesDue):
		return r.rulesDue, nil
	}
	report := rulesReport(r.config.Blade, s)
	last := r.rulesTold
	last.At = report.Status.At
	if !reflect.DeepEqual(report.Status, last) {
		value, err := json.Marshal(report)
		if err != nil {
			return due, err
		}
		if err := r.write(ctx, api.PartRules, part{value: value, at: now}); err != nil {
			return due, err
		}
		r.rulesTold = report.Status
		r.rulesDue = now.Add(max(r.config.Interval, time.Duration(len(value))*time.Second/rulesPace))
	}
	r.rulesOf = s
	return due, nil
}

// write writes a part that is not what was written last.
func (r *reporter) write(ctx context.Context, name string, p part) error {
	if bytes.Equal(r.told[name].value, p.value) {
		return nil
	}
	delete(r.told, name) // a write that fails may have happened
	if _, err := r.store.Txn(ctx, nil, []store.Op{store.Put(store.Status(r.config.Blade, name), p.value)}); err != nil {
		return err
	}
	r.told[name] = p
	r.reached()
	return nil
}
