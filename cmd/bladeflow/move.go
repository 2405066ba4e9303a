package main

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/flow"
)

func moveCommand() *cobra.Command {
	var g changing
	var to string
	cmd := &cobra.Command{
		Use:   "move profile|vnic NAME --to BLADE[/PF]",
		Short: "bring a profile, or a vNIC with its profile, to another blade",
		Long: `Move a profile: a place for all its vNICs is found on the blade, or on one PF of it, and taken in one
transaction. The old blade lets go only when the new one has set up its VFs and proved its rules. --to any takes
the best other blade. If it does not fit, nothing is changed, and standard error says of every place why not.
A vNIC is named PROFILE/VNIC and moves with its profile, so it must be its only one. --wait says how long it took
from the command to the proved generations.`,
		Example: `  bladeflow move profile web --to b2 --wait
  bladeflow move vnic db/eth0 --to b3/nic0/pf1 --dry-run`,
		Args:              needs("bladeflow move profile web --to b2", "NOUN", "NAME"),
		ValidArgsFunction: completeNoun(movable),
	}
	cmd.Flags().StringVar(&to, "to", "", "`BLADE`, BLADE/nicN/pfN, or any")
	_ = cmd.MarkFlagRequired("to")
	g.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		begin := time.Now()
		n, err := findNoun(args[0], movable)
		if err != nil {
			return err
		}
		c, err := g.open()
		if err != nil {
			return err
		}
		profile := args[1]
		if n.name == "vnic" {
			if profile, err = alone(cmd, c, args[1]); err != nil {
				return err
			}
		}
		var target api.Move
		if to != "any" {
			target.Blade, target.PF, _ = strings.Cut(to, "/")
		}
		doing(cmd, "looking for a place on %s", to)
		p, err := c.Move(cmd.Context(), profile, target, true)
		if err != nil {
			explainPlaces(cmd, c, profile, err)
			return err
		}
		if !g.dryRun {
			doing(cmd, "moving profile %s", profile)
			if p, err = c.Move(cmd.Context(), profile, target, false); err != nil {
				return err
			}
		}
		return g.finish(cmd, c, p, begin)
	}
	return cmd
}

func movable(n noun) bool { return n.name == "profile" || n.name == "vnic" }

// alone returns the profile of a vNIC that is its only one.
func alone(cmd *cobra.Command, c *client.Client, name string) (string, error) {
	v, err := client.VNICs.Get(cmd.Context(), c, name)
	if err != nil {
		return "", err
	}
	p, err := client.Profiles.Get(cmd.Context(), c, v.Status.Profile)
	if err != nil {
		return "", err
	}
	if len(p.Spec.VNICs) > 1 {
		return "", &flow.Fault{Code: "E_PROFILE_SPLIT", What: "vnic " + name, Why: fmt.Sprintf("its profile has %d vNICs, and all of them are on one blade", len(p.Spec.VNICs)),
			Remedy: "move profile " + v.Status.Profile + ", or give the vNIC a profile of its own"}
	}
	return v.Status.Profile, nil
}

// explainPlaces says on standard error why a profile cannot be where it could be. It
// adds to a fault and never takes its place.
func explainPlaces(cmd *cobra.Command, c *client.Client, profile string, err error) {
	if f, ok := errors.AsType[*flow.Fault](err); !ok || f.Err != nil {
		return // not about places: unknown, denied, unreachable
	}
	all, listed := c.Candidates(cmd.Context(), profile)
	if listed != nil {
		return
	}
	for _, line := range placesRefused(all.Items, err.Error()) {
		fmt.Fprintln(cmd.ErrOrStderr(), line)
	}
}

// placesRefused says of each place why a profile cannot be there, each reason once: not
// what was said already, and of a blade not what one of its PFs says.
func placesRefused(all []api.Candidate, said string) (lines []string) {
	add := func(place string, why *api.Error) {
		if why != nil && !strings.Contains(said, why.Error()) {
			lines = append(lines, fmt.Sprintf("not on %s: %s", place, reason(why)))
		}
	}
	for _, c := range all {
		if !slices.ContainsFunc(c.PFs, func(p api.PFCandidate) bool {
			return c.WhyNot != nil && p.WhyNot != nil && *p.WhyNot == *c.WhyNot
		}) {
			add(c.Blade, c.WhyNot)
		}
		for _, p := range c.PFs {
			add(c.Blade+"/"+p.Name, p.WhyNot)
		}
	}
	return lines
}

