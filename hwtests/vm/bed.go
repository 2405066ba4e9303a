package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// bed is what a machine is made of. It is written into the cache when all of it is there.
type bed struct {
	Kernel  string // 6.12.117+deb12-amd64
	Root    string // the unpacked packages
	Modules string // folder of our own
	Source  string // digest of what they were built from
	Accel   string // of QEMU
	Tried   string // the boot of this machine since which it is known to boot here
}

// kernelPackage depends on the newest kernel of its series: old ones leave the pool, so
// none is named here.
const kernelPackage = "linux-image-6.12-amd64"

//go:embed tcamsim
var tcamsim embed.FS

func cacheDir() (string, error) {
	if dir := os.Getenv("BLADEFLOW_VM"); dir != "" {
		return filepath.Abs(dir)
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w: name one in BLADEFLOW_VM", err)
	}
	return filepath.Join(dir, "bladeflow", "vm"), nil
}

// load returns the bed that prepare made.
func load(cache string) (bed, error) {
	var b bed
	text, err := os.ReadFile(filepath.Join(cache, "bed.json"))
	if err == nil {
		err = json.Unmarshal(text, &b)
	}
	if err == nil {
		_, err = os.Stat(kernelFile(b))
	}
	if err != nil {
		return b, fmt.Errorf("no machine is prepared: %w: run `make vm`", err)
	}
	return b, nil
}

// ready is load for a machine that this program can use: the modules are made of its source.
func ready(cache string) (bed, error) {
	b, err := load(cache)
	if err == nil && b.Source != sourceDigest() {
		err = errors.New("the machine was prepared by another version: run `vm prepare` (`make vm` does it, too)")
	}
	return b, err
}

// patience is how long all of prepare may take.
const patience = 6 * time.Minute

// errOurs says that what is wrong is in this checkout: no reason to skip anything.
var errOurs = errors.New("tcamsim does not build")

// prepare makes what is missing of the bed, and boots it once if it has not since this machine
// was booted: took is 0 if it has. Cost: 20 s and 124 MB of packages the first time, half a
// second afterwards.
func prepare(ctx context.Context, cache string, say func(string, ...any)) (b bed, took time.Duration, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return b, 0, fmt.Errorf("cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return b, 0, fmt.Errorf("cache: %w", err)
	}
	defer lock.Close()
	if err := take(ctx, lock); err != nil {
		return b, 0, fmt.Errorf("cache: %w", err)
	}
	if err := install(ctx, say); err != nil {
		return b, 0, err
	}
	if b, err = load(cache); err != nil {
		if b, err = unpack(ctx, cache, say); err != nil {
			return b, 0, err
		}
	}
	// The modules are built while the kernel is tried without them.
	var building sync.WaitGroup
	var modules string
	var broken error
	digest, tried := sourceDigest(), b
	if b.Source != digest {
		say("building tcamsim for %s", b.Kernel)
		building.Go(func() { modules, broken = build(ctx, cache, tried) })
	}
	if tried.Accel == "" {
		tried.Accel = accelerator(ctx, tried, say)
	}
	if tried.Tried == "" || tried.Tried != hostBoot() {
		if took, err = trial(ctx, tried); err == nil {
			tried.Tried = hostBoot()
		}
	}
	building.Wait()
	if broken != nil {
		return b, 0, errors.Join(errOurs, broken)
	}
	if err != nil {
		return b, 0, err
	}
	if b = tried; b.Source != digest {
		b.Modules, b.Source = modules, digest
	}
	return b, took, store(cache, b)
}

// hostBoot names the boot of this machine; it is empty if that cannot be told.
func hostBoot() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
}

