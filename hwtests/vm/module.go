package main

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// wanted are the modules that the tests need, beside tcamsim and what these depend on.
var wanted = []string{
	"9p", "9pnet_virtio", // the checkout
	"crc32c_generic", "crc32_generic", // asked for by name by act_ct and rdma_rxe
	"cls_flower", "cls_matchall", "sch_ingress", "dummy", "veth", "tun", "bridge", "8021q",
	"act_gact", "act_mirred", "act_vlan", "act_pedit", "act_csum", "act_ct", "act_sample", "act_skbedit", "act_tunnel_key", "act_police",
	"igb", "igbvf",
	"nfnetlink", "xfrm_user", // the netlink library opens a socket to each
	"rdma_rxe", "ib_umad", "rdma_ucm",
}

// module is a kernel module in a file, which may be packed by xz.
type module struct {
	name string
	data []byte // an ELF object
}

// closure returns modules of a tree (lib/modules/VERSION/kernel) with all they depend on,
// each after what it needs. What no file has is built in.
func closure(tree string, names []string) ([]module, error) {
	files := map[string]string{}
	err := filepath.WalkDir(tree, func(path string, d fs.DirEntry, err error) error {
		if name, _, is := strings.Cut(d.Name(), ".ko"); err == nil && is {
			files[plain(name)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("modules: %w", err)
	}
	var out []module
	seen := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		name = plain(name)
		if seen[name] || files[name] == "" {
			return nil
		}
		seen[name] = true
		data, err := readModule(files[name])
		if err != nil {
			return err
		}
		data = unsigned(data)
		for _, below := range needs(moduleInfo(data)) {
			if err := add(below); err != nil {
				return err
			}
		}
		out = append(out, module{name, data})
		return nil
	}
	for _, name := range names {
		if err := add(name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// plain is a module's name as the kernel has it.
func plain(name string) string { return strings.ReplaceAll(name, "-", "_") }

// unsigned returns a module without the signature that may be behind it. To verify one takes an
// emulated CPU a tenth of a second, which for all of them is longer than the kernel boots; this
// kernel loads modules without, too, as it must ours.
func unsigned(data []byte) []byte {
	const magic, info = "~Module signature appended~\n", 12 // bytes of struct module_signature, the last four of which say how long the signature is
	body, is := bytes.CutSuffix(data, []byte(magic))
	if !is || len(body) < info {
		return data
	}
	size := binary.BigEndian.Uint32(body[len(body)-4:])
	if body = body[:len(body)-info]; uint64(size) > uint64(len(body)) {
		return data
	}
	return body[:len(body)-int(size)]
}

func readModule(file string) ([]byte, error) {
	if strings.HasSuffix(file, ".xz") {
		data, err := exec.Command("xz", "-dc", file).Output()
		if err != nil {
			return nil, fmt.Errorf("module %s: xz: %w", file, err)
		}
		return data, nil
	}
	return os.ReadFile(file)
}

// needs returns the modules that must be loaded before this one: what it links to and
// what it asks for by name.
func needs(info []string) []string {
	var out []string
	for _, field := range info {
		if list, ok := strings.CutPrefix(field, "depends="); ok {
			out = append(out, strings.FieldsFunc(list, func(r rune) bool { return r == ',' })...)
		}
		if list, ok := strings.CutPrefix(field, "softdep=pre: "); ok {
			list, _, _ = strings.Cut(list, "post:")
			out = append(out, strings.Fields(list)...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// moduleInfo returns what a module says of itself: lines of the form name=value.
func moduleInfo(data []byte) []string {
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return nil
	}
	defer f.Close()
	s := f.Section(".modinfo")
	if s == nil {
		return nil
	}
	text, err := s.Data()
	if err != nil {
		return nil
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == 0 })
}
