package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/hwtests/must"
)

// TestMain is the test binary of TestMachine or an agent of TestCardAgentKills, if it is told
// what to do.
func TestMain(m *testing.M) {
	switch does := os.Getenv("BLADEFLOW_GUEST"); does {
	case "":
		os.Exit(m.Run())
	case "agent":
		os.Exit(mortal())
	case "hang":
		fmt.Println("hello")
		select {}
	default:
		code, err := strconv.Atoi(does)
		here, _ := os.ReadDir(".") // none of it is missed below
		fmt.Println("hello", err, os.Getuid(), os.Args[1:], len(here) > 0)
		os.Exit(code)
	}
}

// machine builds the runner and returns a command that lets this test binary do something
// in a machine. It skips the test where none was asked for.
func machine(t *testing.T, does string, args ...string) *exec.Cmd {
	t.Helper()
	if !must.Named("vm") {
		must.Have(t, "vm", errors.New("`make long-vm` runs it"))
	}
	cache, err := cacheDir()
	if err == nil {
		_, err = ready(cache)
	}
	must.Have(t, "vm", err)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	runner := filepath.Join(t.TempDir(), "vm")
	if out, err := exec.Command("go", "build", "-o", runner, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command(runner, append([]string{self}, args...)...)
	cmd.Env = append(os.Environ(), "BLADEFLOW_GUEST="+does)
	return cmd
}

// TestMachine boots a machine whose test fails: its output, its exit code and the kernel's
// log arrive, and it had its arguments, root and the package's folder.
func TestMachine(t *testing.T) {
	cmd := machine(t, "42", "-test.v", "a b")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 42 {
		t.Errorf("%v, want exit code 42: %s%s", err, out, errs.String())
	}
	if want := "hello <nil> 0 [-test.v a b] true\n"; !strings.HasPrefix(string(out), want) {
		t.Errorf("output %q, want %q", out, want)
	}
	if !strings.Contains(errs.String(), "VFs allocated") {
		t.Errorf("the kernel's log is missing: %s", errs.String())
	}
}

// TestStop ends a runner whose test hangs: the machine ends with it.
func TestStop(t *testing.T) {
	cmd := machine(t, "hang")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	hello := make([]byte, 5)
	if n, err := out.Read(hello); err != nil || string(hello[:n]) != "hello" {
		t.Errorf("%q, %v", hello[:n], err)
	}
	machine := childOf(cmd.Process.Pid)
	if machine == "" {
		t.Error("no process of the machine was found")
	}
	if err := cmd.Process.Signal(unix.SIGQUIT); err != nil { // as go test does
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != exitTimeout {
		t.Errorf("%v, want exit code %d", err, exitTimeout)
	}
	if _, err := os.Stat(machine); err == nil {
		t.Errorf("%s is still there", machine)
	}
}

// TestUsage prints help, and refuses what is none of it without looking for a machine.
func TestUsage(t *testing.T) {
	t.Setenv("BLADEFLOW_VM", t.TempDir())
	check := func(want int, args ...string) {
		t.Helper()
		if code := command(t.Context(), args); code != want {
			t.Errorf("%q: %d, want %d", args, code, want)
		}
	}
	check(exitUsage)
	check(exitUsage, "--helpp")
	for _, word := range []string{"-h", "--help", "help"} {
		check(0, word)
	}
	check(exitMissing, "kernel") // none is prepared
	check(exitMissing, "test", "./...")
	for _, code := range []int{exitFailure, exitUsage, exitMissing, exitTimeout, exitNoVerdict, exitMost} {
		if !strings.Contains(usage, strconv.Itoa(code)) {
			t.Errorf("help says nothing of exit code %d", code)
		}
	}
	check(0, "test", "-h")
	check(exitUsage, "test")
	check(exitUsage, "test", "-nothing", ".")
	if code := runTests(t.Context(), bed{}, &testRun{packages: []string{"./no/such/package"}}); code != exitFailure {
		t.Errorf("what does not build: %d", code)
	}
}

// childOf returns the folder in /proc of a process whose parent is pid.
func childOf(pid int) string {
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return ""
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it is gone
		}
		_, rest, _ := strings.Cut(string(text), ") ") // a name may hold anything but that
		if f := strings.Fields(rest); len(f) > 1 && f[1] == strconv.Itoa(pid) {
			return filepath.Dir(file)
		}
	}
	return ""
}

