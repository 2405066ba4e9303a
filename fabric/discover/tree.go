package discover

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bladeflow/bladeflow/flow"
)

// Tree is a recorded file tree as one text: what a test keeps and a support bundle
// carries. Each node starts with a line of its own,
//
//	-- sys/class/net/p0/mtu --               a text file, its lines follow
//	-- sys/class/net/p0 -> ../../devices/… --  a symbolic link
//	-- sys/bus/pci/devices/…/vpd (hex) --    a binary file, in hexadecimal
//
// Text before the first node is comment.
type Tree struct {
	Comment string
	Nodes   []Node
}

// Node is one file or symbolic link.
type Node struct {
	Path string // relative, valid by fs.ValidPath, without blanks
	Link string // what a symbolic link says; empty for a file
	Data []byte // valid iff Link is empty
}

// ParseTree reads the text form.
func ParseTree(text string) (Tree, error) {
	var t Tree
	var body strings.Builder
	var hexed bool
	end := func() error {
		defer body.Reset()
		if len(t.Nodes) == 0 {
			t.Comment = body.String()
			return nil
		}
		n := &t.Nodes[len(t.Nodes)-1]
		switch {
		case n.Link != "" && strings.TrimSpace(body.String()) != "":
			return treeFault(n.Path, "a link has no content")
		case n.Link != "":
			return nil
		case !hexed:
			n.Data = []byte(body.String())
			return nil
		}
		data, err := hex.DecodeString(strings.Join(strings.Fields(body.String()), ""))
		if err != nil {
			return treeFault(n.Path, err.Error())
		}
		n.Data = data
		return nil
	}
	for line := range strings.Lines(text) {
		name, is := nodeLine(line)
		if !is {
			body.WriteString(line)
			continue
		}
		if err := end(); err != nil {
			return Tree{}, err
		}
		var n Node
		n.Path, n.Link, _ = strings.Cut(name, " -> ")
		n.Path, hexed = strings.CutSuffix(n.Path, " (hex)")
		if !fs.ValidPath(n.Path) || n.Path == "." || strings.ContainsFunc(n.Path, unicode.IsSpace) || hexed && n.Link != "" {
			return Tree{}, treeFault(name, "not a path inside the tree")
		}
		t.Nodes = append(t.Nodes, n)
	}
	return t, end()
}

func treeFault(node, why string) error {
	return &flow.Fault{Code: "E_TREE", What: fmt.Sprintf("recorded tree: node %q", node), Why: why, Remedy: "record the tree again"}
}

// nodeLine returns what stands between the marks of a node's line.
func nodeLine(line string) (string, bool) {
	line = strings.TrimRight(line, "\r\n")
	name, front := strings.CutPrefix(line, "-- ")
	name, back := strings.CutSuffix(name, " --")
	return name, front && back && name != ""
}

// String returns the text form. Files that would not survive as text are written in
// hexadecimal.
func (t Tree) String() string {
	var b strings.Builder
	b.WriteString(t.Comment)
	for _, n := range t.Nodes {
		switch {
		case n.Link != "":
			fmt.Fprintf(&b, "-- %s -> %s --\n", n.Path, n.Link)
		case plainText(n.Data):
			fmt.Fprintf(&b, "-- %s --\n%s", n.Path, n.Data)
		default:
			fmt.Fprintf(&b, "-- %s (hex) --\n", n.Path)
			for d := n.Data; len(d) > 0; d = d[min(32, len(d)):] {
				fmt.Fprintf(&b, "%x\n", d[:min(32, len(d))])
			}
		}
	}
	return b.String()
}

func plainText(data []byte) bool {
	if len(data) > 0 && data[len(data)-1] != '\n' || !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
		return false
	}
	for line := range strings.Lines(string(data)) {
		if _, is := nodeLine(line); is {
			return false
		}
	}
	return true
}

// Unpack writes the tree into an existing directory. No node can leave it.
func (t Tree) Unpack(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, n := range t.Nodes {
		if err := root.MkdirAll(path.Dir(n.Path), 0o755); err != nil {
			return fmt.Errorf("recorded tree: %w", err)
		}
		if n.Link != "" {
			err = root.Symlink(n.Link, n.Path)
		} else {
			err = root.WriteFile(n.Path, n.Data, 0o644)
		}
		if err != nil {
			return fmt.Errorf("recorded tree: %w", err)
		}
	}
	return nil
}

// recorded lists, for each class directory, what [Record] keeps of each device in
// it: the files and links that [ReadFS] looks at.
var recorded = map[string][]string{
	pciDir:  {"class", "vendor", "device", "numa_node", "driver", "physfn", "sriov_totalvfs", "sriov_numvfs", "vpd", "config", "virtfn*"},
	netDir:  {"address", "addr_assign_type", "type", "mtu", "operstate", "speed", "phys_switch_id", "phys_port_name"},
	rdmaDir: {"node_guid", "fw_ver", "parent", "ports/1/gid_attrs/ndevs/0", "ports/*/state", "ports/*/link_layer", "ports/*/rate"},
}

// Record returns the part of a root's tree that the reader looks at. Reading the
// recorded tree gives the same inventory. A device is recorded as a directory with a
// device link to its function where the running system has a link into sys/devices.
func Record(root string) (Tree, error) {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return Tree{}, err
	}
	defer dir.Close()
	r := reader{sysfs: sysfs{fsys: dir.FS()}}
	var t Tree
	for _, class := range []string{pciDir, netDir, rdmaDir} {
		for _, name := range r.list(class) {
			device := path.Join(class, name)
			if class == pciDir && r.number(device+"/class", 0, 0xffffff, 0)>>16 != 0x02 {
				continue
			}
			for _, pattern := range recorded[class] {
				found := []string{path.Join(device, pattern)}
				if strings.Contains(pattern, "*") {
					found, _ = fs.Glob(r.fsys, found[0])
				}
				for _, file := range found {
					t.Nodes = append(t.Nodes, r.node(file)...)
				}
			}
			if p, ok := r.function(device); ok && class != pciDir {
				t.Nodes = append(t.Nodes, Node{Path: device + "/device", Link: "../../../" + p.String()})
			}
		}
	}
	return t, nil
}

// node records one file or link; nothing if it cannot be read.
func (r *reader) node(file string) []Node {
	if target := r.link(file); target != "" {
		return []Node{{Path: file, Link: target}}
	}
	if data := r.bytes(file); data != nil {
		return []Node{{Path: file, Data: data}}
	}
	return nil
}
