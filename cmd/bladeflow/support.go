package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/bladeflow/bladeflow/fabric/client"
	"github.com/bladeflow/bladeflow/fabric/discover"
)

func supportCommand() *cobra.Command {
	return group("support", "what to send with a report of something that is wrong", "  bladeflow support bundle --to bundle.tar.gz", supportBundle())
}

func supportBundle() *cobra.Command {
	var on connection
	var to, root, name string
	var fabric bool
	cmd := &cobra.Command{
		Use:   "bundle --to FILE",
		Short: "record this blade, and the fabric, into one file",
		Long: `Record what bladeflow reads of this blade: the part of sysfs that 'inventory' looks at, so that 'inventory
--root' shows the same elsewhere, and the inventory with its findings. With --fabric also every object that the
manager's API serves. The file is a gzipped tar archive. Keys and certificates are not in it; names, addresses,
serial numbers and rules are.`,
		Example: `  bladeflow support bundle --to bundle.tar.gz
  bladeflow support bundle --to bundle.tar.gz --fabric`,
	}
	f := cmd.Flags()
	f.StringVar(&to, "to", "", "`FILE` to write, readable by its owner")
	f.StringVar(&root, "root", "/", "record the tree below this directory")
	f.StringVar(&name, "name", "", "name of the blade; the host's if not given")
	f.BoolVar(&fabric, "fabric", false, "ask the manager, too")
	_ = cmd.MarkFlagRequired("to")
	on.flags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		var c *client.Client
		if fabric {
			if c, err = on.open(); err != nil {
				return err
			}
		}
		dir, err := os.MkdirTemp("", "bladeflow-bundle-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b := bundle{cmd, filepath.Join(dir, "bundle")}
		if err := errors.Join(os.Mkdir(b.dir, 0o755), b.blade(root, name), b.program()); err != nil {
			return err
		}
		if c != nil {
			if err := b.fabric(c); err != nil {
				return err
			}
		}
		doing(cmd, "packing")
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		t := tar.NewWriter(z)
		if err := errors.Join(t.AddFS(os.DirFS(dir)), t.Close(), z.Close()); err != nil {
			return err
		}
		if err := writeWhole(to, packed.Bytes()); err != nil {
			return err
		}
		fmt.Fprintf(cmd.ErrOrStderr(), "%d bytes; see what it says before you send it\n", packed.Len())
		return nil
	}
	return cmd
}

// bundle is a folder that becomes the archive.
type bundle struct {
	*cobra.Command
	dir string
}

// blade records the tree and what it means.
func (b *bundle) blade(root, name string) error {
	doing(b.Command, "recording %s", root)
	from := root
	if root == "/" {
		from = "" // asks the kernel in other ways, too
	}
	inv, findings, err := readInventory(from)
	if err != nil {
		return err
	}
	if name == "" {
		name, _ = os.Hostname()
	}
	t, err := discover.Record(root)
	if err != nil {
		return err
	}
	recorded := filepath.Join(b.dir, "root")
	if err := errors.Join(os.MkdirAll(filepath.Join(recorded, "sys"), 0o755), t.Unpack(recorded)); err != nil {
		return err
	}
	return b.write("inventory.json", discover.NewObject(name, inv, findings))
}

// program records which program this is.
func (b *bundle) program() error {
	info, _ := debug.ReadBuildInfo()
	said := map[string]any{"go": runtime.Version(), "os": runtime.GOOS, "arch": runtime.GOARCH, "cpus": runtime.NumCPU()}
	if info != nil {
		said["module"], said["version"] = info.Main.Path, info.Main.Version
	}
	return b.write("program.json", said)
}

// fabric records every object of the API.
func (b *bundle) fabric(c *client.Client) error {
	if err := os.Mkdir(filepath.Join(b.dir, "fabric"), 0o755); err != nil {
		return err
	}
	for _, n := range nouns {
		doing(b.Command, "reading %s", n.all)
		all, err := n.all.List(b.Context(), c, client.Query{})
		if err != nil {
			return err
		}
		if err := b.write(filepath.Join("fabric", string(n.all)+".json"), all); err != nil {
			return err
		}
	}
	return nil
}

func (b *bundle) write(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, name), append(text, '\n'), 0o644)
}
