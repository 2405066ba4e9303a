package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/manager"
	"github.com/bladeflow/bladeflow/fabric/pki"
	"github.com/bladeflow/bladeflow/fabric/store"
	"github.com/bladeflow/bladeflow/flow"
)

func backupCommand() *cobra.Command {
	var config, to string
	cmd := &cobra.Command{
		Use:   "backup --config FILE",
		Short: "write all that is wanted, and its history, into one file",
		Long: `Write what the fabric's store holds: all that is wanted, snapshots, history, and what blades were told; not
what they report, which they report again. The file is text, one key a line, with a digest. It is taken at one
revision while the manager runs, as the manager, whose configuration and certificates it needs.`,
		Example: `  bladeflow backup --config /etc/bladeflow/manager.yaml --to fabric.backup
  bladeflow backup --config manager.yaml > fabric.backup`,
	}
	storeFlags(cmd, &config)
	cmd.Flags().StringVar(&to, "to", "-", "`FILE` to write, readable by its owner; - for standard output")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := manager.ReadFile(config)
		if err != nil {
			return err
		}
		c, err := dialStore(cmd.Context(), f)
		if err != nil {
			return err
		}
		defer c.Close()
		doing(cmd, "reading the store")
		var text bytes.Buffer
		info, err := store.Backup(cmd.Context(), c, &text)
		if err != nil {
			return err
		}
		if to == "-" {
			_, err = cmd.OutOrStdout().Write(text.Bytes())
		} else {
			err = writeWhole(to, text.Bytes())
		}
		if err == nil {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s of revision %d\n", count(info.Keys, "key"), info.Revision)
		}
		return err
	}
	return cmd
}

func restoreCommand() *cobra.Command {
	var config, from string
	cmd := &cobra.Command{
		Use:   "restore --config FILE --from FILE",
		Short: "fill an empty store from a backup",
		Long: `Fill the store of a manager's configuration from a backup: a new one in its directory, which no manager may
have open, or a cluster elsewhere that is empty. The backup is read and checked as a whole before anything is
written. Then start the manager; blades go on as they were told, and report again.`,
		Example: "  bladeflow restore --config manager.yaml --from fabric.backup",
	}
	storeFlags(cmd, &config)
	cmd.Flags().StringVar(&from, "from", "", "`FILE` with the backup, - for standard input")
	_ = cmd.MarkFlagRequired("from")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		f, err := manager.ReadFile(config)
		if err != nil {
			return err
		}
		text, err := readFile(cmd, from)
		if err != nil {
			return err
		}
		doing(cmd, "checking the backup")
		if _, err := store.Restore(cmd.Context(), store.NewMemory(), bytes.NewReader(text)); err != nil {
			return err // before there is a directory that the next try would find not empty
		}
		doing(cmd, "opening the store")
		c, closeStore, err := emptyStore(cmd.Context(), f)
		if err != nil {
			return err
		}
		defer closeStore()
		doing(cmd, "writing %s", count(bytes.Count(text, []byte("\n")), "line"))
		info, err := store.Restore(cmd.Context(), c, bytes.NewReader(text))
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%s of revision %d, taken %s\n", count(info.Keys, "key"), info.Revision, at(info.Taken))
		return nil
	}
	return cmd
}

func storeFlags(cmd *cobra.Command, config *string) {
	cmd.Flags().StringVar(config, "config", "", "configuration file of the manager")
	_ = cmd.MarkFlagRequired("config")
	_ = cmd.MarkFlagFilename("config", "yaml", "yml")
}

// dialStore reaches the store of a manager's configuration, as the manager.
func dialStore(ctx context.Context, f manager.File) (*store.Client, error) {
	c := store.DialConfig{Endpoints: f.Spec.Store.Endpoints}
	scheme := "http://"
	if dir := f.Spec.Certificates; dir != "" {
		scheme = "https://"
		var err error
		if c.TLS, err = pki.ClientTLS(pki.FilesOf(dir, pki.ManagerName)); err != nil {
			return nil, err
		}
	}
	if f.Spec.Store.Dir != "" {
		host, port, err := net.SplitHostPort(f.Spec.Store.Listen)
		if err != nil {
			return nil, &flow.Fault{Code: "E_LISTEN", What: "store on " + f.Spec.Store.Listen, Why: err.Error(), Remedy: "write HOST:PORT", Err: err}
		}
		if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
			host = "127.0.0.1" // it listens everywhere, here too
		}
		c.Endpoints = []string{scheme + net.JoinHostPort(host, port)}
	}
	return store.Dial(ctx, c)
}

// emptyStore opens the store of a manager's configuration that nobody uses yet.
func emptyStore(ctx context.Context, f manager.File) (c *store.Client, closeStore func(), err error) {
	dir := f.Spec.Store.Dir
	if dir == "" {
		c, err = dialStore(ctx, f)
		return c, func() { _ = c.Close() }, err
	}
	if there, _ := os.ReadDir(dir); len(there) > 0 {
		return nil, nil, &flow.Fault{Code: "E_STORE_NOT_EMPTY", What: dir, Why: "a backup is restored into an empty store only", Remedy: "stop its manager and move the directory away", Err: store.ErrConflict}
	}
	sc := store.ServerConfig{Dir: dir, Listen: "127.0.0.1:0"} // nobody shall find it before it is whole
	if certs := f.Spec.Certificates; certs != "" {
		files := pki.FilesOf(certs, pki.ServerName)
		sc.TLS = &store.ServerTLS{CA: files.CA, Cert: files.Cert, Key: files.Key, PeerName: pki.ServerName}
	}
	s, err := store.Start(ctx, sc)
	if err != nil {
		return nil, nil, err
	}
	return s.Local(), s.Stop, nil
}

// writeWhole writes a file that only its owner may read, whole or not at all.
func writeWhole(name string, text []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*") // mode 0600
	if err != nil {
		return notWritten(name, err)
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		os.Remove(f.Name())
		return notWritten(name, err)
	}
	return nil
}

func notWritten(name string, err error) error {
	why := err
	if path, ok := errors.AsType[*fs.PathError](err); ok {
		why = path.Err // without the name that the file has while it is written
	}
	return &flow.Fault{Code: "E_FILE", What: name, Why: why.Error(), Remedy: "write where there is room and you may", Err: err}
}
