package store

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// A program may be older than the one that wrote a value: during an upgrade two
// managers of different versions share a store. So a value is never replaced by what
// the older program understands of it. Edit decodes what it knows, lets that be
// changed, and puts back whatever it did not know.
//
// What was unknown is found without knowing types: decode the old text, encode it
// again, and what is missing from the result was unknown. It is grafted onto the new
// text object by object. Lists of objects are matched by "name", which is unique in
// every list of this fabric; an object that is not in the new list was deleted, and
// its unknown fields go with it. Other lists are values: the new one replaces the old.
//
// Users' own documents are decoded strictly, where they come in; this is for what is
// stored already.

// Edit changes a stored JSON document by what T knows of it and keeps the fields that
// T does not know. old may be empty for a new document. The result is deterministic.
func Edit[T any](old []byte, change func(*T) error) ([]byte, error) {
	var v T
	if len(old) > 0 {
		if err := json.Unmarshal(old, &v); err != nil {
			return nil, fmt.Errorf("stored document: %w", err)
		}
	}
	known, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if err := change(&v); err != nil {
		return nil, err
	}
	changed, err := json.Marshal(v)
	if err != nil || len(old) == 0 || bytes.Equal(known, old) { // nothing in it is unknown
		return changed, err
	}
	return graft(changed, old, known), nil
}

// graft returns changed with what old has and known has not. All three are valid
// JSON.
func graft(changed, old, known json.RawMessage) json.RawMessage {
	if into, ok := object(changed); ok {
		return graftObject(changed, into, old, known)
	}
	if into, ok := named(changed); ok {
		return graftList(changed, into, old, known)
	}
	return changed
}

func graftObject(changed json.RawMessage, into map[string]json.RawMessage, old, known json.RawMessage) json.RawMessage {
	was, ok := object(old)
	if !ok {
		return changed
	}
	understood, _ := object(known)
	grafted := false
	for name, value := range was {
		now, present := into[name]
		before, knew := understood[name]
		switch {
		case present:
			into[name] = graft(now, value, before)
			grafted = grafted || !bytes.Equal(into[name], now)
		case !knew:
			into[name] = value
			grafted = true
		}
	}
	if !grafted {
		return changed
	}
	text, _ := json.Marshal(into) // of valid JSON, in the order of names
	return text
}

func graftList(changed json.RawMessage, into []element, old, known json.RawMessage) json.RawMessage {
	was, ok := named(old)
	if !ok {
		return changed
	}
	all, _ := named(known)
	before, understood := byName(was), byName(all)
	list := make([]json.RawMessage, 0, len(into))
	grafted := false
	for _, e := range into {
		text := graft(e.text, before[e.name], understood[e.name])
		grafted = grafted || !bytes.Equal(text, e.text)
		list = append(list, text)
	}
	if !grafted {
		return changed
	}
	text, _ := json.Marshal(list)
	return text
}

// object returns the members of a JSON object.
func object(text json.RawMessage) (map[string]json.RawMessage, bool) {
	var members map[string]json.RawMessage
	err := json.Unmarshal(text, &members)
	return members, err == nil && members != nil
}

// element is an object in a list, by its name.
type element struct {
	name string
	text json.RawMessage
}

// named returns the elements of a JSON list if all are objects with a name.
func named(text json.RawMessage) ([]element, bool) {
	var list []json.RawMessage
	if json.Unmarshal(text, &list) != nil {
		return nil, false
	}
	elements := make([]element, len(list))
	for i, text := range list {
		var e struct{ Name *string }
		if json.Unmarshal(text, &e) != nil || e.Name == nil {
			return nil, false
		}
		elements[i] = element{*e.Name, text}
	}
	return elements, true
}

func byName(list []element) map[string]json.RawMessage {
	out := make(map[string]json.RawMessage, len(list))
	for _, e := range list {
		out[e.name] = e.text
	}
	return out
}
