package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// commit is the commit that the binary was built from; the Makefile sets it.
var commit string

// madeOf says what a binary was made of.
type madeOf struct {
	Version string `json:"version"` // of the module; devel where it was built from a checkout
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	OS      string `json:"os"`
	Arch    string `json:"arch"`
}

func versionCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "version",
		Short:   "print what this binary was built from",
		Example: "  bladeflow version -o json",
	}
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		m := thisBinary()
		if *output == "json" {
			return printJSON(cmd.OutOrStdout(), m)
		}
		fmt.Fprintln(cmd.OutOrStdout(), m)
		return nil
	}
	return cmd
}

func (m madeOf) String() string {
	at := ""
	if m.Commit != "" {
		at = " of commit " + m.Commit
	}
	return fmt.Sprintf("bladeflow %s%s, %s, %s/%s", m.Version, at, m.Go, m.OS, m.Arch)
}

// thisBinary reads what the compiler left in this binary.
func thisBinary() madeOf {
	m := madeOf{Version: "devel", Commit: commit, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return m
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		m.Version = v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && m.Commit == "" {
			m.Commit = s.Value
		}
	}
	return m
}
