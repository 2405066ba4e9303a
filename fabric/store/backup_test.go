package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestDamagedBackups: a backup that is cut or changed anywhere writes nothing.
func TestDamagedBackups(t *testing.T) {
	s := NewMemory()
	if _, err := Init(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	sure(t)(s.Txn(t.Context(), nil, []Op{Put(Wanted("p", "default", "a"), []byte("1")), Put(Wanted("p", "default", "b"), []byte("2"))}))
	var file bytes.Buffer
	if _, err := Backup(t.Context(), s, &file); err != nil {
		t.Fatal(err)
	}
	whole := file.Bytes()
	try := func(text []byte) error {
		empty := NewMemory()
		_, err := Restore(t.Context(), empty, bytes.NewReader(text))
		if err != nil && empty.revision != 1 {
			t.Errorf("%v, and yet something was written", err)
		}
		return err
	}
	if err := try(whole); err != nil {
		t.Fatal(err)
	}
	for n := range whole {
		if err := try(whole[:n]); err == nil {
			t.Errorf("cut after %d of %d bytes: taken", n, len(whole))
		}
		changed := bytes.Clone(whole)
		changed[n] ^= 1
		if err := try(changed); err == nil {
			t.Errorf("byte %d of %d changed to %q: taken", n, len(whole), changed[n])
		}
	}
	lines := strings.SplitAfter(string(whole), "\n")
	wantFault(t, try([]byte(lines[0]+lines[2]+strings.Join(lines[3:], ""))), "E_BACKUP", "digest")
	broken := errors.New("disk")
	_, err := Restore(t.Context(), NewMemory(), io.MultiReader(strings.NewReader(lines[0]), iotest.ErrReader(broken)))
	wantErr(t, err, broken)
}

func TestSchema(t *testing.T) {
	s := NewMemory()
	_, err := ReadSchema(t.Context(), s)
	wantErr(t, err, ErrNotFound)
	first, err := Init(t.Context(), s)
	if err != nil || first.Version != SchemaVersion || first.Store == "" {
		t.Fatal(first, err)
	}
	if again, err := Init(t.Context(), s); err != nil || again != first {
		t.Errorf("%+v, then %+v, %v", first, again, err)
	}
	for version, fine := range map[string]bool{"-1": false, "0": true, "1": true, "2": true, "3": false} {
		sure(t)(s.Txn(t.Context(), nil, []Op{Put(SchemaKey, []byte(`{"version":`+version+`,"store":"x","new":true}`))}))
		_, err := Init(t.Context(), s)
		if fine && err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		if !fine {
			wantFault(t, err, "E_SCHEMA", "the store has version "+version)
		}
	}
	sure(t)(s.Txn(t.Context(), nil, []Op{Put(SchemaKey, []byte(`x`))}))
	if _, err := Init(t.Context(), s); err == nil {
		t.Error("a damaged record was taken")
	}
}

func backupRestore(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	before, err := Init(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	_, key := space(t)
	lease, err := s.Lease(ctx, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	sure(t)(s.Txn(ctx, nil, []Op{PutLeased(Status("b1", "agent"), []byte("seen"), lease)}))
	for i := range 300 {
		sure(t)(s.Txn(ctx, nil, []Op{Put(key(fmt.Sprint(i)), fmt.Append(nil, "value\n", i, "\x00\xff"))}))
	}
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("big"), make([]byte, 900_000))}))
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("big2"), make([]byte, 900_000))}))

	var file strings.Builder
	info, err := Backup(ctx, s, &file)
	if err != nil || info.Keys < 303 {
		t.Fatal(info, err)
	}
	want, _, err := s.List(ctx, Everything)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Restore(ctx, s, strings.NewReader(file.String()))
	wantFault(t, err, "E_STORE_NOT_EMPTY", "")

	sure(t)(s.Txn(ctx, nil, []Op{DeleteAll(Everything)}))
	if err := lease.Revoke(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := Restore(ctx, s, strings.NewReader(file.String())); err != nil {
		t.Fatal(err)
	}
	got, _, err := s.List(ctx, Everything)
	if err != nil {
		t.Fatal(err)
	}
	wanted, found := values(want), values(got)
	for _, kv := range want {
		if kv.Lease != 0 {
			delete(wanted, kv.Key)
		}
	}
	delete(wanted, SchemaKey)
	delete(found, SchemaKey)
	if diff := cmp.Diff(wanted, found); diff != "" {
		t.Error(diff)
	}
	after, err := ReadSchema(ctx, s)
	if err != nil || after.Version != before.Version || after.Store == before.Store {
		t.Errorf("schema %+v, then %+v, %v", before, after, err)
	}
}
