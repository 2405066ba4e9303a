package client

import (
	"strings"
	"testing"
)

func TestCapacityInput(t *testing.T) {
	r := newRig(t)
	text, err := r.as(r.dir, "vic").CapacityInput(t.Context(), 7)
	if err != nil || !strings.Contains(string(text), "kind: CapacityInput") || !strings.Contains(string(text), "window: 7") {
		t.Errorf("%s %v", text, err)
	}
	_, err = r.as(r.dir, "vic").CapacityInput(t.Context(), 2000)
	if err != nil { // the report refuses it, not the manager
		t.Error(err)
	}
}