func snapshotCommand() *cobra.Command {
	return group("snapshot", "names for what is wanted now, to come back to", "  bladeflow snapshot create before-upgrade", snapshotCreate(), snapshotList())
}

func snapshotCreate() *cobra.Command {
	var on connection
	var spec api.SnapshotSpec
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "name what is wanted now, or was after a revision",
		Long: `Give a name to all that is wanted now, or was after an earlier revision. Revert takes
the name, and history keeps what has one for ever.`,
		Example: `  bladeflow snapshot create before-upgrade --note kernel-7
  bladeflow snapshot create good --revision 12`,
		Args: needs("bladeflow snapshot create before-upgrade", "NAME"),
	}
	cmd.Flags().StringVar(&spec.Note, "note", "", "a word about it")
	cmd.Flags().Int64Var(&spec.Revision, "revision", 0, "after this revision; now if not given")
	output := outputFlag(cmd, "text", "json", "yaml")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := on.open()
		if err != nil {
			return err
		}
		if _, err := c.Snapshot(cmd.Context(), args[0], spec); err != nil {
			return err
		}
		s, err := client.Snapshots.Get(cmd.Context(), c, args[0])
		if err != nil {
			return err
		}
		switch *output {
		case "json":
			return printJSON(cmd.OutOrStdout(), s)
		case "yaml":
			return printYAML(cmd.OutOrStdout(), s)
		}
		fmt.Fprintf(cmd.OutOrStdout(), "snapshot %s is revision %d\n", args[0], s.Spec.Revision)
		return nil
	}
	return cmd
}

func snapshotList() *cobra.Command {
	cmd := getCommand()
	cmd.Use, cmd.Short, cmd.Long = "list", "list snapshots; the same as get snapshots", "List snapshots, as get snapshots does.\n"+connectionHelp
	cmd.Example = "  bladeflow snapshot list"
	cmd.Args, cmd.ValidArgsFunction = nil, nil
	get := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return get(cmd, []string{"snapshot"}) }
	return cmd
}

func revertCommand() *cobra.Command {
	var g changing
	var to api.Revert
	cmd := &cobra.Command{
		Use:   "revert [profile NAME] --snapshot NAME | --revision N",
		Short: "bring back what was wanted earlier: everything, or one profile",
		Long: `Bring back what was wanted at a snapshot or after a revision, in one transaction: everything, or one profile
with its place. It is a change like others, so it can itself be reverted; snapshots stay. diff --snapshot or
--revision shows before what it would undo, and nothing after it.`,
		Example: `  bladeflow revert --snapshot before-upgrade --wait
  bladeflow revert profile web --revision 12 --dry-run`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			if _, err := findNoun(args[0], func(n noun) bool { return n.name == "profile" }); err != nil {
				return err
			}
			return needs("bladeflow revert profile web --revision 12", "NOUN", "NAME")(cmd, args)
		},
		ValidArgsFunction: completeNoun(func(n noun) bool { return n.name == "profile" }),
	}
	cmd.Flags().StringVar(&to.Snapshot, "snapshot", "", "to this snapshot")
	cmd.Flags().Int64Var(&to.Revision, "revision", 0, "to what was wanted after this revision")
	cmd.MarkFlagsMutuallyExclusive("snapshot", "revision")
	cmd.MarkFlagsOneRequired("snapshot", "revision")
	g.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		begin := time.Now()
		c, err := g.open()
		if err != nil {
			return err
		}
		what := "everything"
		if len(args) > 0 {
			to.Profile = args[1]
			what = "profile " + to.Profile
		}
		if err := g.confirm(cmd, fmt.Sprintf("revert %s to %s", what, cmp.Or(to.Snapshot, fmt.Sprint("revision ", to.Revision)))); err != nil {
			return err
		}
		doing(cmd, "reverting %s", what)
		p, err := c.Revert(cmd.Context(), to, g.dryRun)
		if err != nil {
			return err
		}
		return g.finish(cmd, c, p, begin)
	}
	return cmd
}
