package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
	"github.com/bladeflow/bladeflow/hwtests/lab"
)

func labCommand() *cobra.Command {
	return group("lab", "the emulated chassis: what it needs of this machine, and cleaning up", "  bladeflow lab doctor", labDoctor(), labClean())
}

func labDoctor() *cobra.Command {
	var features bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "try with real frames what the emulated chassis depends on",
		Example: `  bladeflow lab doctor
  BLADEFLOW_MUST=$(bladeflow lab doctor --features) go test ./hwtests/...`,
	}
	cmd.Flags().BoolVar(&features, "features", false, "print what works as a list for BLADEFLOW_MUST")
	output := outputFlag(cmd, "text", "json")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := needRoot("lab doctor"); err != nil {
			return err
		}
		ctx, stop := untilSignal(cmd)
		defer stop()
		doing(cmd, "trying what the lab needs")
		r := lab.Doctor(ctx)
		if features {
			var works []string
			for _, f := range []string{lab.FeatureVeth, lab.FeatureXDP, lab.FeatureAFXDP} {
				if r.Err(f) == nil {
					works = append(works, f)
				}
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), strings.Join(works, ","))
			return err
		}
		if *output == "json" {
			if err := printJSON(cmd.OutOrStdout(), r); err != nil {
				return err
			}
		} else if _, err := fmt.Fprint(cmd.OutOrStdout(), r); err != nil {
			return err
		}
		if err := r.Err(""); err != nil {
			return &flow.Fault{Code: "E_LAB", What: "lab", Why: err.Error(), Remedy: "see the line above; the lab works without what is not named there", Err: err}
		}
		return nil
	}
	return cmd
}

func labClean() *cobra.Command {
	return &cobra.Command{
		Use:     "clean",
		Short:   "remove what emulated chassis left behind whose process is gone",
		Example: "  bladeflow lab clean",
		RunE: func(*cobra.Command, []string) error {
			if err := needRoot("lab clean"); err != nil {
				return err
			}
			return lab.Clean()
		},
	}
}
