package peers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// ovsSchema is where distributions put the schema of Open vSwitch's database.
const ovsSchema = "/usr/share/openvswitch/vswitch.ovsschema"

// ovs is an Open vSwitch of its own: a database, a daemon with the datapath in user
// space, and a directory with all their files.
type ovs struct {
	s        *stand
	dir      string
	daemons  []*exec.Cmd
	ctl, db  string // where daemon and database listen
	switched string // the bridge
}

// layOVS makes a bridge of two AF_XDP ports and one flow each way. Its thread that polls
// stays on this process's CPU.
func layOVS(s *stand, _ traffic) (*device, error) {
	dir, err := os.MkdirTemp("", "bladeflow-ovs-")
	if err != nil {
		return nil, err
	}
	s.onClose(func() error { return os.RemoveAll(dir) })
	v := &ovs{s: s, dir: dir, ctl: filepath.Join(dir, "ctl"), db: "unix:" + filepath.Join(dir, "db.sock"), switched: "bfswitch"}
	s.onClose(v.stop)
	if err := v.start(); err != nil {
		return nil, fmt.Errorf("open vswitch: %w", err)
	}
	d := &device{share: v.busyShare}
	for _, c := range v.daemons {
		d.processes = append(d.processes, c.Process.Pid)
	}
	return d, nil
}

func (v *ovs) start() error {
	file := filepath.Join(v.dir, "conf.db")
	if _, err := v.run("ovsdb-tool", "create", file, ovsSchema); err != nil {
		return err
	}
	if err := v.daemon("ovsdb-server", file, "--remote=p"+v.db, "--unixctl="+filepath.Join(v.dir, "dbctl")); err != nil {
		return err
	}
	if _, err := v.run("ovs-vsctl", "--retry", "--timeout=10", "--db="+v.db, "--no-wait", "init"); err != nil {
		return err
	}
	cpus, err := usableCPUs() // the one of this process
	if err != nil {
		return err
	}
	if _, err := v.run("ovs-vsctl", "--timeout=10", "--db="+v.db, "--no-wait", "set", "Open_vSwitch", ".", fmt.Sprintf("other_config:pmd-cpu-mask=0x%x", uint64(1)<<cpus[0])); err != nil {
		return err
	}
	if err := v.daemon("ovs-vswitchd", v.db, "--unixctl="+v.ctl); err != nil {
		return err
	}
	args := []string{"--timeout=20", "--db=" + v.db, "add-br", v.switched, "--", "set", "bridge", v.switched, "datapath_type=netdev", "fail_mode=secure"}
	for _, dev := range []string{insideDev, outsideDev} {
		args = append(args, "--", "add-port", v.switched, dev, "--", "set", "interface", dev, "type=afxdp", "options:xdp-mode=native")
	}
	if _, err := v.run("ovs-vsctl", args...); err != nil {
		return err
	}
	management := "unix:" + filepath.Join(v.dir, v.switched+".mgmt")
	for _, way := range [][2]string{{insideDev, outsideDev}, {outsideDev, insideDev}} {
		if _, err := v.run("ovs-ofctl", "add-flow", management, fmt.Sprintf("in_port=%s,actions=output:%s", way[0], way[1])); err != nil {
			return err
		}
	}
	return nil
}

// environment has all files of Open vSwitch in the directory.
func (v *ovs) environment() []string {
	return append(os.Environ(), "OVS_RUNDIR="+v.dir, "OVS_LOGDIR="+v.dir, "OVS_DBDIR="+v.dir)
}

// run runs a command of Open vSwitch to its end.
func (v *ovs) run(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.Env = v.environment()
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// daemon starts a daemon in the middle, which ends with the stand or this process.
func (v *ovs) daemon(name string, args ...string) error {
	cmd := exec.Command(name, append(args, "--log-file="+filepath.Join(v.dir, name+".log"), "-vconsole:off")...)
	cmd.Env = v.environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := v.s.middle.Do(cmd.Start); err != nil {
		return err
	}
	v.daemons = append(v.daemons, cmd)
	return nil
}

// stop ends the daemons, the last first, with the ports they have opened.
func (v *ovs) stop() error {
	var errs []error
	for i := len(v.daemons) - 1; i >= 0; i-- {
		c := v.daemons[i]
		errs = append(errs, c.Process.Signal(syscall.SIGTERM))
		late := time.AfterFunc(5*time.Second, func() { c.Process.Kill() })
		if err := c.Wait(); err != nil && c.ProcessState == nil {
			errs = append(errs, err)
		}
		late.Stop()
	}
	return errors.Join(errs...)
}

// busyShare returns what part of its time since the last call the polling thread had
// something to do, by its own account: it never sleeps.
func (v *ovs) busyShare() (float64, error) {
	out, err := v.run("ovs-appctl", "-t", v.ctl, "dpif-netdev/pmd-stats-show")
	if err != nil {
		return 0, err
	}
	if _, err := v.run("ovs-appctl", "-t", v.ctl, "dpif-netdev/pmd-stats-clear"); err != nil {
		return 0, err
	}
	var idle, busy float64
	for line := range strings.Lines(out) {
		fmt.Sscanf(strings.TrimSpace(line), "idle cycles: %f", &idle)
		fmt.Sscanf(strings.TrimSpace(line), "processing cycles: %f", &busy)
		if strings.HasPrefix(line, "main thread:") {
			break
		}
	}
	if busy == 0 {
		return 0, fmt.Errorf("open vswitch: no polling thread was busy: %s", out)
	}
	return busy / (busy + idle), nil
}
