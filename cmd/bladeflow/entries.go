package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/bladeflow/bladeflow/flow"
)

// entryDoc is the JSON form of an entry; match and action are text of the contract.
type entryDoc struct {
	ID       string `json:"id"`
	Kind     string `json:"kind"`
	Rule     string `json:"rule"`
	Priority uint64 `json:"priority"`
	Match    string `json:"match"`
	Action   string `json:"action"`
}

func (r rules) entryDoc(e *flow.Entry) entryDoc {
	action := "punt"
	if !e.Punt() {
		action = flow.FormatActions(e.Actions, r.Ports())
	}
	return entryDoc{fmt.Sprintf("%016x", uint64(e.ID)), e.Kind.String(), r.nameOf(e.Rule), e.Priority,
		flow.FormatMatch(&e.Match, r.Ports()), action}
}

// readEntries reads what `plan -o json` printed, or its list of entries alone.
func readEntries(file string, b []byte, t rules) ([]flow.Entry, error) {
	docs, err := decodeEntries(b)
	if err != nil {
		return nil, &flow.Fault{Code: "E_ENTRIES", What: file, Why: err.Error(), Remedy: "give it the output of 'bladeflow plan -o json'", Err: err}
	}
	ids := map[string]flow.RuleID{}
	for i := 0; i <= t.Len(); i++ {
		ids[t.name(i)] = t.Rule(i).ID
	}
	entries := make([]flow.Entry, len(docs))
	first := map[flow.EntryID]int{}
	for i, d := range docs {
		if entries[i], err = d.entry(t.Ports(), ids); err != nil {
			return nil, inPlace(fmt.Sprintf("%s: entry %d", file, i+1), err)
		}
		if before, twice := first[entries[i].ID]; twice {
			return nil, &flow.Fault{Code: "E_ENTRIES", What: fmt.Sprintf("%s: entry %d: id %s", file, i+1, d.ID), Why: fmt.Sprintf("entry %d has it, and a device has an ID once", before), Remedy: "leave one out"}
		}
		first[entries[i].ID] = i + 1
	}
	return entries, nil
}

// decodeEntries refuses fields of an entry that it does not know: what it overlooked
// might be what matters.
func decodeEntries(b []byte) ([]entryDoc, error) {
	var doc struct {
		Entries json.RawMessage `json:"entries"`
	}
	if b = bytes.TrimSpace(b); len(b) > 0 && b[0] == '[' {
		doc.Entries = b
	} else if err := json.Unmarshal(b, &doc); err != nil {
		return nil, err
	} else if doc.Entries == nil {
		return nil, errors.New("no list called entries")
	}
	var docs []entryDoc
	d := json.NewDecoder(bytes.NewReader(doc.Entries))
	d.DisallowUnknownFields()
	if err := d.Decode(&docs); err != nil {
		if t, other := errors.AsType[*json.UnmarshalTypeError](err); other {
			return nil, fmt.Errorf("field %s has a %s, as no entry has", t.Field, t.Value)
		}
		return nil, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	if d.Decode(new(any)) != io.EOF {
		return nil, errors.New("something stands after the list")
	}
	return docs, nil
}

// entry is the inverse of rules.entryDoc. A rule that the table does not have gets
// the ID of its name: the checker will say that nothing vouches for it.
func (d *entryDoc) entry(ports *flow.Ports, ids map[string]flow.RuleID) (flow.Entry, error) {
	e := flow.Entry{Priority: d.Priority}
	fault := func(field, why, remedy string) error {
		return &flow.Fault{Code: "E_ENTRIES", What: field, Why: why, Remedy: remedy}
	}
	id, err := strconv.ParseUint(d.ID, 16, 64)
	if err != nil {
		return e, fault("id", "not a number in hexadecimal", "write 16 digits")
	}
	e.ID = flow.EntryID(id)
	kinds := []flow.EntryKind{flow.RuleEntry, flow.GuardEntry, flow.PieceEntry}
	known := false
	for _, k := range kinds {
		if k.String() == d.Kind {
			e.Kind, known = k, true
		}
	}
	if !known {
		return e, fault("kind", fmt.Sprintf("%q is unknown", d.Kind), "use rule, guard or piece")
	}
	if e.Rule, known = ids[d.Rule]; !known {
		set, rule, _ := strings.Cut(d.Rule, "/")
		e.Rule = flow.NewRuleID(set, rule)
	}
	if e.Match, err = flow.ParseMatch(d.Match, ports); err != nil {
		return e, inPlace("match", err)
	}
	if e.Punt() {
		if d.Action != "punt" {
			return e, fault("action", "a guard punts", "write punt, or kind rule")
		}
		return e, nil
	}
	if e.Actions, err = flow.ParseActions(d.Action, ports); err != nil {
		return e, inPlace("action", err)
	}
	return e, nil
}
