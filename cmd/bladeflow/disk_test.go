package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestDiskFull: the disk under a manager's store is full to the last byte. Changes are
// refused with the reason, what is read goes on, and changes do when there is room.
func TestDiskFull(t *testing.T) {
	if os.Geteuid() != 0 {
		must.Have(t, "root", errors.New("mounting a small disk is root's"))
	}
	dir := t.TempDir()
	certificates, disk := filepath.Join(dir, "pki"), filepath.Join(dir, "store")
	if _, err := pki.Init(certificates, pki.Options{Users: []pki.User{{Name: "ann", Role: pki.Admin}}}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(disk, 0o700); err != nil {
		t.Fatal(err)
	}
	config := write(t, dir, "manager.yaml", fmt.Sprintf(managerConfig, unusedAddress(t), unusedAddress(t)))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Who has the disk mounted is a process of its own, so that managers come and go.
	holder := exec.Command("bash", "-c", `mount --make-rprivate / && mount -t tmpfs -o size=400m none "$1" && echo mounted && exec sleep infinity`, "bash", disk)
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	said, err := holder.StdoutPipe()
	if err == nil {
		err = holder.Start()
	}
	if errors.Is(err, syscall.EPERM) { // root of a container that may not mount
		must.Have(t, "root", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // killed
	}()
	if _, err := said.Read(make([]byte, 8)); err != nil {
		t.Fatalf("the small disk cannot be mounted: %v", err)
	}
	pid := fmt.Sprint(holder.Process.Pid)
	run := func() (*managed, string) {
		t.Helper()
		cmd := exec.Command("nsenter", "-m", "-t", pid, "bash", "-c", `exec -a bladeflow "$1" manager --config "$2" --drop-privileges`, "bash", self, config)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		m, url, err := serving(cmd)
		if err != nil {
			t.Fatal(err)
		}
		return m, url
	}
	m, url := run()
	defer func() {
		if err := m.stop(); err != nil {
			t.Error(err)
		}
	}()
	ask := func(stdin string, args ...string) (stdout, stderr string, err error) {
		return invoke(stdin, append(args, "--server", url, "--pki", certificates, "--as", "ann")...)
	}
	vlan := 0
	network := func(name string) (stderr string, err error) {
		vlan++
		_, stderr, err = ask(fmt.Sprintf("{apiVersion: bladeflow/v1, kind: Network, metadata: {name: %s}, spec: {vlan: %d}}", name, vlan), "apply", "-f", "-")
		return stderr, err
	}
	until := func(what string, holds func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !holds(); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("it never came to %s", what)
			}
		}
	}
	until("a change", func() bool { _, err := network("front"); return err == nil })
	fill := filepath.Join("/proc", pid, "root", disk, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		if _, err := f.Write(block); err != nil {
			block = block[:len(block)/2]
		}
	}
	tries := 0
	until("a refusal", func() bool {
		tries++
		stderr, err := network(fmt.Sprint("n", tries))
		if err == nil {
			return false
		}
		if why := wrongFault(err, "", stderr, "1", "E_NO_SPACE"); why != "" || !strings.Contains(stderr, "make room on its disk") {
			t.Fatalf("%s\n%s", why, stderr)
		}
		return true
	})
	reads := func(when string) {
		t.Helper()
		for _, line := range []string{"get networks", "describe network front", "top --once", "get events", "report capacity"} {
			if stdout, stderr, err := ask("", strings.Fields(line)...); err != nil || stdout == "" {
				t.Errorf("%s %s: %v %s", line, when, err, stderr)
			}
		}
	}
	reads("with a full disk")
	if err := m.stop(); err != nil {
		t.Error(err)
	}
	m, url = run()
	until("an answer", func() bool { _, _, err := ask("", "get", "networks"); return err == nil })
	reads("of a manager that started with a full disk")
	if stderr, err := network("none"); err == nil || !strings.Contains(stderr, "E_NO_SPACE") {
		t.Errorf("a change then: %v %s", err, stderr)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	f.Close()
	until("a change, with room again", func() bool { _, err := network("back"); return err == nil })
	if stdout, _, err := ask("", "get", "networks", "-o", "name"); err != nil || !strings.Contains(stdout, "front") || !strings.Contains(stdout, "back") {
		t.Errorf("%q, %v", stdout, err)
	}
}
