package flowtest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Seed returns a fresh seed, or that of BLADEFLOW_SEED, and prints it if t fails.
func Seed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv("BLADEFLOW_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("BLADEFLOW_SEED: %v", err)
		}
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("BLADEFLOW_SEED=%d", seed)
		}
	})
	return seed
}

// Record writes what a long run found to docs/results/NAME.json: the commit, the
// machine, the seed, how long it took, and figures. What is there already is replaced.
func Record(t testing.TB, name string, seed uint64, began time.Time, figures any) {
	t.Helper()
	root, err := os.Getwd()
	for err == nil {
		if _, no := os.Stat(filepath.Join(root, "go.mod")); no == nil {
			break
		}
		if root == filepath.Dir(root) {
			t.Fatal("no go.mod above this folder")
		}
		root = filepath.Dir(root)
	}
	if err != nil {
		t.Fatal(err)
	}
	commit, err := exec.Command("git", "-C", root, "rev-parse", "HEAD").Output()
	if err != nil {
		t.Fatal(err)
	}
	cpu, _ := os.ReadFile("/proc/cpuinfo") // without it the machine has no name
	_, model, _ := strings.Cut(string(cpu), "model name\t: ")
	model, _, _ = strings.Cut(model, "\n")
	text, err := json.MarshalIndent(map[string]any{
		"commit":  strings.TrimSpace(string(commit)),
		"machine": fmt.Sprintf("%d × %s, %s/%s, %s", runtime.NumCPU(), model, runtime.GOOS, runtime.GOARCH, runtime.Version()),
		"seed":    fmt.Sprint(seed),
		"seconds": int(time.Since(began).Seconds()),
		"passed":  !t.Failed(),
		"figures": figures,
	}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(root, "docs", "results")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".json"), append(text, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Count returns the number that an environment variable asks for, or least.
func Count(t testing.TB, variable string, least int) int {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return least
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
