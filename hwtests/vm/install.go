package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	emulator    = "qemu-system-x86_64"
	oldestIGB   = 8 // the first major version of QEMU with an igb that has VFs
	sourcesFile = "/etc/apt/sources.list.d/bladeflow-backports.list"
)

// tools are programs and the packages that have them.
var tools = []struct{ program, pkg string }{
	{"gcc-12", "gcc-12"}, // the one that the kernel's headers ask for
	{"make", "make"}, {"xz", "xz-utils"}, {"ld", "binutils"},
	{"tc", "iproute2"}, {"lspci", "pciutils"}, {"ethtool", "ethtool"},
}

// install installs what is missing on this machine, and says so.
func install(ctx context.Context, say func(string, ...any)) error {
	var missing []string
	for _, t := range tools {
		if _, err := exec.LookPath(t.program); err != nil {
			missing = append(missing, t.pkg)
		}
	}
	if len(missing) > 0 {
		say("installing %s", strings.Join(missing, " "))
		if err := aptUpdate(ctx); err != nil {
			return err
		}
		if err := aptInstall(ctx, missing...); err != nil {
			return err
		}
	}
	if emulatorVersion(ctx) >= oldestIGB {
		return nil
	}
	say("installing qemu-system-x86 (14 MB and some libraries)")
	if len(missing) == 0 { // apt's lists are new otherwise
		if err := aptUpdate(ctx); err != nil {
			return err
		}
	}
	out, err := exec.CommandContext(ctx, "apt-cache", "policy", "qemu-system-x86").Output()
	if err != nil {
		return fmt.Errorf("apt-cache policy: %w", err)
	}
	suite, err := suiteWith(ctx, candidate(string(out)), say)
	if err != nil {
		return err
	}
	if err := aptInstall(ctx, append(suite, "qemu-system-x86")...); err != nil {
		return err
	}
	if v := emulatorVersion(ctx); v < oldestIGB {
		return fmt.Errorf("%s: version %d is installed, igb needs %d", emulator, v, oldestIGB)
	}
	return nil
}

// suiteWith returns the options by which apt finds a QEMU that is new enough. Where its
// candidate is older, that is the backports of the release, which become a source of apt
// beside the ones that are there, at the same address.
func suiteWith(ctx context.Context, candidate int, say func(string, ...any)) ([]string, error) {
	if candidate >= oldestIGB {
		return nil, nil
	}
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-get indextargets: %w", err)
	}
	uri, release := archiveOf(string(out))
	if uri == "" {
		return nil, fmt.Errorf("qemu-system-x86: version %d is too old, and no source of apt has backports", candidate)
	}
	suite := release + "-backports"
	if !strings.Contains(string(out), suite) {
		say("adding %s to apt's sources (%s): igb needs QEMU %d or later", suite, sourcesFile, oldestIGB)
		if err := os.WriteFile(sourcesFile, fmt.Appendf(nil, "deb %s %s main\n", uri, suite), 0o644); err != nil {
			return nil, fmt.Errorf("apt's sources: %w", err)
		}
		if err := aptUpdate(ctx); err != nil {
			os.Remove(sourcesFile) // a source that is not to be had would fail every later update
			return nil, err
		}
	}
	return []string{"-t", suite}, nil
}

// archiveOf finds in apt's list of sources, "ADDRESS RELEASE" lines, a release that is
// not a part of another one (bookworm-updates, bookworm-security), with its address.
func archiveOf(sources string) (uri, release string) {
	for line := range strings.Lines(sources) {
		if f := strings.Fields(line); len(f) == 2 && !strings.Contains(f[1], "-") && strings.HasSuffix(strings.TrimSuffix(f[0], "/"), "/debian") {
			return f[0], f[1]
		}
	}
	return "", ""
}

var (
	policyLine  = regexp.MustCompile(`Candidate: (?:\d+:)?(\d+)\.`)
	versionLine = regexp.MustCompile(`version (\d+)\.`)
)

// candidate is the major version that apt would install, 0 if there is none.
func candidate(policy string) int { return number(policyLine, policy) }

func number(re *regexp.Regexp, text string) int {
	m := re.FindStringSubmatch(text)
	if m == nil {
		return 0
	}
	n, _ := strconv.Atoi(m[1]) // digits
	return n
}

// emulatorVersion is the major version of QEMU that is installed, 0 if there is none.
func emulatorVersion(ctx context.Context) int {
	out, err := exec.CommandContext(ctx, emulator, "--version").Output()
	if err != nil {
		return 0
	}
	return number(versionLine, string(out))
}

func aptUpdate(ctx context.Context) error { return tell(apt(ctx, "update", "-qq")) }

func aptInstall(ctx context.Context, args ...string) error {
	return tell(apt(ctx, append([]string{"install", "-y", "-qq", "--no-install-recommends"}, args...)...))
}

func apt(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "apt-get", append([]string{"-o", "DPkg::Lock::Timeout=60", "-o", "Acquire::http::Timeout=20", "-o", "Acquire::Retries=1"}, args...)...)
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
	cmd.Cancel = func() error { return cmd.Process.Signal(unix.SIGTERM) } // it must not leave a package half installed
	cmd.WaitDelay = time.Minute
	return cmd
}
