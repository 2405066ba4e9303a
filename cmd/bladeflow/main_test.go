package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/discover"
	"github.com/bladeflow/bladeflow/hwtests/must"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bladeflow": main})
}

// TestScripts runs command lines, good and bad. On top of testscript's commands there
// are `fails CODE E_CODE ARGS...` (see [fails]), `recorded NAME DIR`, which unpacks a
// recorded tree of package discover, `pcap FILE FRAME...`, which writes frames in
// hexadecimal as a capture, and those of fabric_test.go.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"fails":    fails,
			"recorded": recorded,
			"pcap":     writePcap,
			"manager":  manage,
			"blade":    bladeUp,

			"eventually": eventually,
		},
		Condition: func(cond string) (bool, error) {
			if cond != "root" {
				return false, errors.New("there is no such condition")
			}
			return os.Geteuid() == 0, nil
		},
		Setup: func(e *testscript.Env) error {
			e.Setenv("HERE", sure(os.Getwd()))
			e.Values[managedKey{}] = &managed{}
			return nil
		},
	})
}

func sure[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var (
	faultLine    = regexp.MustCompile(`^bladeflow: \S.*: .+: .+ \[(E_[A-Z0-9_]+)\]$`)
	progressLine = regexp.MustCompile(`^[0-9]+ s: `)
)

// findings are faults that are about what was printed, so that standard output is not
// empty.
var findings = []string{"E_MISMATCH", "E_UNPROVABLE", "E_DIFFERS"}

// fails runs bladeflow and checks all that the contract says about an error: the exit
// code, one line of `what: why: what to do [E_CODE]`, and nothing on standard output.
func fails(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: fails CODE E_CODE ARGS...")
	}
	err := ts.Exec("bladeflow", args[2:]...)
	if why := wrongFault(err, ts.ReadFile("stdout"), ts.ReadFile("stderr"), args[0], args[1]); why != "" {
		ts.Fatalf("%s", why)
	}
}

// wrongFault says what about a failed command is not as the contract has it, or "".
func wrongFault(err error, stdout, stderr, wantCode, wantFault string) string {
	var exit *exec.ExitError
	if !errors.As(err, &exit) || strconv.Itoa(exit.ExitCode()) != wantCode {
		return "it ended with " + errText(err) + ", want exit code " + wantCode
	}
	lines := slices.DeleteFunc(strings.Split(strings.TrimSuffix(stderr, "\n"), "\n"), progressLine.MatchString)
	if len(lines) != 1 {
		return "want one line on standard error: " + strings.Join(lines, "\n")
	}
	if m := faultLine.FindStringSubmatch(lines[0]); m == nil || m[1] != wantFault {
		return "want `bladeflow: what: why: what to do [" + wantFault + "]`: " + lines[0]
	}
	if stdout != "" && !slices.Contains(findings, wantFault) {
		return "standard output has something: " + stdout
	}
	return ""
}

func errText(err error) string {
	if err == nil {
		return "success"
	}
	return err.Error()
}

func recorded(ts *testscript.TestScript, _ bool, args []string) {
	text, err := os.ReadFile(filepath.Join(ts.Getenv("HERE"), "../../fabric/discover/testdata", args[0]+".tree"))
	ts.Check(err)
	tree, err := discover.ParseTree(string(text))
	ts.Check(err)
	ts.Check(os.Mkdir(ts.MkAbs(args[1]), 0o755))
	ts.Check(tree.Unpack(ts.MkAbs(args[1])))
}

func writePcap(ts *testscript.TestScript, _ bool, args []string) {
	var frames [][]byte
	for _, digits := range args[1:] {
		f, err := hex.DecodeString(digits)
		ts.Check(err)
		frames = append(frames, f)
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pcapOf(frames...), 0o644))
}

// pcapOf is a capture of frames.
func pcapOf(frames ...[]byte) []byte {
	le := binary.LittleEndian
	b := le.AppendUint32(nil, 0xa1b2c3d4)
	b = append(b, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	b = le.AppendUint32(le.AppendUint32(b, 65535), 1)
	for _, f := range frames {
		b = append(b, make([]byte, 8)...)
		b = le.AppendUint32(le.AppendUint32(b, uint32(len(f))), uint32(len(f)))
		b = append(b, f...)
	}
	return b
}

// invoke runs bladeflow in a process of its own.
func invoke(stdin string, args ...string) (stdout, stderr string, err error) {
	return start(&exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"bladeflow"}, args...), Stdin: strings.NewReader(stdin)})
}

func start(cmd *exec.Cmd) (stdout, stderr string, err error) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.String(), errs.String(), err
}

// TestNoRoot runs what needs root as nobody.
func TestNoRoot(t *testing.T) {
	dir := t.TempDir()
	for d := dir; d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755|sure(os.Stat(d)).Mode()&os.ModeSticky|0o022&sure(os.Stat(d)).Mode().Perm()); err != nil {
			must.Have(t, "unprivileged", err)
		}
		if filepath.Dir(d) == os.TempDir() {
			break
		}
	}
	config := filepath.Join(dir, "agent.yaml")
	text := "apiVersion: bladeflow/v1\nkind: Agent\nmetadata: {name: b}\nspec: {rules: [r.yaml]}\n"
	secret := filepath.Join(dir, "secret.yaml")
	if err := errors.Join(os.WriteFile(config, []byte(text), 0o644), os.WriteFile(secret, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ fault, args string }{
		{"E_NO_ROOT", "demo"},
		{"E_NO_ROOT", "lab doctor"},
		{"E_NO_ROOT", "lab clean"},
		{"E_NO_ROOT", "agent --config " + config},
		{"E_DENIED", "rules check " + secret},
		{"E_CONFIG_FILE", "agent --config " + secret},
		{"E_DEVICE_UNKNOWN", "plan --rules " + config + " --device " + secret},
	} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"bladeflow"}, strings.Fields(c.args)...), Dir: "/"}
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		} else if strings.Contains(c.args, secret) {
			continue // it is our own file then
		}
		stdout, stderr, err := start(cmd)
		if why := wrongFault(err, stdout, stderr, "5", c.fault); why != "" {
			t.Errorf("%s: %s", c.args, why)
		}
	}
}

// TestHelp checks that every command says what it is and shows an example.
func TestHelp(t *testing.T) {
	for _, c := range allCommands(newRoot(func() {})) {
		if c.Short == "" || !strings.Contains(c.Example, "bladeflow") {
			t.Errorf("%s: no short text, or no example", c.CommandPath())
		}
		stdout, stderr, err := invoke("", append(strings.Fields(c.CommandPath())[1:], "--help")...)
		if err != nil || stderr != "" || !strings.Contains(stdout, c.Example) {
			t.Errorf("%s --help: %v %s\n%s", c.CommandPath(), err, stderr, stdout)
		}
		for line := range strings.SplitSeq(c.Example, "\n") {
			if _, after, ok := strings.Cut(line, "bladeflow "); ok {
				exampleParses(t, after)
			}
		}
	}
}

// exampleParses checks that an example names a command and flags that exist.
func exampleParses(t *testing.T, line string) {
	t.Helper()
	line, _, _ = strings.Cut(line, " >")
	line, _, _ = strings.Cut(line, " <")
	line, _, _ = strings.Cut(line, ")")
	root := newRoot(func() {})
	for _, c := range allCommands(root) {
		c.RunE = func(*cobra.Command, []string) error { return nil }
	}
	root.SetArgs(strings.Fields(line))
	if err := root.Execute(); err != nil {
		t.Errorf("example `bladeflow %s`: %v", line, err)
	}
}
