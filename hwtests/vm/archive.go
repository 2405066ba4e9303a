package main

import (
	"bytes"
	"fmt"
	"path"
	"strings"
)

// archive is an initramfs: a cpio archive in the format that the kernel calls newc.
type archive struct {
	bytes.Buffer
	nodes int
	has   map[string]bool
}

// File types and permissions of nodes.
const (
	modeDir  = 0o040755
	modeFile = 0o100644
	modeExec = 0o100755
)

// file adds a file with the directories above it. The first one of a name stays.
func (a *archive) file(name string, mode uint32, data []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if a.has[name] {
		return
	}
	a.dir(path.Dir(name))
	a.has[name] = true
	a.node(name, mode, data)
}

// dir adds a directory with those above it.
func (a *archive) dir(name string) {
	if a.has == nil {
		a.has = map[string]bool{".": true, "/": true}
	}
	if a.has[name] {
		return
	}
	a.dir(path.Dir(name))
	a.has[name] = true
	a.node(name, modeDir, nil)
}

func (a *archive) node(name string, mode uint32, data []byte) {
	a.nodes++
	// magic, inode, mode, uid, gid, links, mtime, size, device and rdevice (2 each), length of name, check
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.nodes, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// end returns the whole archive.
func (a *archive) end() []byte {
	a.node("TRAILER!!!", 0, nil)
	return a.Bytes()
}
