package api

import "testing"

func TestSelector(t *testing.T) {
	labels := map[string]string{"tier": "web", "env": "test", "empty": ""}
	for text, want := range map[string]bool{"": true, "tier": true, "!tier": false, "none": false, "!none": true, "tier=web": true, "tier=db": false, "tier!=db": true,
		"tier!=web": false, "none!=x": true, "empty=": true, "empty!=": false, "tier=web,env=test": true, "tier=web,env=live": false, "tier=web,!none": true} {
		s, err := ParseSelector(text)
		if err != nil || s.Selects(labels) != want {
			t.Errorf("%q: %v, %v, want %v", text, s.Selects(labels), err, want)
		}
	}
	for _, text := range []string{",", "=x", "!", "!=x", "a b", "a!b=c", "tier,", "!!a", "a=b=c", "a!=b!c", "a= b"} {
		if s, err := ParseSelector(text); err == nil {
			t.Errorf("%q is %+v", text, s)
		}
	}
}
