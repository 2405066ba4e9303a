package store

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/bladeflow/bladeflow/flow"
)

// SchemaVersion is the version of keys and values that this program writes. It reads
// the one before and the one after, so that a fabric can be upgraded one program at
// a time, in any order.
const SchemaVersion = 1

// Schema is the record at [SchemaKey].
type Schema struct {
	Version int `json:"version"`

	// Store is the identity of this store, made at random. It changes when a
	// backup is restored: revisions remembered from before mean nothing then.
	Store string `json:"store"`
}

// Init makes the schema record if the store is new, and checks it.
func Init(ctx context.Context, s Store) (Schema, error) { return initSchema(ctx, s, SchemaVersion) }

func initSchema(ctx context.Context, s Store, version int) (Schema, error) {
	text, err := json.Marshal(Schema{Version: version, Store: rand.Text()})
	if err != nil {
		return Schema{}, err
	}
	_, err = s.Txn(ctx, []Compare{Absent(SchemaKey)}, []Op{Put(SchemaKey, text)})
	full := errors.Is(err, ErrNoSpace) // then etcd does not look whether there would be anything to write
	if err != nil && !errors.Is(err, ErrConflict) && !full {
		return Schema{}, err
	}
	schema, missing := ReadSchema(ctx, s)
	if full && errors.Is(missing, ErrNotFound) {
		return Schema{}, err
	}
	return schema, missing
}

// ReadSchema returns the schema record, or a fault if this program cannot work with
// it: ErrNotFound if no manager has made one yet.
func ReadSchema(ctx context.Context, s Store) (Schema, error) {
	kv, err := s.Read(ctx, SchemaKey)
	if err != nil {
		return Schema{}, err
	}
	var schema Schema
	if err := json.Unmarshal(kv.Value, &schema); err != nil {
		return Schema{}, fmt.Errorf("%s: %w", SchemaKey, err)
	}
	if d := schema.Version - SchemaVersion; d < -1 || d > 1 {
		return Schema{}, &flow.Fault{Code: "E_SCHEMA", What: string(SchemaKey),
			Why:    fmt.Sprintf("the store has version %d, this program works with %d to %d", schema.Version, SchemaVersion-1, SchemaVersion+1),
			Remedy: "upgrade the older one of the two, one version at a time"}
	}
	return schema, nil
}
