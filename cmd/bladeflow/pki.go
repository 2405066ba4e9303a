package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/pki"
)

func pkiCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "pki",
		Short:   "certificates by which manager, blades and people know each other",
		Example: "  bladeflow pki init --dir pki --blade b1",
	}
	cmd.AddCommand(pkiInit(), pkiRenew())
	return cmd
}

// madeCertificate is one certificate as it is printed.
type madeCertificate struct {
	Name  string    `json:"name"`
	Role  string    `json:"role"`
	Until time.Time `json:"until"`
	New   bool      `json:"new"`
}

func pkiInit() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "init --dir DIR",
		Short: "make a certificate authority and certificates; what is there stays",
		Long: `Make a certificate authority, certificates for the server, the manager and root,
and those that are asked for. It may be repeated to add blades and users: nothing is
ever overwritten. Keep ca.key and root.key where only administrators are; give a blade
ca.crt and its own two files.`,
		Example: "  bladeflow pki init --dir pki --blade b1 --blade b2 --user ann=operator --host fabric.example",
	}
	dir := cmd.Flags().String("dir", "", "directory of the authority")
	blades := cmd.Flags().StringSlice("blade", nil, "a blade, by its name")
	users := cmd.Flags().StringSlice("user", nil, "NAME=ROLE: viewer, operator or admin")
	hosts := cmd.Flags().StringSlice("host", nil, "a name or address of the server, beside loopback")
	output := outputFlag(cmd, "table", "json", "name")
	_ = cmd.MarkFlagRequired("dir")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := pki.Options{Hosts: *hosts, Blades: *blades}
		for _, u := range *users {
			name, role, ok := strings.Cut(u, "=")
			if !ok {
				return usage("--user "+u, "it has no role", "write NAME=ROLE: viewer, operator or admin")
			}
			o.Users = append(o.Users, pki.User{Name: name, Role: pki.Role(role)})
		}
		made, err := pki.Init(*dir, o)
		if err != nil {
			return err
		}
		return printMade(cmd, *output, made)
	}
	return cmd
}

func pkiRenew() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "renew --dir DIR NAME...",
		Short:   "sign new certificates for the same names, roles, hosts and keys",
		Example: "  bladeflow pki renew --dir pki server b1",
		Args:    needs("bladeflow pki renew --dir pki server", "NAME..."),
	}
	dir := cmd.Flags().String("dir", "", "directory of the authority")
	output := outputFlag(cmd, "table", "json", "name")
	_ = cmd.MarkFlagRequired("dir")
	cmd.RunE = func(cmd *cobra.Command, names []string) error {
		authority, err := pki.Load(*dir)
		if err != nil {
			return err
		}
		var made []pki.Made
		for _, name := range names {
			m, err := authority.Renew(name)
			if err != nil {
				return err
			}
			made = append(made, m)
		}
		return printMade(cmd, *output, made)
	}
	return cmd
}

func printMade(cmd *cobra.Command, output string, made []pki.Made) error {
	rows := [][]string{{"NAME", "ROLE", "UNTIL", "NEW"}}
	lines := []madeCertificate{}
	for _, m := range made {
		lines = append(lines, madeCertificate{m.Name, string(m.Role), m.Until, m.New})
		rows = append(rows, []string{m.Name, string(m.Role), m.Until.Format(time.DateOnly), fmt.Sprint(m.New)})
	}
	switch output {
	case "json":
		return printJSON(cmd.OutOrStdout(), lines)
	case "name":
		for _, l := range lines {
			fmt.Fprintln(cmd.OutOrStdout(), l.Name)
		}
		return nil
	}
	return printTable(cmd.OutOrStdout(), rows)
}
