package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// job is what the machine is to do. It lies at its root.
type job struct {
	Modules  []string // files in /modules with their parameters, in order
	Programs []program
	Env      []string
}

// program is one that the machine runs.
type program struct {
	Name string // of the package that it tests; empty if it is the only one
	File string // at the machine's root
	Dir  string // in the checkout
	Args []string

	at string // on the host; not in the job
}

const (
	card       = "0000:01:00.0" // where the first igb is, and tcamsim with it
	cardVFs    = "7"            // all that it has
	exitPort   = 0xf4           // a byte written there ends the machine
	longest    = 2 * time.Hour
	shortProbe = 8 * time.Second
	slowest    = 45 * time.Second // a machine that boots slower is too slow for the tests
)

// run runs a program in a machine and returns its exit code.
func run(ctx context.Context, b bed, binary string, args []string) int {
	_, dir, err := checkout()
	if err != nil {
		say("%v", err)
		return exitUsage
	}
	return runAll(ctx, b, []program{{Args: args, Dir: dir, at: binary}}, timeLimit(args), streams{os.Stdout, os.Stderr})
}

// runAll runs programs in one machine, one after the other, and returns the first exit code
// that is not 0.
func runAll(ctx context.Context, b bed, programs []program, limit time.Duration, to streams) int {
	image, err := image(b, programs)
	if err != nil {
		say("%v", err)
		return exitMissing
	}
	root, _, err := checkout()
	if err != nil {
		say("%v", err)
		return exitUsage
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	code, console, err := bootAgain(ctx, b, image, root, to)
	switch {
	case err == nil: // it had its say in time
	case ctx.Err() != nil:
		say("stopped: %v", context.Cause(ctx))
		code = exitTimeout
	case err != nil:
		say("%v", err)
		code = exitNoVerdict
	}
	if code != 0 {
		fmt.Fprintf(to.errs, "vm: the end of the machine's console:\n%s\n", console[max(0, len(console)-8000):])
	}
	return code
}

// timeLimit is how long a machine may run: a little longer than its test, which tells
// more when it ends by itself.
func timeLimit(args []string) time.Duration {
	for _, arg := range args {
		if text, ok := strings.CutPrefix(arg, "-test.timeout="); ok {
			if d, err := time.ParseDuration(text); err == nil && d > 0 {
				return d + time.Minute
			}
		}
	}
	return longest
}

// checkout returns the folder above this one that has go.mod, and the way from there; of
// a folder that is in no Go module, that itself.
func checkout() (root, inside string, err error) {
	here, err := os.Getwd()
	if err != nil {
		return "", "", err
	}
	for root = here; ; root = filepath.Dir(root) {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			inside, err = filepath.Rel(root, here)
			return root, inside, err
		}
		if root == filepath.Dir(root) {
			return here, ".", nil
		}
	}
}

// image returns the initramfs: this program, the ones to run, modules and tools.
func image(b bed, programs []program) ([]byte, error) {
	var a archive
	var j job
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("this program: %w", err)
	}
	a.file("init", modeExec, self)
	for _, dir := range []string{"proc", "sys", "dev", "run", "tmp", "etc", "checkout"} {
		a.dir(dir)
	}
	for i, p := range programs {
		data, err := os.ReadFile(p.at)
		if err != nil {
			return nil, fmt.Errorf("program: %w", err)
		}
		p.File = fmt.Sprintf("program%d", i)
		a.file(p.File, modeExec, data)
		j.Programs = append(j.Programs, p)
	}
	if len(programs) > 0 {
		if err := addModules(&a, &j, b); err != nil {
			return nil, err
		}
		if err := addTools(&a); err != nil {
			return nil, err
		}
	}
	for _, v := range os.Environ() {
		if strings.HasPrefix(v, "BLADEFLOW_") || strings.HasPrefix(v, "GO") {
			j.Env = append(j.Env, v)
		}
	}
	text, err := json.Marshal(j)
	if err != nil {
		panic(err) // strings
	}
	a.file("job.json", modeFile, text)
	return a.end(), nil
}

func addModules(a *archive, j *job, b bed) error {
	modules, err := closure(filepath.Join(b.Root, "lib/modules", b.Kernel, "kernel"), wanted)
	if err != nil {
		return err
	}
	for _, m := range modules {
		a.file("modules/"+m.name, modeFile, m.data)
		j.Modules = append(j.Modules, m.name)
	}
	for _, name := range own {
		data, err := os.ReadFile(filepath.Join(b.Modules, name+".ko"))
		if err != nil {
			return fmt.Errorf("module %s: %w", name, err)
		}
		a.file("modules/"+name, modeFile, data)
	}
	j.Modules = append(j.Modules, "tcamsim pci="+card+" ports=8") // a test loads the other one
	return nil
}

