package main

import (
	"cmp"
	"crypto/tls"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/pki"
)

// connection is where the manager is and who asks, by flags, then by environment.
type connection struct {
	server, dir, as string
	files           pki.Files
	timeout         time.Duration
}

// connectionHelp belongs to the help of every command that asks the manager.
const connectionHelp = `
The manager is named by --server, or BLADEFLOW_SERVER; https://127.0.0.1:8443 if neither is given. Who asks is
said by the certificates of 'bladeflow pki init': --pki DIR and --as NAME (BLADEFLOW_PKI, BLADEFLOW_AS), or
--ca, --cert and --key (BLADEFLOW_CA, BLADEFLOW_CERT, BLADEFLOW_KEY).`

// flags adds the flags of a connection to a command.
func (n *connection) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	text := func(to *string, name, help string) {
		f.StringVar(to, name, "", help+" (or BLADEFLOW_"+strings.ToUpper(name)+")")
	}
	text(&n.server, "server", "`URL` of the manager")
	text(&n.dir, "pki", "directory with certificates")
	text(&n.as, "as", "`NAME` of the certificate in --pki; your login's, or the only person's, if not given")
	text(&n.files.CA, "ca", "`FILE` of the CA, instead of --pki")
	text(&n.files.Cert, "cert", "`FILE` of your certificate")
	text(&n.files.Key, "key", "`FILE` of its key")
	f.DurationVar(&n.timeout, "timeout", 30*time.Second, "how long to wait for one answer")
	_ = cmd.MarkFlagDirname("pki")
	cmd.MarkFlagsMutuallyExclusive("pki", "ca")
	cmd.Long += "\n" + connectionHelp
}

// open makes the client that the flags and the environment describe.
func (n *connection) open() (*client.Client, error) {
	or := func(value, name string) string { return cmp.Or(value, os.Getenv("BLADEFLOW_"+name)) }
	files := pki.Files{CA: or(n.files.CA, "CA"), Cert: or(n.files.Cert, "CERT"), Key: or(n.files.Key, "KEY")}
	dir := n.dir
	if dir == "" && n.files == (pki.Files{}) { // flags win over the environment
		dir = os.Getenv("BLADEFLOW_PKI")
	}
	if dir != "" {
		name, err := person(dir, or(n.as, "AS"))
		if err != nil {
			return nil, err
		}
		files = pki.FilesOf(dir, name)
	}
	server := or(n.server, "SERVER")
	var config *tls.Config
	if files != (pki.Files{}) {
		if files.CA == "" || files.Cert == "" || files.Key == "" {
			return nil, usage("certificates", "only some of --ca, --cert and --key are given", "give all three, or --pki")
		}
		var err error
		if config, err = pki.ClientTLS(files); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(cmp.Or(server, "https:"), "https:") && config == nil {
		return nil, usage("certificate", "nothing says who you are", "give --pki DIR and --as NAME, or set BLADEFLOW_PKI and BLADEFLOW_AS")
	}
	if n.timeout <= 0 {
		return nil, usage(fmt.Sprintf("--timeout %v", n.timeout), "not a time to wait", "use a duration like 30s")
	}
	return client.New(client.Config{Server: cmp.Or(server, "https://127.0.0.1:8443"), TLS: config, Timeout: n.timeout})
}

// person returns whose certificate of a directory to use.
func person(dir, as string) (string, error) {
	if as != "" {
		return as, nil
	}
	all, err := pki.Names(dir)
	if err != nil {
		return "", err
	}
	var people []string
	for _, name := range all {
		f := pki.FilesOf(dir, name)
		pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
		if err != nil {
			continue // of somebody else, whose key is not here
		}
		if role, err := pki.RoleOf(pair.Leaf); err == nil && role.Person() {
			people = append(people, name)
		}
	}
	switch login := os.Getenv("USER"); {
	case len(people) == 1:
		return people[0], nil
	case slices.Contains(people, login):
		return login, nil
	case len(people) == 0:
		return "", usage("--pki "+dir, "it has no person's certificate with its key", "make one: bladeflow pki init --dir "+dir+" --user NAME=operator")
	}
	return "", usage("--pki "+dir, "it has certificates of "+strings.Join(people, ", "), "say whose with --as")
}
