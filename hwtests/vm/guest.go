package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// guest is PID 1 of the machine. It does its job, reports and ends the machine. What goes
// wrong before the test can write is on the console.
func guest() {
	code, err := work()
	if err != nil {
		fmt.Println("vm:", err)
		code = exitNoVerdict
	}
	unix.Sync()
	if port, err := os.OpenFile("/dev/port", os.O_WRONLY, 0); err == nil {
		_, err = port.WriteAt([]byte{byte(min(code, exitMost) + 1)}, exitPort)
		fmt.Println("vm: exit port:", err) // it is not reached if that was heard
	}
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func work() (int, error) {
	for _, m := range []struct{ kind, at string }{
		{"proc", "/proc"}, {"sysfs", "/sys"}, {"devtmpfs", "/dev"}, {"bpf", "/sys/fs/bpf"}, {"debugfs", "/sys/kernel/debug"}, {"tmpfs", "/run"}, {"tmpfs", "/tmp"},
	} {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, ""); err != nil {
			return 0, fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	text, err := os.ReadFile("/job.json")
	if err != nil {
		return 0, err
	}
	var j job
	if err := json.Unmarshal(text, &j); err != nil {
		return 0, fmt.Errorf("job: %w", err)
	}
	if len(j.Modules) == 0 {
		return 0, nil // it was asked whether it boots
	}
	for _, line := range j.Modules {
		name, params := parameters(line)
		data, err := os.ReadFile("/modules/" + name)
		if err == nil {
			err = unix.InitModule(data, params)
		}
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return 0, fmt.Errorf("module %s: %w", line, err)
		}
	}
	// The first card has its VFs, and both are up, as those of a blade are. A VF that comes
	// while its PF is up tells it an address of its own, and is not a clean one then.
	if err := os.WriteFile("/sys/bus/pci/devices/"+card+"/sriov_numvfs", []byte(cardVFs), 0); err != nil {
		return 0, fmt.Errorf("VFs: %w", err)
	}
	if err := up("lo", "eth0", "eth1"); err != nil {
		return 0, err
	}
	out, err := port("out")
	if err != nil {
		return 0, err
	}
	defer out.Close()
	errs, err := port("errs")
	if err != nil {
		return 0, err
	}
	defer errs.Close()
	if err := unix.Mount("checkout", "/checkout", "9p", unix.MS_RDONLY, "trans=virtio,version=9p2000.L,msize=262144"); err != nil {
		return 0, fmt.Errorf("mount the checkout: %w", err)
	}
	code := 0
	for i := range j.Programs {
		one, err := runHere(&j.Programs[i], j.Env, streams{out, errs})
		if err != nil {
			return 0, err
		}
		code = cmp.Or(code, one)
	}
	return code, nil
}

// up brings netdevs up and waits a little for their links: igb sets no rate of a VF, and
// gives it no address, before it has one.
func up(names ...string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, name := range names {
		r, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		r.SetUint16(unix.IFF_UP)
		if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, r); err != nil {
			return fmt.Errorf("%s up: %w", name, err)
		}
	}
	for _, name := range names {
		for range 100 {
			if text, err := os.ReadFile("/sys/class/net/" + name + "/carrier"); err == nil && text[0] == '1' {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	return nil
}

// port opens one of the ports to the host by its name.
func port(name string) (*os.File, error) {
	names, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		if text, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(text)) == name {
			return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(file)), os.O_RDWR, 0)
		}
	}
	return nil, fmt.Errorf("no port %s to the host", name)
}

// Bits of /proc/sys/kernel/tainted that say that the kernel found itself wrong: it died,
// it warned, a CPU was stuck.
const broken = 1<<7 | 1<<9 | 1<<14

// runHere runs a program of the job. A kernel that complained makes a failure of a test
// that passed.
func runHere(p *program, env []string, to streams) (int, error) {
	begin := time.Now()
	cmd := exec.Command("/"+p.File, p.Args...)
	cmd.Dir = filepath.Join("/checkout", p.Dir)
	// Memory is there; time is not: an emulated CPU collects garbage for a twentieth of it otherwise.
	cmd.Env = append([]string{"PATH=/bin", "TMPDIR=/run", "HOME=/run", "BLADEFLOW_IN_VM=1", "GOGC=400"}, env...)
	// A port takes one writer at a time and no poller: not for the test itself, which gets
	// pipes because these are no files to package exec.
	cmd.Stdout, cmd.Stderr = struct{ io.Writer }{to.out}, struct{ io.Writer }{to.errs}
	code := 0
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		code = max(exit.ExitCode(), 1) // -1 says that a signal ended it
	case err != nil:
		return 0, fmt.Errorf("program: %w", err)
	}
	tainted := 0
	if text, err := os.ReadFile("/proc/sys/kernel/tainted"); err == nil {
		fmt.Sscan(string(text), &tainted)
	}
	if tainted&broken != 0 && code == 0 {
		fmt.Fprintln(to.errs, "vm: the test passed, and the kernel complained:")
		code = 1
	}
	if code != 0 {
		fmt.Fprintf(to.errs, "vm: the end of the kernel's log:\n%s\n", kernelLog())
	}
	if p.Name != "" { // as go test says it
		fmt.Fprintf(to.out, "%s\t%s\t%.3fs\n", map[bool]string{true: "ok  ", false: "FAIL"}[code == 0], p.Name, time.Since(begin).Seconds())
	}
	return code, nil
}

// kernelLog is the end of what the kernel logged.
func kernelLog() string {
	const readAll, most = 3, 16 << 10
	buf := make([]byte, 1<<20)
	n, err := unix.Klogctl(readAll, buf)
	if err != nil {
		return err.Error()
	}
	return string(buf[max(0, n-most):n])
}