// addTools adds the programs that tests compare us with, with the libraries they need. A
// test finds out itself if one is missing.
func addTools(a *archive) error {
	for _, name := range []string{"tc", "ip", "devlink", "rdma", "lspci", "ethtool"} {
		at, err := exec.LookPath(name)
		if err != nil {
			continue
		}
		libraries, err := exec.Command("ldd", at).Output()
		if err != nil {
			return fmt.Errorf("ldd %s: %w", at, err)
		}
		files := []string{at}
		for _, word := range strings.Fields(string(libraries)) {
			if strings.HasPrefix(word, "/") {
				files = append(files, word)
			}
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			to := file
			if file == at {
				to = "/bin/" + name
			}
			a.file(to, modeExec, data)
		}
	}
	return nil
}

// errDied says that QEMU ended by a signal: a failure of its own.
var errDied = errors.New("QEMU died")

// bootAgain is boot, and begins again where QEMU itself died, which says nothing of what ran
// there: while cards' memory moves an emulator may trip over that. What was written before
// is then written again.
func bootAgain(ctx context.Context, b bed, image []byte, share string, to streams) (code int, console []byte, err error) {
	const tries = 3
	for try := 1; ; try++ {
		code, console, err = boot(ctx, b, image, share, to)
		if !errors.Is(err, errDied) || ctx.Err() != nil || try == tries {
			return code, console, err
		}
		say("%v: all of it once more", err)
	}
}

// streams are where what a test writes to stdout and stderr goes.
type streams struct{ out, errs io.Writer }

// boot runs a machine to its end: its exit code, unless err says that it gave none, and
// what it wrote to the console.
func boot(ctx context.Context, b bed, image []byte, share string, to streams) (code int, console []byte, err error) {
	dir, err := os.MkdirTemp("", "bladeflow-vm-")
	if err != nil {
		return 0, nil, err
	}
	defer os.RemoveAll(dir)
	initrd, log := filepath.Join(dir, "initrd"), filepath.Join(dir, "console")
	if err := os.WriteFile(initrd, image, 0o600); err != nil {
		return 0, nil, err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, emulator, qemuArgs(b, initrd, log, share)...)
	cmd.Stderr = &said
	var copied sync.WaitGroup
	defer func() {
		for _, w := range cmd.ExtraFiles {
			w.Close() // again is harmless
		}
		copied.Wait()
	}()
	for _, to := range []io.Writer{to.out, to.errs} { // are /dev/fd/3 and /dev/fd/4 there
		r, w, err := os.Pipe()
		if err != nil {
			return 0, nil, err
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, w)
		copied.Go(func() { io.Copy(to, r); r.Close() }) // a closed stdout is nobody's business here
	}
	// Go test kills its runner when time is up: QEMU must not outlive it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	if err := cmd.Start(); err != nil {
		return 0, nil, fmt.Errorf("%s: %w", emulator, err)
	}
	for _, w := range cmd.ExtraFiles {
		w.Close()
	}
	err = cmd.Wait()
	copied.Wait()
	console, _ = os.ReadFile(log) // there is none if it did not start
	code, err = verdict(err, said.String())
	return code, console, err
}

// verdict decodes how QEMU ended. A byte v at the exit port ends it with 2v+1, and the
// machine writes its exit code and 1, so that QEMU's own failure is another.
func verdict(ended error, said string) (int, error) {
	var exit *exec.ExitError
	if errors.As(ended, &exit) {
		switch c := exit.ExitCode(); {
		case c > 1 && c%2 == 1:
			return c/2 - 1, nil
		case c < 0:
			return 0, fmt.Errorf("%w: %v %s", errDied, ended, strings.TrimSpace(said))
		}
	}
	return 0, fmt.Errorf("the machine ended without saying how the test did: %v %s", ended, strings.TrimSpace(said))
}

// The clock of an emulated machine runs with its host's, and a busy host has all time limits in
// the machine come too early. Told so, it counts instructions instead, as many in a second as a
// CPU has that is never taken away, and skips what would be sleep. That takes up to half as much
// CPU time more, which only pays for what is mostly sleep, or is not to fail of a busy host.
const (
	clockOf      = "BLADEFLOW_VM_CLOCK"
	countedClock = "instructions"
)