// TestPrepared is loud where there is no machine, and fails where there has to be one.
func TestPrepared(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(named string, want int) {
		t.Helper()
		t.Setenv("BLADEFLOW_MUST", named)
		if code := prepared(t.Context(), filepath.Join(file, "cache"), nil); code != want {
			t.Errorf("BLADEFLOW_MUST=%s: %d, want %d", named, code, want)
		}
	}
	check("", exitMissing)
	check("veth,vmware", exitMissing)
	check("veth,vm", exitFailure)
}

// TestTake waits for a lock no longer than it may.
func TestTake(t *testing.T) {
	file := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		f, err := os.Create(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	held := open()
	if err := take(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := take(over, open()); !errors.Is(err, context.Canceled) {
		t.Errorf("taken twice: %v", err)
	}
	held.Close()
	if err := take(over, open()); err != nil {
		t.Errorf("not taken when it was free: %v", err)
	}
}

// TestStore reads back what was stored, and takes it for nothing when the kernel is gone,
// or the modules are made of another source.
func TestStore(t *testing.T) {
	cache := t.TempDir()
	b := bed{Kernel: "6.12-amd64", Root: filepath.Join(cache, "6.12"), Accel: "tcg"}
	if err := store(cache, b); err != nil {
		t.Fatal(err)
	}
	if _, err := load(cache); err == nil {
		t.Error("loaded without a kernel")
	}
	if err := errors.Join(os.MkdirAll(filepath.Dir(kernelFile(b)), 0o755), os.WriteFile(kernelFile(b), nil, 0o644)); err != nil {
		t.Fatal(err)
	}
	if have, err := load(cache); err != nil || have != b {
		t.Errorf("%+v, %v", have, err)
	}
	if _, err := ready(cache); err == nil {
		t.Error("ready with modules of another source")
	}
	b.Source = sourceDigest()
	if err := store(cache, b); err != nil {
		t.Fatal(err)
	}
	if have, err := ready(cache); err != nil || have != b {
		t.Errorf("%+v, %v", have, err)
	}
}

// TestArchive reads an archive with a reader of its own.
func TestArchive(t *testing.T) {
	var a archive
	a.file("/bin/tc", modeExec, []byte("first"))
	a.file("bin/../bin/tc", modeExec, []byte("second"))
	a.file("lib/x/y", modeFile, nil)
	a.dir("bin")
	var got []string
	for b := a.end(); len(b) > 0; {
		field := func(i int) int {
			n, err := strconv.ParseUint(string(b[6+8*i:14+8*i]), 16, 32)
			if err != nil {
				t.Fatal(err)
			}
			return int(n)
		}
		if string(b[:6]) != "070701" {
			t.Fatalf("magic %q after %v", b[:6], got)
		}
		mode, size, name := field(1), field(6), field(11)
		data := (110 + name + 3) &^ 3
		got = append(got, fmt.Sprintf("%o %s %s", mode, b[110:110+name-1], b[data:data+size]))
		b = b[(data+size+3)&^3:]
	}
	want := []string{"40755 bin ", "100755 bin/tc first", "40755 lib ", "40755 lib/x ", "100644 lib/x/y ", "0 TRAILER!!! "}
	if !slices.Equal(got, want) {
		t.Errorf("have %q\nwant %q", got, want)
	}
}

// TestVerdict tells how a machine's test ended from how QEMU did.
func TestVerdict(t *testing.T) {
	check := func(exit string, want int, ok bool) {
		t.Helper()
		code, err := verdict(exec.Command("sh", "-c", exit).Run(), "words")
		if code != want || (err == nil) != ok {
			t.Errorf("%s: %d, %v", exit, code, err)
		}
	}
	check("exit 3", 0, true) // 2*1+1
	check("exit 5", 1, true) // 2*2+1
	check("exit 255", 126, true)
	check("exit 0", 0, false) // it was powered off
	check("exit 1", 0, false) // QEMU's own failure
	check("exit 2", 0, false)
	check("kill -9 $$", 0, false)
	if _, err := verdict(exec.Command("sh", "-c", "kill -9 $$").Run(), "words"); !errors.Is(err, errDied) || !strings.Contains(err.Error(), "words") {
		t.Errorf("killed: %v", err)
	}
	if _, err := verdict(exec.Command("sh", "-c", "exit 1").Run(), "words"); errors.Is(err, errDied) {
		t.Errorf("ended: %v", err)
	}
}

// TestTimeLimit is a little beyond the test's own.
func TestTimeLimit(t *testing.T) {
	check := func(want time.Duration, args ...string) {
		t.Helper()
		if have := timeLimit(args); have != want {
			t.Errorf("%q: %v, want %v", args, have, want)
		}
	}
	check(longest)
	check(longest, "-test.v", "-test.timeout=0s")
	check(longest, "-test.timeout=soon")
	check(6*time.Minute, "-test.run=X", "-test.timeout=5m0s")
}

// TestNeeds reads what modules say of themselves.
func TestNeeds(t *testing.T) {
	check := func(want string, info ...string) {
		t.Helper()
		if have := strings.Join(needs(info), " "); have != want {
			t.Errorf("%q: %q, want %q", info, have, want)
		}
	}
	check("")
	check("", "depends=", "license=GPL")
	check("i2c-algo-bit mii", "depends=mii,i2c-algo-bit")
	check("crc32c mii", "depends=mii", "softdep=pre: crc32c mii post: other")
	if name, params := parameters("tcamsim pci=0000:01:00.0 ports=8"); name != "tcamsim" || params != "pci=0000:01:00.0 ports=8" {
		t.Errorf("%q %q", name, params)
	}
}

// TestUnsigned cuts signatures off modules that have one.
func TestUnsigned(t *testing.T) {
	check := func(data, want string) {
		t.Helper()
		if have := string(unsigned([]byte(data))); have != want {
			t.Errorf("%q: %q, want %q", data, have, want)
		}
	}
	const magic, info = "~Module signature appended~\n", "\x00\x00\x02\x00\x00\x00\x00\x00"
	check("", "")
	check("code", "code")
	check("code"+"sig"+info+"\x00\x00\x00\x03"+magic, "code")
	check("code"+info+"\x00\x00\x00\x00"+magic, "code")
	for _, broken := range []string{magic, "info" + magic, "sig" + info + "\x00\x00\x00\x04" + magic, "sig" + info + "\xff\xff\xff\xff" + magic} {
		check(broken, broken)
	}
}

// TestShare has two machines share the tests of a program, which is this one.
func TestShare(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	check := func(run, beside, here, there string) {
		t.Helper()
		r := testRun{run: run}
		if err := r.setApart(beside); err != nil {
			t.Fatal(err)
		}
		a, b, err := r.share(t.Context(), program{Name: "a", at: self}, r.apart)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{here, there} {
			var have []string
			for _, p := range [][]program{a, b}[i] {
				have = append(have, p.Name+" "+p.Args[0])
			}
			if have := strings.ReplaceAll(strings.Join(have, ", "), "-test.run=", ""); have != want {
				t.Errorf("run %s beside %s: %d: %q, want %q", run, beside, i, have, want)
			}
		}
	}
	check("^TestSha", "", "a ^TestSha", "")
	check("^TestS(hare|tore)$", "./a:nothing", "a ^(TestStore|TestShare)$", "")
	check("^TestS(hare|tore)$", "./a:Sh|Take", "a ^(TestStore)$", "a ^(TestShare)$")
	check("^TestShare$", "./a:Share", "", "a ^(TestShare)$")
	check("nothing", "./a:Share", "", "")
	for _, wrong := range []string{"Share", ":Share", "./a:", "./a:("} {
		if err := new(testRun).setApart(wrong); err == nil {
			t.Errorf("%q is no package with a pattern", wrong)
		}
	}
}

// TestSources reads what apt says of its sources and packages.
func TestSources(t *testing.T) {
	check := func(sources, want string) {
		t.Helper()
		if uri, release := archiveOf(sources); uri+" "+release != want {
			t.Errorf("%q: %q %q, want %q", sources, uri, release, want)
		}
	}
	check("", " ")
	check("http://a/debian-security bookworm-security\nhttp://a/other bookworm\n", " ")
	check("http://a/debian bookworm-updates\nhttp://a/debian/ bookworm\n", "http://a/debian/ bookworm")
	for policy, want := range map[string]int{
		"qemu-system-x86:\n  Installed: (none)\n  Candidate: 1:7.2+dfsg-7+deb12u18\n": 7,
		"qemu-system-x86:\n  Installed: 1:7.2\n  Candidate: 1:10.0.2+ds-2~bpo12+1\n":  10,
		"N: Unable to locate package qemu-system-x86\n":                               0,
	} {
		if have := candidate(policy); have != want {
			t.Errorf("%q: %d, want %d", policy, have, want)
		}
	}
}
