package fallback

import (
	"math/bits"
	"math/rand/v2"

	"github.com/bladeflow/bladeflow/flow"
)

// What the last flows met.
//
// Problem. To classify one frame among 10,000 rules takes 25 ns where the classifier's memory is
// near, and 45 where it is not: a tenth of what a frame costs from the wire to its drop. What
// comes to Go again and again are flows that no flow cache answers: set, police, copies, and
// all flows where there is no flow cache.
//
// Idea. A worker remembers for its last flows which rule they met. It hashes and compares the
// words of a key that the table looks at, and not the port, which is the worker's: four for a
// list of rules for IPv4, where to hash and compare whole keys costs as much as the
// classifier does. What is remembered is one cache line.
//
// Invariant. A place with the stamp of the table has the rule that the classifier answers for
// every key that agrees with the place in all bits that the table looks at.
//
// Limits. Where flows do not come again, looks and what is written are in vain. So it is
// given up for a while when less than half of the looks find something. Places are there from
// the first batch on that is not small: an idle port costs nothing. Who makes flows that
// share places makes the looks of one port fail, if he guesses its factors.
//
// What was tried. Whole keys, of which hashing and comparing cost what the classifier does. One
// loop for hash and comparison: the processor then waits for one place after the other, 26 ns
// each. Loops over the words: 7 ns more on a Xeon. Twice as many places: no difference for a
// thousand flows.

// Sizes of a recent: sets of two places each, 512 KiB; the words of a key that fit into a place;
// frames in a batch for which it pays to look.
const (
	recentSets  = 4096
	recentWords = 7
	recentBatch = 16
)

// After how many looks a recent asks whether half of them found something, and for how many
// frames it rests if not.
const (
	recentLooks = 16384
	recentRest  = 15 * recentLooks
)

// recent is a worker's memory of flows.
type recent struct {
	program *program                // what it remembers is of; nil after a change of tables
	stamp   uint32                  // the program's; never 0
	factors [recentWords + 1]uint64 // of the hash, odd
	looks   [recentWords]look       // beyond words they look at nothing
	words   int                     // of looks; 0 if the program is better asked always
	sets    *[recentSets][2]place

	looked, found int    // since it was last asked whether it pays
	rest          int    // frames to let pass before the next look
	warmth        uint32 // what find has read of places: else a compiler would not read it
	at            [batchSize]uint32
	parts         [batchSize][recentWords]uint64 // what the table looks at of them
}

// look is a word of a key, and the bits of it that a table looks at.
type look struct {
	word int
	mask uint64
}

// of returns what is looked at of a key.
func (l *look) of(k *flow.Key) uint64 { return k[l.word&(flow.Words-1)] & l.mask }

// place remembers one flow, in a cache line.
type place struct {
	key   [recentWords]uint64 // words beyond the program's are zero
	rule  int32
	stamp uint32
}

// fewRules is for how few rules a classifier is as fast.
const fewRules = 256

// pays reports whether to look before the classifier is asked for the next n keys, by p.
func (r *recent) pays(p *program, n int) bool {
	if n < recentBatch {
		return false
	}
	if r.adopt(p); r.words == 0 {
		return false
	}
	if r.rest > 0 {
		r.rest -= n
		return false
	}
	if r.looked >= recentLooks {
		paid := 2*r.found >= r.looked
		if r.looked, r.found = 0, 0; !paid {
			r.rest = recentRest - n
			return false
		}
	}
	if r.sets == nil {
		r.sets = new([recentSets][2]place)
		for i := range r.factors {
			r.factors[i] = rand.Uint64() | 1
		}
	}
	return true
}

// adopt forgets what it knows of another program than p.
func (r *recent) adopt(p *program) {
	if r.program == p {
		return
	}
	r.program, r.looks, r.words, r.rest, r.looked, r.found = p, [recentWords]look{}, 0, 0, 0, 0
	if r.stamp++; r.stamp == 0 {
		r.sets = nil
		r.stamp = 1
	}
	seen := p.seen
	seen.Set(flow.InPort, 0)
	words := 0
	for _, mask := range seen {
		if mask != 0 {
			words++
		}
	}
	if words > recentWords || p.table.Len() < fewRules {
		return
	}
	for word, mask := range seen {
		if mask != 0 {
			r.looks[r.words] = look{word, mask}
			r.words++
		}
	}
}

// find puts the rules of keys that it knows into rules, and returns which it does not know, in missed,
// which is empty. Its loops are short, so that the processor waits for the places of many keys at
// once, and have none over words: a table that looks at fewer looks at zeros.
func (r *recent) find(keys []flow.Key, rules, missed []int32) []int32 {
	looks, a, at, parts := &r.looks, &r.factors, r.at[:len(keys)], r.parts[:len(keys)]
	for i := range keys {
		k, p := &keys[i], &parts[i]
		p[0], p[1], p[2], p[3] = looks[0].of(k), looks[1].of(k), looks[2].of(k), looks[3].of(k)
		p[4], p[5], p[6] = looks[4].of(k), looks[5].of(k), looks[6].of(k)
		h := mixed(p[0]^a[0], p[1]^a[1]) ^ mixed(p[2]^a[2], p[3]^a[3]) ^ mixed(p[4]^a[4], p[5]^a[5]) ^ mixed(p[6]^a[6], a[7])
		at[i] = uint32(h % recentSets)
	}
	sets, sum := r.sets, uint32(0)
	for _, n := range at {
		sum += sets[n%recentSets][0].stamp
	}
	r.warmth = sum
	for i := range at {
		p, set := &parts[i], &sets[at[i]%recentSets]
		if set[0].is(p, r.stamp) {
			rules[i] = set[0].rule
		} else if set[1].is(p, r.stamp) {
			rules[i] = set[1].rule
		} else {
			missed = append(missed, int32(i))
		}
	}
	r.looked += len(keys)
	r.found += len(keys) - len(missed)
	return missed
}

// mixed is the product, folded.
func mixed(x, y uint64) uint64 {
	hi, lo := bits.Mul64(x, y)
	return hi ^ lo
}

// is reports whether a place has a key of which a table looks at that.
func (p *place) is(k *[recentWords]uint64, stamp uint32) bool {
	return (p.key[0]^k[0])|(p.key[1]^k[1])|(p.key[2]^k[2])|(p.key[3]^k[3])|(p.key[4]^k[4])|(p.key[5]^k[5])|(p.key[6]^k[6])|uint64(p.stamp^stamp) == 0
}

// learn remembers the rule of the i-th key that find was asked for last, in place of the flow
// of its set that came first.
func (r *recent) learn(i, rule int32) {
	set := &r.sets[r.at[i]]
	set[1] = set[0]
	set[0] = place{r.parts[i], rule, r.stamp}
}

// classify answers the batch by p.
func (w *worker) classify(p *program) {
	keys := w.batch.Keys
	if !w.recent.pays(p, len(keys)) {
		p.match.Lookup(&w.batch)
		return
	}
	missed := w.recent.find(keys, w.batch.Rules, w.missed[:0])
	if len(missed) == 0 {
		return
	}
	w.rest.Keys = w.rest.Keys[:len(missed)]
	for n, i := range missed {
		w.rest.Keys[n] = keys[i]
	}
	p.match.Lookup(&w.rest)
	for n, i := range missed {
		w.batch.Rules[i] = w.rest.Rules[n]
		w.recent.learn(i, w.rest.Rules[n])
	}
}