// qemuArgs are the arguments of QEMU. Output is not on its stdin and stdout: those at
// their end, as under go test, would stop its main loop.
func qemuArgs(b bed, initrd, log, share string) []string {
	// Newer CPUs cost more to emulate. A second one costs a third more, mostly waiting for
	// the first, and QEMU 10 has been seen to die when cards' memory moves under two. This
	// one makes random numbers, for which programs would wait seconds otherwise.
	cpu, cpus := "Nehalem,+rdrand,+rdseed", "1"
	// A busy host may take the CPU away while the kernel measures how fast the APIC's timer
	// runs. What it then takes for a second may be minutes, and all that waits seems to hang.
	// The HPET says itself how fast it is. Compared with it at such times the TSC seems wrong, which
	// it is not, and to read the HPET instead takes long.
	clock := "noapictimer no_timer_check tsc=reliable "
	if b.Accel == "kvm" {
		cpu, cpus, clock = "host", "2", ""
	}
	// To clear all memory that is handed out, as this kernel does unless it is told, is for machines
	// with secrets.
	const fast = "mitigations=off cryptomgr.notests rcupdate.rcu_expedited=1 init_on_alloc=0"
	args := []string{"-machine", "q35", "-accel", b.Accel, "-cpu", cpu, "-smp", cpus, "-m", "2048",
		"-display", "none", "-nodefaults", "-no-reboot", "-serial", "file:" + log,
		"-kernel", kernelFile(b), "-initrd", initrd,
		"-append", clock + "console=ttyS0 panic=-1 oops=panic quiet net.ifnames=0 nokaslr " + fast,
		"-device", fmt.Sprintf("isa-debug-exit,iobase=%#x,iosize=4", exitPort),
		"-device", "virtio-serial-pci", "-chardev", "file,id=out,path=/dev/fd/3", "-device", "virtserialport,chardev=out,name=out",
		"-chardev", "file,id=errs,path=/dev/fd/4", "-device", "virtserialport,chardev=errs,name=errs"}
	if b.Accel != "kvm" && os.Getenv(clockOf) == countedClock {
		args = append(args, "-icount", "shift=1,sleep=off") // 2 ns each
	}
	if share != "" {
		args = append(args, "-fsdev", "local,id=checkout,readonly=on,security_model=none,path="+strings.ReplaceAll(share, ",", ",,"), "-device", "virtio-9p-pci,fsdev=checkout,mount_tag=checkout")
		// Both cards on one cable, each behind a port of its own: 01:00.0 and 02:00.0.
		for i := range 2 {
			args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=slot%d,slot=%d,chassis=%d", i, i+1, i+1),
				"-netdev", fmt.Sprintf("hubport,id=cable%d,hubid=0", i),
				"-device", fmt.Sprintf("igb,bus=slot%d,netdev=cable%d,mac=52:54:00:12:34:%02x", i, i, 0x10*(i+1)))
		}
	}
	return args
}

// accelerator finds out whether KVM boots this kernel, and returns what QEMU is to use.
// In a virtual machine /dev/kvm may be there and fail at the first odd instruction.
func accelerator(ctx context.Context, b bed, say func(string, ...any)) string {
	const emulated = "tcg"
	dev, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		say("no KVM here (%v): the machine is emulated, which is slower", err)
		return emulated
	}
	dev.Close()
	b.Accel = "kvm"
	ctx, cancel := context.WithTimeout(ctx, shortProbe)
	defer cancel()
	if _, err = trial(ctx, b); err == nil {
		return b.Accel
	}
	say("KVM does not boot the kernel here (%v): the machine is emulated, which is slower", err)
	return emulated
}

// trial boots a machine that has nothing to do, and says how long that took.
func trial(ctx context.Context, b bed) (time.Duration, error) {
	image, err := image(b, nil)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, slowest, fmt.Errorf("it does not boot within %v: this machine is too slow or too busy", slowest))
	defer cancel()
	start := time.Now()
	_, console, err := bootAgain(ctx, b, image, "", streams{io.Discard, io.Discard})
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("kernel %s: %w: %s", b.Kernel, err, bytes.TrimSpace(console[max(0, len(console)-1000):]))
	}
	return time.Since(start), nil
}

// parameters splits a line of job.Modules.
func parameters(line string) (name, params string) {
	name, params, _ = strings.Cut(line, " ")
	return name, params
}
