package peers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// meter tells how much CPU time what is measured has used: this process, and threads and
// processes of others by their id.
type meter struct {
	tasks     []int // kernel threads
	processes []int // processes with all of their threads
	without   bool  // the calling thread does not count
}

// spent returns the CPU time used so far.
func (m *meter) spent() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_PROCESS_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of the process: %w", err)
	}
	sum := time.Duration(ts.Nano())
	if m.without {
		if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
			return 0, fmt.Errorf("CPU time of the thread: %w", err)
		}
		sum -= time.Duration(ts.Nano())
	}
	for _, id := range m.tasks {
		t, err := ranFor(fmt.Sprintf("/proc/%d/schedstat", id))
		if err != nil {
			return 0, err
		}
		sum += t
	}
	for _, id := range m.processes {
		threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", id))
		if err != nil {
			return 0, err
		}
		for _, thread := range threads {
			t, err := ranFor(thread)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
			sum += t
		}
	}
	return sum, nil
}

// ranFor reads how long a task has run: the first field of its schedstat.
func ranFor(schedstat string) (time.Duration, error) {
	b, err := os.ReadFile(schedstat)
	if err != nil {
		return 0, err
	}
	ran, _, _ := strings.Cut(string(b), " ")
	n, err := strconv.ParseInt(ran, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", schedstat, err)
	}
	return time.Duration(n), nil
}

// tasksNamed returns the ids of the processes and kernel threads whose command begins so.
func tasksNamed(prefix string) (ids []int) {
	names, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil || !strings.HasPrefix(string(b), prefix) {
			continue
		}
		if id, err := strconv.Atoi(strings.Split(name, "/")[2]); err == nil {
			ids = append(ids, id)
		}
	}
	return ids
}

// pin keeps every thread of this process on one CPU, those to come included, and returns
// what undoes it.
func pin(cpu int) (restore func() error, err error) {
	var before unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	var one unix.CPUSet
	one.Set(cpu)
	if err := keepAll(&one); err != nil {
		return nil, fmt.Errorf("stay on CPU %d: %w", cpu, errors.Join(err, keepAll(&before)))
	}
	return func() error { return keepAll(&before) }, nil
}

// keepAll sets the CPUs of every thread of this process. A thread may be started while
// it works, so it looks again until it has seen nothing new.
func keepAll(on *unix.CPUSet) error {
	seen := map[string]bool{}
	for fresh := true; fresh; {
		fresh = false
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return err
		}
		for _, t := range threads {
			if seen[t.Name()] {
				continue
			}
			seen[t.Name()], fresh = true, true
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(id, on); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}
