package store

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// TestDamagedBackups: a backup that is cut or changed anywhere writes nothing.
func TestDamagedBackups(t *testing.T) {
	s := NewMemory()
	if _, err := Init(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	must(t)(s.Txn(t.Context(), nil, []Op{Put(Wanted("p", "default", "a"), []byte("1")), Put(Wanted("p", "default", "b"), []byte("2"))}))
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
		must(t)(s.Txn(t.Context(), nil, []Op{Put(SchemaKey, []byte(`{"version":`+version+`,"store":"x","new":true}`))}))
		_, err := Init(t.Context(), s)
		if fine && err != nil {
			t.Errorf("version %s: %v", version, err)
		}
		if !fine {
			wantFault(t, err, "E_SCHEMA", "the store has version "+version)
		}
	}
	must(t)(s.Txn(t.Context(), nil, []Op{Put(SchemaKey, []byte(`x`))}))
	if _, err := Init(t.Context(), s); err == nil {
		t.Error("a damaged record was taken")
	}
}
