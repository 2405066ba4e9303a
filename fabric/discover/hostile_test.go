package discover

import (
	"encoding/binary"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// inMemory returns a tree as a file system.
func inMemory(t Tree) fstest.MapFS {
	m := fstest.MapFS{}
	for _, n := range t.Nodes {
		if n.Link != "" {
			m[n.Path] = &fstest.MapFile{Data: []byte(n.Link), Mode: fs.ModeSymlink | 0o777}
		} else {
			m[n.Path] = &fstest.MapFile{Data: n.Data, Mode: 0o444}
		}
	}
	return m
}

// TestHostileTrees damages recorded trees at random, a node to ten at a time, and
// checks that the reader neither panics nor breaks what it promises: names are
// unique, VFs are in order, and two readings agree.
func TestHostileTrees(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var all []Tree
	for _, name := range trees {
		text, err := os.ReadFile(filepath.Join("testdata", name+".tree"))
		if err != nil {
			t.Fatal(err)
		}
		tree, err := ParseTree(string(text))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tree)
	}
	rounds := 1500
	if testing.Short() {
		rounds = 300
	}
	for range rounds {
		tree := damage(rng, all[rng.IntN(len(all))])
		fsys := inMemory(tree)
		inv, findings := ReadFS(fsys)
		seen := map[string]bool{}
		for _, name := range inv.PortNames() {
			if seen[name] {
				t.Fatalf("port %s twice in\n%s", name, tree)
			}
			seen[name] = true
		}
		again, findingsAgain := ReadFS(fsys)
		if !cmp.Equal(inv, again) || !cmp.Equal(findings, findingsAgain) {
			t.Fatalf("two readings differ:\n%s\n%s", cmp.Diff(inv, again), tree)
		}
	}
}

func damage(rng *rand.Rand, t Tree) Tree {
	out := Tree{Nodes: append([]Node(nil), t.Nodes...)}
	values := []string{"", "\n", "0\n", "-1\n", "99999999999999999999\n", "0x\n", "\x00\xff\n", "pf0vf0\n", "pf0vf99999999\n", strings.Repeat("9", 5000), "a\nb\n"}
	for range 1 + rng.IntN(10) {
		i := rng.IntN(len(out.Nodes))
		other := out.Nodes[rng.IntN(len(out.Nodes))]
		switch n := &out.Nodes[i]; rng.IntN(5) {
		case 0:
			out.Nodes = append(out.Nodes[:i:i], out.Nodes[i+1:]...)
		case 1:
			n.Data, n.Link = []byte(values[rng.IntN(len(values))]), ""
		case 2:
			n.Data, n.Link = other.Data, other.Link
		case 3:
			n.Link = []string{"../nowhere", ".", "..", "../../../../../..", "/", other.Path, "../0000:03:00.0"}[rng.IntN(7)]
		case 4:
			if n.Link == "" && len(n.Data) > 0 {
				n.Data = append([]byte(nil), n.Data...)
				n.Data[rng.IntN(len(n.Data))] ^= 1 << rng.IntN(8)
			}
		}
	}
	return out
}

// FuzzTree checks that a tree that can be parsed survives being written and parsed
// again, and that unpacking never leaves the directory.
func FuzzTree(f *testing.F) {
	for _, name := range trees {
		text, err := os.ReadFile(filepath.Join("testdata", name+".tree"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("-- ../out --\n")
	f.Add("-- a -> /etc --\n-- a/b --\nx\n")
	f.Add("-- a (hex) --\n00 ff\n-- b --\nno newline")
	f.Fuzz(func(t *testing.T, text string) {
		tree, err := ParseTree(text)
		if err != nil {
			return
		}
		again, err := ParseTree(tree.String())
		if err != nil {
			t.Fatalf("%v in\n%s", err, tree)
		}
		if again.String() != tree.String() {
			t.Fatalf("changed when written and parsed again:\n%q\n%q", tree.String(), again.String())
		}
	})
}

func TestUnpackStaysInside(t *testing.T) {
	parent := t.TempDir()
	dir := filepath.Join(parent, "in")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	tree := Tree{Nodes: []Node{{Path: "a", Link: ".."}, {Path: "a/b", Data: []byte("x")}}}
	if err := tree.Unpack(dir); err == nil {
		t.Error("a file was written through a link that leads out")
	}
	if _, err := os.Stat(filepath.Join(parent, "b")); err == nil {
		t.Error("a file appeared outside")
	}
}

// FuzzVPD checks the two binary parsers on any bytes.
func FuzzVPD(f *testing.F) {
	f.Add([]byte("\x82\x02\x00ab\x90\x0b\x00SN\x02X1RV\x03abc\x78"))
	f.Add([]byte{0x90, 0xff, 0xff})
	f.Add(make([]byte, 0x200))
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, _ := parseVPD(b)
		for k, v := range fields {
			if len(k) != 2 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
				t.Errorf("field %q = %q", k, v)
			}
		}
		deviceSerial(b)
	})
}

func TestVPD(t *testing.T) {
	fields, ok := parseVPD([]byte("\x82\x02\x00ab\x90\x13\x00PN\x03A-1SN\x04 X1\x00RV\x03abc\x78"))
	if want := map[string]string{"PN": "A-1", "SN": "X1"}; !ok || !cmp.Equal(fields, want) {
		t.Errorf("got %v, %v, want %v", fields, ok, want)
	}
}

// TestDeviceSerialLoop checks that a list of capabilities that bites its tail ends.
func TestDeviceSerialLoop(t *testing.T) {
	config := make([]byte, 0x200)
	binary.LittleEndian.PutUint32(config[0x100:], 0x0001|0x140<<20)
	binary.LittleEndian.PutUint32(config[0x140:], 0x0001|0x100<<20)
	if got := deviceSerial(config); got != "" {
		t.Errorf("got %q", got)
	}
}
