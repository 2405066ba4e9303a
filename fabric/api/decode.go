package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/bladeflow/bladeflow/flow"
)

// Decode reads a user's document into v strictly: a field that v does not have, one
// that is there twice, and anything behind the document is a *[flow.Fault] that names
// the field by its path. Names are matched letter by letter.
func Decode(data []byte, v any) error {
	w := walker{dec: json.NewDecoder(bytes.NewReader(data))}
	if err := w.value(reflect.TypeOf(v), ""); err != nil {
		return decodeFault(err)
	}
	if w.dec.More() {
		return &flow.Fault{Code: "E_JSON", What: "document", Why: "something follows it", Remedy: "send one JSON object"}
	}
	if err := json.Unmarshal(data, v); err != nil {
		return decodeFault(err)
	}
	return nil
}

func decodeFault(err error) error {
	if f, ok := errors.AsType[*flow.Fault](err); ok {
		return f
	}
	if t, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return &flow.Fault{Code: "E_TYPE", What: "field " + t.Field, Why: fmt.Sprintf("it is a %s and must be a %s", t.Value, word(t.Type)), Remedy: "see /openapi.json", Err: err}
	}
	return &flow.Fault{Code: "E_JSON", What: "document", Why: strings.TrimPrefix(err.Error(), "json: "), Remedy: "send one JSON object", Err: err}
}

// word is JSON's word for a Go type.
func word(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice, reflect.Array:
		return "list"
	case reflect.Struct, reflect.Map:
		return "object"
	}
	return "number that fits (" + t.String() + ")"
}

// walker reads a document along a type and refuses what encoding/json lets pass.
type walker struct{ dec *json.Decoder }

// value reads one value. t is nil where anything is allowed.
func (w *walker) value(t reflect.Type, path string) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	tok, err := w.dec.Token()
	if err != nil {
		return err
	}
	switch tok {
	case json.Delim('{'):
		return w.object(t, path)
	case json.Delim('['):
		var of reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			of = t.Elem()
		}
		for i := 0; w.dec.More(); i++ {
			if err := w.value(of, fmt.Sprintf("%s[%d]", path, i)); err != nil {
				return err
			}
		}
		_, err = w.dec.Token()
		return err
	}
	return nil
}

func (w *walker) object(t reflect.Type, path string) error {
	var known map[string]reflect.Type // nil if every name is allowed
	var of reflect.Type               // of what they name
	switch {
	case t == nil || t == reflect.TypeFor[time.Time]():
	case t.Kind() == reflect.Struct:
		known = fields(t)
	case t.Kind() == reflect.Map:
		of = t.Elem()
	}
	seen := map[string]bool{}
	for w.dec.More() {
		tok, err := w.dec.Token()
		if err != nil {
			return err
		}
		name := tok.(string) // between braces there is nothing else
		at := strings.TrimPrefix(path+"."+name, ".")
		ft, ok := known[name]
		switch {
		case known != nil && !ok:
			return &flow.Fault{Code: "E_FIELD_UNKNOWN", What: "field " + at, Why: "there is no such field",
				Remedy: flow.Suggest(name, slices.Sorted(maps.Keys(known))...)}
		case seen[name]:
			return &flow.Fault{Code: "E_FIELD_TWICE", What: "field " + at, Why: "it is there twice", Remedy: "leave one out"}
		case known == nil:
			ft = of
		}
		seen[name] = true
		if err := w.value(ft, at); err != nil {
			return err
		}
	}
	_, err := w.dec.Token()
	return err
}

// fields returns the JSON names of a struct's fields, embedded ones' too.
func fields(t reflect.Type) map[string]reflect.Type {
	out := map[string]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(out, fields(f.Type))
		case name != "-" && f.IsExported():
			out[name] = f.Type
		}
	}
	return out
}
