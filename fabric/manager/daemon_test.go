package manager

import "testing"

// TestNear: a store that listens everywhere is reached by an address that certificates name.
func TestNear(t *testing.T) {
	for endpoint, want := range map[string]string{
		"https://[::]:2379":       "https://127.0.0.1:2379",
		"https://0.0.0.0:2379":    "https://127.0.0.1:2379",
		"https://10.0.0.1:2379":   "https://10.0.0.1:2379",
		"http://127.0.0.1:1":      "http://127.0.0.1:1",
		"https://fabric.example:": "https://fabric.example:",
	} {
		if got := near(endpoint); got != want {
			t.Errorf("near(%s) is %s, not %s", endpoint, got, want)
		}
	}
}
