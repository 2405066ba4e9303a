package manager

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"github.com/bladeflow/bladeflow/fabric"
	"github.com/bladeflow/bladeflow/fabric/api"
)

// Problem. A record names all rules of a blade. They are in shards beside it, of some 256
// rules each; a change of ten rules that lie anywhere would write most of a blade's shards
// anew, have them sent to it, and have it read as many rules as there are.
//
// Idea. The shards stay what they were, and the record says what is different: the rules to
// put in place of theirs, or beside them, and the IDs of those to drop. Each record speaks
// of the shards alone, not of the record before it, so an agent that missed some needs only
// the newest. When the edits have grown past mostEdits, all is written into shards again.
//
// To know what is different, a fingerprint of each rule in the shards is kept, 16 bytes; a
// manager that has just begun to lead has none and writes shards. A fingerprint that lies
// (one chance in 2^64) leaves out a rule that changed: the digest then tells the agent.

// mostEdits is how many bytes of edits a record may have. At 150 bytes a rule it is about a
// hundred rules.
const mostEdits = 16 << 10

// bases are the fingerprints of what is in blades' shards. The zero value is ready for use,
// by any goroutine.
type bases struct {
	mu    sync.Mutex // guards what follows
	known map[fabric.BladeID]base
}

// base is what is in the shards of one blade.
type base struct {
	shards []string
	rules  []fingerprint // by ID
}

type fingerprint struct{ id, sum uint64 }

// record returns the record of a content, without number, date and what depends on other
// blades, and its shards by their SHA-256. It keeps to the shards of the record before, if
// it knows what is in them and little is different.
func (b *bases) record(c fabric.Content, before *api.GenerationSpec) (api.GenerationSpec, map[[32]byte][]byte, error) {
	g, rules := wireSpec(c), wireRules(c)
	prints := make([]fingerprint, len(rules))
	for i := range rules {
		prints[i] = fingerprintOf(&rules[i])
	}
	b.mu.Lock()
	was, known := b.known[c.Blade]
	b.mu.Unlock()
	if known && before != nil && slices.Equal(was.shards, before.Shards) {
		g.Shards = was.shards
		g.Put, g.Drop = was.edits(rules, prints)
		if text, err := json.Marshal([]any{g.Put, g.Drop}); err != nil || len(text) <= mostEdits {
			return g, nil, err
		}
		g.Put, g.Drop = nil, nil
	}
	names, shards, err := wireShards(rules)
	if err != nil {
		return g, nil, err
	}
	g.Shards = names
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.known == nil {
		b.known = map[fabric.BladeID]base{}
	}
	b.known[c.Blade] = base{names, prints}
	return g, shards, nil
}

// edits returns how rules, in the order of IDs, differ from what is in the shards.
func (b *base) edits(rules []api.TableRule, prints []fingerprint) (put []api.TableRule, drop []string) {
	i := 0
	for _, was := range b.rules {
		for i < len(prints) && prints[i].id < was.id {
			put = append(put, rules[i])
			i++
		}
		switch {
		case i == len(prints) || prints[i].id != was.id:
			drop = append(drop, fmt.Sprintf("%016x", was.id))
		case prints[i] == was:
			i++
		default:
			put = append(put, rules[i])
			i++
		}
	}
	return append(put, rules[i:]...), drop
}

// forget drops what is known of blades that are wanted no more.
func (b *bases) forget(id fabric.BladeID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.known, id)
}

func fingerprintOf(r *api.TableRule) fingerprint {
	id, _ := strconv.ParseUint(r.ID, 16, 64) // wireRules wrote it
	var text []byte
	for _, s := range []string{r.Name, r.Tier, r.Match, r.Actions} {
		text = binary.BigEndian.AppendUint32(text, uint32(len(s)))
		text = append(text, s...)
	}
	sum := sha256.Sum256(binary.BigEndian.AppendUint32(text, uint32(r.Priority)))
	return fingerprint{id, binary.BigEndian.Uint64(sum[:8])}
}
