package store

import (
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func readPutDelete(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	_, err := s.Read(ctx, key("a"))
	wantErr(t, err, ErrNotFound)

	first := sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	second := sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), nil), Put(key("b"), []byte("2"))}))
	if second != first+1 {
		t.Errorf("revision %d after %d", second, first)
	}
	a, err := s.Read(ctx, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	if a.Created != first || a.Modified != second || len(a.Value) != 0 || a.Lease != 0 {
		t.Errorf("%+v", a)
	}
	list, at, err := s.List(ctx, prefix)
	if err != nil || at != second {
		t.Fatal(at, err)
	}
	if diff := cmp.Diff(map[Key]string{key("a"): "", key("b"): "2"}, values(list)); diff != "" {
		t.Error(diff)
	}

	if r := sure(t)(s.Txn(ctx, nil, []Op{Delete(key("none")), DeleteAll(prefix + "x")})); r != second {
		t.Errorf("deleting nothing made revision %d of %d", r, second)
	}
	sure(t)(s.Txn(ctx, nil, []Op{Delete(key("a"))}))
	_, err = s.Read(ctx, key("a"))
	wantErr(t, err, ErrNotFound)
	third := sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("3"))}))
	if a, err = s.Read(ctx, key("a")); err != nil || a.Created != third {
		t.Errorf("made anew at %d: %+v, %v", third, a, err)
	}
	sure(t)(s.Txn(ctx, nil, []Op{DeleteAll(prefix)}))
	if list, _, err = s.List(ctx, prefix); err != nil || len(list) != 0 {
		t.Errorf("after all was deleted: %v, %v", list, err)
	}
}

func allOrNothing(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	sure(t)(s.Txn(ctx, []Compare{Absent(key("a")), Absent(key("b"))}, []Op{Put(key("a"), []byte("1"))}))
	_, err := s.Txn(ctx, []Compare{Absent(key("b")), Absent(key("a"))}, []Op{Put(key("b"), []byte("1")), Delete(key("a"))})
	wantErr(t, err, ErrConflict)
	list, _, err := s.List(ctx, prefix)
	if diff := cmp.Diff(map[Key]string{key("a"): "1"}, values(list)); diff != "" || err != nil {
		t.Error(diff, err)
	}
	sure(t)(s.Txn(ctx, nil, nil))

	for _, ops := range [][]Op{
		{Put(key("a"), nil), Put(key("a"), nil)},
		{Put(key("a"), nil), Delete(key("a"))},
		{DeleteAll(prefix), Put(key("a"), nil)},
	} {
		_, err := s.Txn(ctx, nil, ops)
		wantFault(t, err, "E_KEY_TWICE", "")
	}
	sure(t)(s.Txn(ctx, nil, []Op{Delete(key("a")), DeleteAll(prefix)}))
}

func conflictsSayWhy(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	_, key := space(t)
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("a"), []byte("1"))}))
	old, err := s.Read(ctx, key("a"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = s.Txn(ctx, []Compare{Absent(key("a"))}, nil)
	wantFault(t, err, "E_CONFLICT", "it exists already")
	sure(t)(s.Txn(ctx, []Compare{Unchanged(old), CreatedAt(key("a"), old.Created)}, []Op{Put(key("a"), []byte("2"))}))
	_, err = s.Txn(ctx, []Compare{Unchanged(old)}, nil)
	wantFault(t, err, "E_CONFLICT", fmt.Sprintf("changed at revision %d, after revision %d was read", old.Modified+1, old.Modified))
	sure(t)(s.Txn(ctx, []Compare{CreatedAt(key("a"), old.Created)}, []Op{Delete(key("a"))}))
	for _, c := range []Compare{Unchanged(old), CreatedAt(key("a"), old.Created)} {
		_, err = s.Txn(ctx, []Compare{c}, nil)
		wantFault(t, err, "E_CONFLICT", "it was deleted")
	}
	sure(t)(s.Txn(ctx, []Compare{Absent(key("a"))}, []Op{Put(key("a"), []byte("3"))}))
	_, err = s.Txn(ctx, []Compare{CreatedAt(key("a"), old.Created)}, nil)
	wantFault(t, err, "E_CONFLICT", "made anew")
}

func limits(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	prefix, key := space(t)
	var ops []Op
	var compares []Compare
	for i := range MaxOps + 1 {
		ops = append(ops, Put(key(fmt.Sprint(i)), nil))
		compares = append(compares, Absent(key(fmt.Sprint(i))))
	}
	sure(t)(s.Txn(ctx, compares[1:], ops[1:]))
	_, err := s.Txn(ctx, nil, ops)
	wantErr(t, err, ErrTooLarge)
	_, err = s.Txn(ctx, compares, nil)
	wantErr(t, err, ErrTooLarge)
	big := make([]byte, MaxBytes-len(key("big")))
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("big"), big)}))
	_, err = s.Txn(ctx, nil, []Op{Put(key("big"), append(big, 0))})
	wantErr(t, err, ErrTooLarge)
	sure(t)(s.Txn(ctx, nil, []Op{DeleteAll(prefix)}))
}

func manyWriters(t *testing.T, s compactable) {
	ctx := ctxOf(t)
	_, key := space(t)
	sure(t)(s.Txn(ctx, nil, []Op{Put(key("n"), nil)}))
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for done := 0; done < each; {
				now, err := s.Read(ctx, key("n"))
				if err == nil {
					_, err = s.Txn(ctx, []Compare{Unchanged(now)}, []Op{Put(key("n"), append(now.Value, '.'))})
				}
				if err == nil {
					done++
				} else if !errors.Is(err, ErrConflict) {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if now, err := s.Read(ctx, key("n")); err != nil || len(now.Value) != writers*each {
		t.Errorf("%d writes arrived of %d: %v", len(now.Value), writers*each, err)
	}
}