// take waits for a lock, for as long as ctx lets it.
func take(ctx context.Context, lock *os.File) error {
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("somebody else prepares a machine: %w", ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// store writes the bed down. It is there whole or not at all.
func store(cache string, b bed) error {
	text, err := json.MarshalIndent(b, "", "  ")
	if err != nil {
		panic(err) // a struct of strings
	}
	file := filepath.Join(cache, "bed.json")
	if err := os.WriteFile(file+".new", text, 0o644); err != nil {
		return fmt.Errorf("cache: %w", err)
	}
	return os.Rename(file+".new", file)
}

// unpack downloads kernel and headers and unpacks them into the cache, without any of
// their scripts being run and without root's help.
func unpack(ctx context.Context, cache string, say func(string, ...any)) (bed, error) {
	version, err := newestKernel(ctx)
	if err != nil {
		return bed{}, err
	}
	b := bed{Kernel: version + "-amd64", Root: filepath.Join(cache, version)}
	debs := b.Root + ".debs"
	for _, dir := range []string{b.Root, debs} { // of an attempt that was broken off
		if err := os.RemoveAll(dir); err != nil {
			return b, fmt.Errorf("cache: %w", err)
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return b, fmt.Errorf("cache: %w", err)
		}
	}
	packages := []string{"linux-image-" + b.Kernel, "linux-headers-" + b.Kernel, "linux-headers-" + version + "-common", "linux-kbuild-" + version}
	say("downloading %s to %s (124 MB; nothing of it is installed)", strings.Join(packages, " "), debs)
	download := apt(ctx, append([]string{"download", "-q"}, packages...)...)
	download.Dir = debs
	if err := tell(download); err != nil {
		return b, err
	}
	files, err := filepath.Glob(filepath.Join(debs, "*.deb"))
	if err != nil || len(files) != len(packages) {
		return b, fmt.Errorf("packages: %d were downloaded, want %d", len(files), len(packages))
	}
	var unpacking sync.WaitGroup
	failed := make([]error, len(files))
	for i, file := range files {
		unpacking.Go(func() { failed[i] = tell(exec.CommandContext(ctx, "dpkg", "-x", file, b.Root)) })
	}
	unpacking.Wait()
	if err := errors.Join(failed...); err != nil {
		return b, err
	}
	if err := os.RemoveAll(debs); err != nil {
		return b, fmt.Errorf("cache: %w", err)
	}
	return b, headersHere(b)
}

// headersHere makes the headers look for their other half where it was unpacked.
func headersHere(b bed) error {
	file := filepath.Join(headers(b), "Makefile")
	text, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("headers: %w", err)
	}
	const installed = "/usr/src/linux-headers"
	if !bytes.Contains(text, []byte(installed)) {
		return fmt.Errorf("headers: %s does not name %s", file, installed)
	}
	return os.WriteFile(file, bytes.ReplaceAll(text, []byte(installed), []byte(b.Root+installed)), 0o644)
}

func kernelFile(b bed) string { return filepath.Join(b.Root, "boot", "vmlinuz-"+b.Kernel) }

func headers(b bed) string { return filepath.Join(b.Root, "usr/src/linux-headers-"+b.Kernel) }

var imageName = regexp.MustCompile(`Depends: linux-image-(\S+)-amd64`)

// newestKernel asks apt for it, after having had apt's lists renewed if need be.
func newestKernel(ctx context.Context) (string, error) {
	var err error
	for _, renew := range []bool{false, true} {
		if renew {
			if err := aptUpdate(ctx); err != nil {
				return "", err
			}
		}
		var out []byte
		out, err = exec.CommandContext(ctx, "apt-cache", "depends", kernelPackage).Output()
		if m := imageName.FindSubmatch(out); err == nil && m != nil {
			return string(m[1]), nil
		}
	}
	return "", errors.Join(fmt.Errorf("apt has no %s", kernelPackage), err)
}

// sourceDigest names the content of the module's folder.
func sourceDigest() string {
	h := sha256.New()
	err := fs.WalkDir(tcamsim, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := tcamsim.ReadFile(name)
		fmt.Fprintf(h, "%s %d\n%s", name, len(text), text)
		return err
	})
	if err != nil {
		panic(err) // it is part of this program
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:8])
}

// own are the modules of that folder.
var own = []string{"tcamsim", "manyvfs"}

// build builds our modules against the headers, in the cache.
func build(ctx context.Context, cache string, b bed) (string, error) {
	dir := filepath.Join(cache, "tcamsim")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	if err := os.CopyFS(cache, tcamsim); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	// Without the empty variable it wants pahole, which nothing here needs.
	make := exec.CommandContext(ctx, "make", "-s", "-C", headers(b), "M="+dir, "CONFIG_DEBUG_INFO_BTF_MODULES=", "modules")
	make.Env = append(os.Environ(), "MAKEFLAGS=", "MAKELEVEL=") // of a make that called us
	return dir, tell(make)
}

// tell runs a command whose output is of interest only if it fails.
func tell(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, bytes.TrimSpace(out[max(0, len(out)-4000):]))
	}
	return nil
}
