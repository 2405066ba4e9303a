package store

import (
	"encoding/hex"
	"fmt"
	"net/url"
	"strconv"
	"strings"
)

// Keys are made here and nowhere else. Names from outside are escaped as in a URL's
// path, so no name can leave its place; names that the fabric accepts stay as they
// are, and a key can be read aloud.
//
//	/bladeflow/v1/schema                              version of this layout, identity of the store
//	/bladeflow/v1/wanted/KIND/TENANT/NAME             what users want: profiles, networks, rule sets, …
//	/bladeflow/v1/blade/BLADE/wanted/generation       what the manager compiled for one blade
//	/bladeflow/v1/blade/BLADE/wanted/shard/SHA256     rules of it, by content
//	/bladeflow/v1/status/BLADE/PART                   what one blade reports, on its lease
//	/bladeflow/v1/history/NUMBER                      changes: who, when, what; decimal, 20 digits
//	/bladeflow/v1/state/NUMBER                        what was wanted after a change whose history is gone
//	/bladeflow/v1/chunk/SHA256                        chunks of values that are too large (chunks.go)
//	/bladeflow/v1/pending                             the change whose objects are being put in their places
//	/bladeflow/v1/writing                             who puts chunks that nothing refers to yet, on its lease
//	/bladeflow/v1/election/NAME                       the leader of something, on its lease
//
// Shards lie below their blade although equal ones are then stored once per blade:
// a blade's right to read ends at its own prefix. Status is apart from what blades
// read, so that a manager sees all blades' status in one watch without their tables.

// Key is a place for one value; Prefix is all keys that begin with it.
type (
	Key    string
	Prefix string
)

const (
	layout = "/bladeflow/v1/"

	// SchemaKey holds the [Schema]; everyone may read it.
	SchemaKey Key = layout + "schema"

	// Everything is all of bladeflow's keys.
	Everything Prefix = layout

	// AllWanted is every object that users want.
	AllWanted Prefix = layout + "wanted/"

	// AllBlades is what is compiled for all blades.
	AllBlades Prefix = layout + "blade/"

	// AllStatus is what all blades report.
	AllStatus Prefix = layout + "status/"

	// AllHistory is every change, in order.
	AllHistory Prefix = layout + "history/"

	// AllStates is the states that outlive their history.
	AllStates Prefix = layout + "state/"

	// AllChunks is the chunks of large values.
	AllChunks Prefix = layout + "chunk/"

	// PendingKey has the number of a change that is made, but whose objects are not all
	// in their places yet. The manager's commit.go says how that works.
	PendingKey Key = layout + "pending"

	// WritingKey is there while chunks may be put that nothing refers to.
	WritingKey Key = layout + "writing"
)

func join(prefix Prefix, names ...string) string {
	var b strings.Builder
	b.WriteString(string(prefix))
	for i, name := range names {
		if i > 0 {
			b.WriteByte('/')
		}
		b.WriteString(url.PathEscape(name))
	}
	return b.String()
}

// Wanted is the place of one object.
func Wanted(kind, tenant, name string) Key { return Key(join(AllWanted, kind, tenant, name)) }

// WantedKind is all objects of a kind.
func WantedKind(kind string) Prefix { return Prefix(join(AllWanted, kind, "")) }

// WantedOf is all objects of a kind and tenant.
func WantedOf(kind, tenant string) Prefix { return Prefix(join(AllWanted, kind, tenant, "")) }

// BladeWanted is all that a blade may read of what is wanted.
func BladeWanted(blade string) Prefix { return Prefix(join(AllBlades, blade, "wanted", "")) }

// Generation is the place of the generation that a blade shall have.
func Generation(blade string) Key { return Key(join(AllBlades, blade, "wanted", "generation")) }

// Shard is the place of a part of a blade's generations, named by the SHA-256 of
// its content.
func Shard(blade string, sum [32]byte) Key {
	return Key(join(AllBlades, blade, "wanted", "shard", fmt.Sprintf("%x", sum)))
}

// Shards is all parts of a blade's generations.
func Shards(blade string) Prefix { return Prefix(join(AllBlades, blade, "wanted", "shard", "")) }

// BladeStatus is all that a blade reports.
func BladeStatus(blade string) Prefix { return Prefix(join(AllStatus, blade, "")) }

// Status is the place of one part of a blade's report. Parts that change at
// different paces are different keys: inventory, generation, rules.
func Status(blade, part string) Key { return Key(join(AllStatus, blade, part)) }

// History is the place of the change with that number.
func History(number uint64) Key { return Key(join(AllHistory, fmt.Sprintf("%020d", number))) }

// Number takes a key of [History] or [State] apart.
func (k Key) Number() (uint64, bool) {
	for _, prefix := range []Prefix{AllHistory, AllStates} {
		if rest, ok := strings.CutPrefix(string(k), string(prefix)); ok {
			n, err := strconv.ParseUint(rest, 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}

// State is the place of what was wanted after the change with that number.
func State(number uint64) Key { return Key(join(AllStates, fmt.Sprintf("%020d", number))) }

// Chunk is the place of a chunk of a large value.
func Chunk(sum Sum) Key { return Key(join(AllChunks, sum.String())) }

// ChunkOf takes a key of [Chunk] apart.
func (k Key) ChunkOf() (sum Sum, ok bool) {
	rest, ok := strings.CutPrefix(string(k), string(AllChunks))
	n, err := hex.Decode(sum[:], []byte(rest[:min(len(rest), 2*len(sum))]))
	return sum, ok && err == nil && n == len(sum) && len(rest) == 2*n
}

// Election is where the leader of something is written.
func Election(name string) Key { return Key(join(layout+"election/", name)) }

// WantedName takes a key of [Wanted] apart.
func (k Key) WantedName() (kind, tenant, name string, ok bool) {
	if p, ok := k.after(AllWanted, 3); ok {
		return p[0], p[1], p[2], true
	}
	return "", "", "", false
}

// StatusOf takes a key of [Status] apart.
func (k Key) StatusOf() (blade, part string, ok bool) {
	if p, ok := k.after(AllStatus, 2); ok {
		return p[0], p[1], true
	}
	return "", "", false
}

// Blade returns the blade whose prefix or status the key belongs to.
func (k Key) Blade() (string, bool) {
	for _, prefix := range []Prefix{AllBlades, AllStatus} {
		if rest, ok := strings.CutPrefix(string(k), string(prefix)); ok {
			first, _, _ := strings.Cut(rest, "/")
			name, err := url.PathUnescape(first)
			return name, err == nil
		}
	}
	return "", false
}

// after returns the n names that follow the prefix.
func (k Key) after(prefix Prefix, n int) ([]string, bool) {
	rest, ok := strings.CutPrefix(string(k), string(prefix))
	names := strings.Split(rest, "/")
	if !ok || len(names) != n {
		return nil, false
	}
	for i, name := range names {
		var err error
		if names[i], err = url.PathUnescape(name); err != nil {
			return nil, false
		}
	}
	return names, true
}
