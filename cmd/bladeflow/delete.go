package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/api"
)

// deleteCommand takes objects away that are wanted no more, several in one change.
func deleteCommand() *cobra.Command {
	var g changing
	var files []string
	var revision int64
	cmd := &cobra.Command{
		Use:   "delete NOUN NAME... | delete -f FILE",
		Short: "delete objects by name, or those of files",
		Long: `Delete objects in one transaction: all of them or, if one is not there or is needed by others, none. The
history stays: revert brings back what was deleted.`,
		Example: `  bladeflow delete profile web --wait
  bladeflow delete -f web.yaml --dry-run`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(files) > 0 {
				return noOther(cmd, args)
			}
			return needs("bladeflow delete profile web", "NOUN", "NAME...")(cmd, args)
		},
		ValidArgsFunction: completeNoun(madeNoun),
	}
	filesFlag(cmd, &files, "delete the objects of")
	cmd.Flags().Int64Var(&revision, "revision", 0, "delete only if the object has this revision")
	g.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		begin := time.Now()
		c, err := g.open()
		if err != nil {
			return err
		}
		var heads []api.Head
		if len(files) > 0 {
			all, err := manifestsOf(cmd, files)
			if err != nil {
				return err
			}
			for _, m := range all {
				heads = append(heads, api.NewHead(m.noun.kind, m.name))
			}
		} else {
			n, err := findNoun(args[0], madeNoun)
			if err != nil {
				return err
			}
			for _, name := range args[1:] {
				heads = append(heads, api.NewHead(n.kind, name))
			}
		}
		for i := range heads {
			heads[i].Metadata.Revision = revision
		}
		if err := g.confirm(cmd, "delete "+count(len(heads), "object")); err != nil {
			return err
		}
		doing(cmd, "deleting %s", count(len(heads), "object"))
		p, err := c.Delete(cmd.Context(), heads, g.dryRun)
		if err != nil {
			return err
		}
		return g.finish(cmd, c, p, begin)
	}
	return cmd
}
