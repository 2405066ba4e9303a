package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Problem. A counter belongs to a rule and a blade, and never decreases; but software's
// counters begin again with the process, and a device's with each entry. An agent that is
// killed has no last word.
//
// Idea. What was counted is written to a file before anybody is shown it, and shown only as
// it was written: a counter that somebody has read is in the file, so whoever comes after
// goes on from at least there. A file a second is the most that is written, and of large ones
// [accountRate]; meanwhile the status repeats what it said last. The file has the last reading of each entry beside
// the sums, so that of what devices counted nothing is lost while nobody looks: they go on
// counting, and so does a pinned flow cache. Of what Go counted, what came after the last
// file is lost.
//
// Two readings of one entry are taken for one that went on counting if the second is not
// lower. An entry that was removed and put in again between the two, while nobody looked,
// and came further than before, counts too little: never too much.

// accountPace is how often counters are written at most.
const accountPace = time.Second

// accountRate is how many bytes of them a second: those of 1,000 rules are 70 KB.
const accountRate = 256 << 10

// account is what a blade has counted, ever: the counters of a status.
type account struct {
	hardware map[flow.RuleID]flow.Counter
	software map[flow.RuleID]flow.Counter // without what the flow cache answered
	policed  map[flow.RuleID]flow.Counter // of software
	cache    map[flow.RuleID]flow.Counter
	packets  map[string]uint64 // of software, by what became of them
	cached   map[string]uint64 // of the cache
	lost     map[string]uint64 // in software, by why
	verdicts map[string]uint64 // of hardware
}

// newAccount has all words that can occur, so that a series begins before its first packet.
func newAccount() account {
	return account{hardware: map[flow.RuleID]flow.Counter{}, software: map[flow.RuleID]flow.Counter{}, policed: map[flow.RuleID]flow.Counter{},
		packets:  map[string]uint64{"drop": 0, "normal": 0, "output": 0, "pass": 0, "police": 0},
		lost:     map[string]uint64{"no table yet": 0, "frame too short": 0, "no such port": 0, "refused on sending": 0, "dropped by a link": 0},
		verdicts: map[string]uint64{"drop": 0, "normal": 0, "output": 0, "punt": 0}}
}

// count sums what earlier processes counted and what this one did.
func (a *Agent) count() account {
	now := newAccount()
	for _, c := range a.devices {
		for id, n := range c.ledger.rules {
			now.hardware[id] = plus(now.hardware[id], n)
		}
		for word, n := range c.ledger.verdicts {
			now.verdicts[word] += n
		}
	}
	now.cache, now.cached = maps.Clone(a.cached.rules), maps.Clone(a.cached.verdicts)
	for _, part := range []map[flow.RuleID]flow.Counter{a.past.software, a.Datapath.Judged()} {
		for id, n := range part {
			now.software[id] = plus(now.software[id], n)
		}
	}
	for _, part := range []map[flow.RuleID]flow.Counter{a.past.policed, a.Datapath.Policed()} {
		for id, n := range part {
			now.policed[id] = plus(now.policed[id], n)
		}
	}
	st := a.Datapath.Stats()
	var dropped uint64
	for _, l := range st.Links {
		dropped += l.Dropped
	}
	now.packets = map[string]uint64{"drop": st.Dropped - st.Policed, "normal": st.Normal, "output": st.Output, "pass": st.Passed, "police": st.Policed}
	now.lost = map[string]uint64{"no table yet": st.Early, "frame too short": st.Short, "no such port": st.NoPort, "refused on sending": st.Failed, "dropped by a link": dropped}
	for word, n := range a.past.packets {
		now.packets[word] += n
	}
	for why, n := range a.past.lost {
		now.lost[why] += n
	}
	maps.Copy(now.lost, a.cached.lost)
	return now
}

// same reports whether nothing was counted since.
func (x *account) same(y *account) bool {
	return maps.Equal(x.verdicts, y.verdicts) && maps.Equal(x.packets, y.packets) && maps.Equal(x.lost, y.lost) &&
		maps.Equal(x.hardware, y.hardware) && maps.Equal(x.software, y.software) && maps.Equal(x.policed, y.policed) && maps.Equal(x.cache, y.cache)
}

