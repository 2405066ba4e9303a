package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/hwtests"
	"github.com/bladeflow/bladeflow/hwtests/lab"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// needsLab skips a test where a lab cannot work, or fails it where BLADEFLOW_MUST says
// that it can.
func needsLab(t *testing.T) {
	t.Helper()
	doctor := lab.Doctor(t.Context())
	for _, f := range []string{lab.FeatureVeth, lab.FeatureXDP, lab.FeatureAFXDP} {
		must.Have(t, f, doctor.Err(f))
	}
}

// TestDemoCommand holds what the demo prints and how it ends against the contract: 0
// for a card that tells the truth, 1 for one that ignores a bit of its masks.
func TestDemoCommand(t *testing.T) {
	needsLab(t)
	stdout, stderr, err := invoke("", "demo", "--duration", "1s", "--rate", "10000", "-o", "json")
	if err != nil {
		t.Fatalf("%v: %s", err, stderr)
	}
	var doc struct {
		Packets    struct{ Sent, Hardware, Software int }
		Mismatches *int
		Rules      struct{ Hardware, Software int }
		Proved     bool
		Fabric     hwtests.FabricReport
	}
	if err := json.Unmarshal([]byte(stdout), &doc); err != nil {
		t.Fatal(err)
	}
	p := doc.Packets
	if doc.Mismatches == nil || *doc.Mismatches != 0 || !doc.Proved || p.Hardware+p.Software != p.Sent || 5*p.Hardware < p.Sent || 5*p.Software < p.Sent ||
		doc.Rules.Hardware == 0 || doc.Rules.Software == 0 {
		t.Errorf("%s", stdout)
	}
	if f := doc.Fabric; !f.OK() || len(f.Inventory) != 2 || f.Inventory[1].VFs != 4 || f.Create.Seconds <= 0 || f.Move.Seconds <= 0 || f.Move.Interruption <= 0 ||
		f.Revert.To != f.Create.Blade || len(f.Capacity) < 4 {
		t.Errorf("fabric: %s", stdout)
	}
	if !strings.Contains(stderr, "healed") {
		t.Errorf("no word about progress: %s", stderr)
	}

	stdout, stderr, err = invoke("", "demo", "--duration", "1s", "--rate", "10000", "--blind", "dst_port/2")
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(stdout, "NOT RIGHT: ") || !strings.HasSuffix(stderr, "[E_MISMATCH]\n") {
		t.Errorf("a card that lies: %v\n%s\n%s", err, stdout, stderr)
	}
}

// locked is a buffer that is read while it is written.
type locked struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *locked) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestDemoInterrupted presses Ctrl-C while packets flow, and closes the terminal: one
// line says so, and nothing is left.
func TestDemoInterrupted(t *testing.T) {
	needsLab(t)
	for _, with := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP} {
		t.Run(with.String(), func(t *testing.T) { testDemoInterrupted(t, with) })
	}
}

func testDemoInterrupted(t *testing.T, with syscall.Signal) {
	if signal.Ignored(with) { // as under nohup; children inherit it, and a program leaves it so
		must.Have(t, "signals", errors.New("the signal is ignored here"))
	}
	var stdout, stderr locked
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"bladeflow", "demo", "--duration", "1m"}, Stdout: &stdout, Stderr: &stderr}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it is gone
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(stderr.String(), "sending"); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no packets: %s", stderr.String())
		}
	}
	if err := cmd.Process.Signal(with); err != nil {
		t.Fatal(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitInterrupted || !strings.HasSuffix(stderr.String(), "[E_INTERRUPTED]\n") {
		t.Errorf("%v: %s", err, stderr.String())
	}
	if stdout.String() != "" {
		t.Errorf("standard output: %s", stdout.String())
	}
	nothingLeft(t, cmd.Process.Pid)
}

// TestDemoHold opens the page of a demo that is held, and has it end.
func TestDemoHold(t *testing.T) {
	needsLab(t)
	var stdout, stderr locked
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"bladeflow", "demo", "--duration", "500ms", "--hold"}, Stdout: &stdout, Stderr: &stderr}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it is gone
	page := ""
	for deadline := time.Now().Add(60 * time.Second); page == ""; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no page: %s", stderr.String())
		}
		page = regexp.MustCompile(`open (http://127\.0\.0\.1:\d+/)`).FindString(stderr.String())
	}
	page = strings.TrimPrefix(page, "open ")
	resp, err := http.Get(page)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(text), "b2") || !strings.Contains(string(text), "shop/eth0") {
		t.Errorf("the page: %v %s\n%.2000s", err, resp.Status, text)
	}
	if out, said, err := invoke("", "get", "profile", "shop", "-o", "json", "--server", strings.TrimSuffix(page, "/")); err != nil || !strings.Contains(out, `"active"`) {
		t.Errorf("get profile: %v %s %s", err, out, said)
	}
	if err := cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("it was held and told to end: %v\n%s", err, stderr.String())
	}
	nothingLeft(t, cmd.Process.Pid)
}

// TestDemoUnread stops reading what the demo says, as `| head -1` does.
func TestDemoUnread(t *testing.T) {
	needsLab(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: []string{"bladeflow", "demo", "--duration", "2s"}, Stdout: w, Stderr: w}
	err = cmd.Start()
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // an error says that it is gone
	if _, err := r.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	r.Close()
	if err := cmd.Wait(); err == nil {
		t.Error("it ended well, although nobody saw")
	}
	nothingLeft(t, cmd.Process.Pid)
}

// nothingLeft checks that the labs of a process are gone.
func nothingLeft(t *testing.T, pid int) {
	t.Helper()
	for _, dir := range []string{"/run/netns", "/run/bladeflow-lab"} {
		left, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, f := range left {
			if strings.HasPrefix(f.Name(), fmt.Sprintf("bf%d-", pid)) {
				t.Errorf("%s/%s is left", dir, f.Name())
			}
		}
	}
}

// TestProgress waits for what a command says of itself while it takes long.
func TestProgress(t *testing.T) {
	var w locked
	p := newProgress(&w)
	cmd := &cobra.Command{RunE: func(cmd *cobra.Command, _ []string) error {
		time.Sleep(1100 * time.Millisecond) // it has said nothing: nothing to repeat
		if w.String() != "" {
			t.Errorf("without a word: %q", w.String())
		}
		doing(cmd, "counting to %d", 3)
		time.Sleep(time.Second)
		return nil
	}}
	if err := cmd.ExecuteContext(contextWith(p)); err != nil {
		t.Fatal(err)
	}
	p.stop()
	if w.String() != "2 s: counting to 3\n" {
		t.Errorf("%q", w.String())
	}
}
