package main

import "github.com/spf13/cobra"

// commands returns every command of the binary, in the order of the help.
func commands() []*cobra.Command {
	return []*cobra.Command{
		demoCommand(),
		agentCommand(),
		inventoryCommand(),
		rulesCommand(),
		classifyCommand(),
		traceCommand(),
		planCommand(),
		verifyCommand(),
		devicesCommand(),
		labCommand(),
	}
}
