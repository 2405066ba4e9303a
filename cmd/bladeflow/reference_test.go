package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/pki"
)

// TestReference runs the commands of docs/cli.md, in order, against a manager with two
// blades, but for restore, which has a script of its own.
func TestReference(t *testing.T) {
	doc := readDocument(string(sure(os.ReadFile(filepath.Join("..", "..", "docs", "cli.md")))))
	dir := t.TempDir()
	for name, text := range doc.files {
		write(t, dir, name, text)
	}
	certificates := filepath.Join(dir, "pki")
	if _, err := pki.Init(certificates, pki.Options{Blades: []string{"b1", "b2"}, Users: []pki.User{{Name: "ann", Role: pki.Admin}}}); err != nil {
		t.Fatal(err)
	}
	config := write(t, dir, "manager.yaml", fmt.Sprintf(managerConfig, unusedAddress(t), unusedAddress(t)))
	m, url, err := startManager(config)
	if err != nil {
		t.Fatal(err)
	}
	defer m.stop()
	for _, name := range []string{"b1", "b2"} {
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan error, 1)
		p := &puppet{blade: name, vfs: map[api.VFID]api.VFState{}}
		go func() { done <- p.run(ctx, certificates, m.store, 4) }()
		defer func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("blade %s: %v", name, err)
			}
		}()
	}
	ran := 0
	for _, line := range doc.commands {
		if strings.Contains(line, " restore ") {
			continue
		}
		ran++
		cmd := exec.Command("bash", "-c", line)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "BLADEFLOW_SERVER="+url, "BLADEFLOW_PKI="+certificates, "BLADEFLOW_AS=ann")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	if ran < 20 {
		t.Errorf("only %d commands were found and run", ran)
	}
}
