package main

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/flow"
)

// commands returns every command of the binary, in the order of the help.
func commands() []*cobra.Command {
	return []*cobra.Command{
		demoCommand(),
		hwtestCommand(),
		agentCommand(),
		managerCommand(),
		getCommand(),
		describeCommand(),
		applyCommand(),
		diffCommand(),
		deleteCommand(),
		moveCommand(),
		snapshotCommand(),
		revertCommand(),
		waitCommand(),
		explainCommand(),
		topCommand(),
		observeCommand(),
		backupCommand(),
		restoreCommand(),
		inventoryCommand(),
		rulesCommand(),
		classifyCommand(),
		traceCommand(),
		planCommand(),
		verifyCommand(),
		benchCommand(),
		devicesCommand(),
		labCommand(),
		pkiCommand(),
		reportCommand(),
		supportCommand(),
		docsCommand(),
		completionCommand(),
		versionCommand(),
	}
}

func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "explain a command",
		Example: "  bladeflow help rules generate",
		Args:    cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			of, rest, err := cmd.Root().Find(args)
			if err == nil && len(rest) > 0 {
				err = usage("help "+strings.Join(args, " "), "there is no such command", "see 'bladeflow --help'")
			}
			if err != nil {
				return err
			}
			return of.Help()
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			var names []string
			if of, _, err := cmd.Root().Find(args); err == nil {
				for _, c := range of.Commands() {
					if !c.Hidden {
						names = append(names, c.Name()+"\t"+c.Short)
					}
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
	}
}

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish"}
	return &cobra.Command{
		Use:   "completion bash|zsh|fish",
		Short: "print a script that completes command lines of bladeflow in a shell",
		Example: `  source <(bladeflow completion bash)
  bladeflow completion zsh >"${fpath[1]}/_bladeflow"
  bladeflow completion fish >~/.config/fish/completions/bladeflow.fish`,
		Args:      needs("bladeflow completion bash", "SHELL"),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root, w := cmd.Root(), cmd.OutOrStdout(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(w, true)
			case "zsh":
				return root.GenZshCompletion(w)
			case "fish":
				return root.GenFishCompletion(w, true)
			}
			return usage("completion "+args[0], "there is no script for this shell", flow.Suggest(args[0], shells...))
		},
	}
}