// show decides what the status says was counted: what is, if it is kept or need not be,
// else what was kept last.
func (a *Agent) show(now time.Time) {
	a.readCache()
	next := a.count()
	switch {
	case a.State == "" || next.same(&a.shown):
	case now.Before(a.keepNext):
		return
	default:
		text := a.keptAccount(&next)
		err := replace(a.State+".counters", text, 0o600, true)
		if err != nil && a.unkept == "" {
			a.event("E_KEEP", "counters", err.Error()+": they begin again if the agent does")
		}
		a.keepNext, a.unkept = now.Add(max(accountPace, time.Duration(len(text))*time.Second/accountRate)), words(err)
	}
	a.shown = next
	if a.Forget != nil && a.unkept == "" { // all of live is in the file
		a.cached.forget(a.Forget(a.cached.live))
	}
}

// keptCounters is the file.
type keptCounters struct {
	Software counters              `json:"software"`
	Policed  counters              `json:"policed"`
	Packets  map[string]uint64     `json:"packets"`
	Lost     map[string]uint64     `json:"lost"`
	Devices  map[string]keptLedger `json:"devices"`
	Cache    keptCached            `json:"cache"`
}

// keptLedger is a [ledger] in the file.
type keptLedger struct {
	Live     counters          `json:"live"` // by entry
	Rules    counters          `json:"rules"`
	Verdicts map[string]uint64 `json:"verdicts"`
}

// counters are packets and bytes by ID in hexadecimal digits.
type counters map[string][2]uint64

func keptMap[ID ~uint64](m map[ID]flow.Counter) counters {
	out := make(counters, len(m))
	for id, n := range m {
		if n != (flow.Counter{}) {
			out[ruleID(flow.RuleID(id))] = [2]uint64{n.Packets, n.Bytes}
		}
	}
	return out
}

func (c counters) read(into func(id uint64, n flow.Counter)) error {
	for text, n := range c {
		id, err := strconv.ParseUint(text, 16, 64)
		if err != nil {
			return fmt.Errorf("counter of %q: %w", text, err)
		}
		into(id, flow.Counter{Packets: n[0], Bytes: n[1]})
	}
	return nil
}

func (a *Agent) keptAccount(now *account) []byte {
	k := keptCounters{Software: keptMap(now.software), Policed: keptMap(now.policed), Packets: now.packets, Lost: maps.Clone(now.lost), Devices: map[string]keptLedger{}, Cache: a.cached.kept()}
	for why := range a.cached.lost {
		delete(k.Lost, why) // has a place of its own
	}
	for _, c := range a.devices {
		k.Devices[c.Name] = keptLedger{Live: keptMap(c.ledger.live), Rules: keptMap(c.ledger.rules), Verdicts: c.ledger.verdicts}
	}
	text, err := json.Marshal(k)
	if err != nil {
		panic(err) // maps of numbers
	}
	return append(text, '\n')
}

// recount takes what the file has as counted before this process.
func (a *Agent) recount() error {
	a.past, a.shown, a.cached = newAccount(), newAccount(), newCached()
	if a.State == "" {
		return nil
	}
	text, err := os.ReadFile(a.State + ".counters")
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	var k keptCounters
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err != nil {
		return err
	}
	software, policed := map[flow.RuleID]flow.Counter{}, map[flow.RuleID]flow.Counter{}
	err = errors.Join(k.Software.read(func(id uint64, n flow.Counter) { software[flow.RuleID(id)] = n }),
		k.Policed.read(func(id uint64, n flow.Counter) { policed[flow.RuleID(id)] = n }))
	ledgers := map[string]*ledger{}
	for _, c := range a.devices {
		l, was := newLedger(), k.Devices[c.Name]
		err = errors.Join(err, was.Live.read(func(id uint64, n flow.Counter) { l.live[flow.EntryID(id)] = n }),
			was.Rules.read(func(id uint64, n flow.Counter) { l.rules[flow.RuleID(id)] = n }))
		maps.Copy(l.verdicts, was.Verdicts)
		ledgers[c.Name] = l
	}
	if err != nil {
		return err
	}
	inCache, e := k.Cache.cached()
	if e != nil {
		return e
	}
	a.past.policed = policed
	a.past.software, a.past.packets, a.past.lost, a.cached = software, k.Packets, k.Lost, inCache
	for _, c := range a.devices {
		c.ledger = ledgers[c.Name]
	}
	a.shown = a.count()
	return nil
}

// state is where what outlives the process is kept: beside the last generation, or the
// status file; empty if the configuration names neither.
func (f *File) state() string {
	beside := f.Status
	if f.Store != nil {
		beside = f.Store.Keep
	}
	return strings.TrimSuffix(beside, filepath.Ext(beside))
}
