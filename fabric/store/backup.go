package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// A backup is the keys and values of one revision, as JSON lines: a head, one line a
// key, a foot with the digest of all before it. It is made and restored through
// [Store], so it moves state between an embedded server and a cluster and between
// versions of etcd, and a person can read it. Left out is what is leased (status,
// elections: blades report again) and users' rights (they follow from the blades'
// names: [Client.Enforce]).
//
// Revisions are the store's own and begin anew. The schema record gets a new identity
// and is written last: a store without one was not restored to the end.

const backupFormat = "bladeflow-backup/v1"

// BackupInfo is the head of a backup.
type BackupInfo struct {
	Format   string    `json:"format"`
	Revision int64     `json:"revision"`
	Keys     int       `json:"keys"`
	Taken    time.Time `json:"taken"`
}

type backupLine struct {
	Key    Key    `json:"key,omitempty"`
	Value  []byte `json:"value,omitempty"`
	SHA256 string `json:"sha256,omitempty"` // only in the foot
}

// Backup writes the store's state at one revision.
func Backup(ctx context.Context, s Store, w io.Writer) (BackupInfo, error) {
	all, revision, err := s.List(ctx, Everything)
	if err != nil {
		return BackupInfo{}, err
	}
	var lasting []KV
	for _, kv := range all {
		if kv.Lease == 0 {
			lasting = append(lasting, kv)
		}
	}
	info := BackupInfo{backupFormat, revision, len(lasting), time.Now().UTC().Truncate(time.Second)}
	sum := sha256.New()
	out := bufio.NewWriter(w)
	lines := json.NewEncoder(io.MultiWriter(out, sum))
	if err := lines.Encode(info); err != nil {
		return info, err
	}
	for _, kv := range lasting {
		if err := lines.Encode(backupLine{Key: kv.Key, Value: kv.Value}); err != nil {
			return info, err
		}
	}
	if err := json.NewEncoder(out).Encode(backupLine{SHA256: hex.EncodeToString(sum.Sum(nil))}); err != nil {
		return info, err
	}
	return info, out.Flush()
}

// Restore fills an empty store from a backup. The backup is read and checked as a
// whole before anything is written.
func Restore(ctx context.Context, s Store, r io.Reader) (BackupInfo, error) {
	info, lines, err := readBackup(r)
	if err != nil {
		return info, err
	}
	there, _, err := s.List(ctx, Everything)
	if err != nil {
		return info, err
	}
	for _, kv := range there {
		if kv.Lease == 0 {
			return info, &flow.Fault{Code: "E_STORE_NOT_EMPTY", What: string(kv.Key), Why: "a backup is restored into an empty store only",
				Remedy: "stop the store, move its directory away and start it again", Err: ErrConflict}
		}
	}
	schema := Schema{Version: SchemaVersion}
	var ops []Op
	for _, l := range lines {
		if l.Key == SchemaKey {
			if err := json.Unmarshal(l.Value, &schema); err != nil {
				return info, damaged(err.Error())
			}
			continue
		}
		ops = append(ops, Put(l.Key, l.Value))
	}
	for _, batch := range Batches(ops) {
		if _, err := s.Txn(ctx, nil, batch); err != nil {
			return info, err
		}
	}
	_, err = initSchema(ctx, s, schema.Version)
	return info, err
}

// readBackup returns a backup's head and keys, if it is whole.
func readBackup(r io.Reader) (info BackupInfo, keys []backupLine, err error) {
	in := &digester{lines: bufio.NewReader(r), sum: sha256.New()}
	if err := in.line(&info); err != nil {
		return info, nil, err
	}
	if info.Format != backupFormat {
		return info, nil, damaged(fmt.Sprintf("its format is %q, not %q", info.Format, backupFormat))
	}
	for {
		before := hex.EncodeToString(in.sum.Sum(nil))
		var l backupLine
		if err := in.line(&l); err != nil {
			return info, nil, err
		}
		if l.SHA256 != "" {
			if l.SHA256 != before || len(keys) != info.Keys {
				return info, nil, damaged("its digest is wrong")
			}
			return info, keys, nil
		}
		keys = append(keys, l)
	}
}

// digester reads JSON lines and digests them as they are.
type digester struct {
	lines *bufio.Reader
	sum   hash.Hash
}

func (d *digester) line(v any) error {
	text, err := d.lines.ReadBytes('\n')
	if err == io.EOF {
		return damaged("its end is missing")
	}
	if err != nil {
		return err
	}
	d.sum.Write(text)
	if err := json.Unmarshal(text, v); err != nil {
		return damaged(err.Error())
	}
	return nil
}

func damaged(why string) error {
	return &flow.Fault{Code: "E_BACKUP", What: "backup", Why: why, Remedy: "use another backup; nothing was written"}
}
