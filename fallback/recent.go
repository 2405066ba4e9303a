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
// share places makes the looks of one port fail, if he guesses its factor.
//
// What was tried. Whole keys, of which hashing and comparing cost what the classifier does. One
// loop for hash and comparison: the processor then waits for one place after the other, 26 ns
// each. Twice as many places: no difference for a thousand flows.

// Sizes of a recent: sets of two places each, 512 KiB; the words of a key that fit into a place,
// and how many of them make few; frames in a batch for which it pays to look.
const (
	recentSets  = 4096
	recentWords = 7
	recentFew   = 6
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
	program *program          // what it remembers is of; nil after a change of tables
	stamp   uint32            // the program's; never 0
	factors [recentFew]uint64 // of the hash, odd
	looks   [recentWords]look // beyond words they look at nothing
	words   int               // of looks; 0 if the program is better asked always
	sets    *[recentSets][2]place

	looked, found int    // since it was last asked whether it pays
	rest          int    // frames to let pass before the next look
	warmth        uint32 // what find has read of places: else a compiler would not read it
	at            [batchSize]uint32
	few           [batchSize][recentFew]uint64 // what findFew looked at
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

// find puts the rules of keys that it knows into rules, and adds to missed which it does not.
// Its loops are short, so that the processor waits for the places of many keys at once.
func (r *recent) find(keys []flow.Key, rules, missed []int32) []int32 {
	r.looked += len(keys)
	known := len(missed) + len(keys)
	if r.words <= recentFew {
		missed = r.findFew(keys, rules, missed)
	} else {
		missed = r.findMany(keys, rules, missed)
	}
	r.found += known - len(missed)
	return missed
}

// findFew is find for tables that look at few words, as those for IPv4 do: without loops over words it
// takes half the time.
func (r *recent) findFew(keys []flow.Key, rules, missed []int32) []int32 {
	looks, factors, at, few := &r.looks, r.factors, r.at[:len(keys)], r.few[:len(keys)]
	for i := range keys {
		k, f := &keys[i], &few[i]
		f[0], f[1] = looks[0].of(k), looks[1].of(k)
		f[2], f[3] = looks[2].of(k), looks[3].of(k)
		f[4], f[5] = looks[4].of(k), looks[5].of(k)
		hi, lo := bits.Mul64(f[0]^factors[0], f[1]^factors[1])
		h := hi ^ lo
		hi, lo = bits.Mul64(f[2]^factors[2], f[3]^factors[3])
		h ^= hi ^ lo
		hi, lo = bits.Mul64(f[4]^factors[4], f[5]^factors[5])
		at[i] = uint32((h ^ hi ^ lo) % recentSets)
	}
	sets, stamp := r.sets, r.stamp
	r.warmth = warm(sets, at)
	for i := range at {
		f, set := &few[i], &sets[at[i]%recentSets]
		if set[0].isFew(f, stamp) {
			rules[i] = set[0].rule
		} else if set[1].isFew(f, stamp) {
			rules[i] = set[1].rule
		} else {
			missed = append(missed, int32(i))
		}
	}
	return missed
}

// isFew reports whether a place has what findFew looked at.
func (p *place) isFew(f *[recentFew]uint64, stamp uint32) bool {
	return (p.key[0]^f[0])|(p.key[1]^f[1])|(p.key[2]^f[2])|(p.key[3]^f[3])|(p.key[4]^f[4])|(p.key[5]^f[5])|uint64(p.stamp^stamp) == 0
}

// warm has the processor fetch the sets, and returns a number so that a compiler does, too.
func warm(sets *[recentSets][2]place, at []uint32) (sum uint32) {
	for _, n := range at {
		sum += sets[n%recentSets][0].stamp
	}
	return sum
}

func (r *recent) findMany(keys []flow.Key, rules, missed []int32) []int32 {
	looks, at := r.looks[:r.words], r.at[:len(keys)]
	for i := range keys {
		k := &keys[i]
		h := uint64(0)
		for j := range looks {
			l := &looks[j]
			hi, lo := bits.Mul64(h^l.of(k), r.factors[0])
			h = hi ^ lo
		}
		at[i] = uint32(h % recentSets)
	}
	sets := r.sets
	r.warmth = warm(sets, at)
	for i := range keys {
		k, set := &keys[i], &sets[at[i]]
		if set[0].is(looks, k, r.stamp) {
			rules[i] = set[0].rule
		} else if set[1].is(looks, k, r.stamp) {
			rules[i] = set[1].rule
		} else {
			missed = append(missed, int32(i))
		}
	}
	return missed
}

// is reports whether a place has k.
func (p *place) is(looks []look, k *flow.Key, stamp uint32) bool {
	differ := uint64(p.stamp ^ stamp)
	for j := range looks {
		l := &looks[j]
		differ |= p.key[j] ^ l.of(k)
	}
	return differ == 0
}

// learn remembers the rule of the i-th key that find was asked for last, in place of the flow
// of its set that came first.
func (r *recent) learn(i int32, k *flow.Key, rule int32) {
	set := &r.sets[r.at[i]]
	set[1] = set[0]
	set[0].rule, set[0].stamp = rule, r.stamp
	for j, l := range r.looks[:r.words] {
		set[0].key[j] = l.of(k)
	}
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
		w.recent.learn(i, &keys[i], w.rest.Rules[n])
	}
}
