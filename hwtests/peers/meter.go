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
		own, err := threadTime()
		if err != nil {
			return 0, err
		}
		sum -= own
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

// threadTime returns the CPU time that the calling thread has used.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts); err != nil {
		return 0, fmt.Errorf("CPU time of the thread: %w", err)
	}
	return time.Duration(ts.Nano()), nil
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

// usableCPUs returns the CPUs that the calling thread may use, in ascending order.
func usableCPUs() (cpus []int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return nil, err
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus, nil
}

// pin keeps every thread of this process on one CPU, those to come included, and returns
// what undoes it.
func pin(cpu int) (restore func() error, err error) {
	var before, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return nil, err
	}
	one.Set(cpu)
	on := func(set *unix.CPUSet) error {
		return eachThread(func(id int) error { return unix.SchedSetaffinity(id, set) })
	}
	if err := on(&one); err != nil {
		return nil, fmt.Errorf("stay on CPU %d: %w", cpu, errors.Join(err, on(&before)))
	}
	return func() error { return on(&before) }, nil
}

// patient has every thread of this process wait its turn when it wakes up, those to come
// included, and returns what undoes it. Paths in user space would else interrupt the
// sender after every 64 frames and never see many at once, as they do when there are many.
func patient() (restore func() error, err error) {
	to := func(policy uint32) error {
		return eachThread(func(id int) error {
			return unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: policy}, 0)
		})
	}
	if err := to(unix.SCHED_BATCH); err != nil {
		return nil, fmt.Errorf("scheduling of threads: %w", errors.Join(err, to(unix.SCHED_NORMAL)))
	}
	return func() error { return to(unix.SCHED_NORMAL) }, nil
}

// eachThread calls f for every thread of this process. Threads take after those that
// start them, so that it is done when it has seen no new one.
func eachThread(f func(id int) error) error {
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
			if err := f(id); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}
