package discover

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/bladeflow/bladeflow/fabric"
)

// sysfs reads attributes and notes what is odd about them. Paths are relative to
// the root of the tree.
type sysfs struct {
	fsys     fs.FS
	findings []fabric.Finding
}

// maxAttr bounds what is read of one file: attributes are a page at most, vital
// product data 32 KiB.
const maxAttr = 64 << 10

func (s *sysfs) find(code, object, format string, args ...any) {
	s.findings = append(s.findings, fabric.Finding{Code: code, Object: object, Text: fmt.Sprintf(format, args...)})
}

// bytes returns a file's content, nil if the file is absent. A driver that does not
// have an attribute says so when the file is read, and that too is absence.
func (s *sysfs) bytes(name string) []byte {
	b, err := s.read(name)
	switch {
	case err == nil:
		return b
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.EOPNOTSUPP), errors.Is(err, syscall.EINVAL),
		errors.Is(err, syscall.ENODEV), errors.Is(err, fs.ErrPermission):
	default:
		s.find("E_SYSFS_READ", name, "%v", err)
	}
	return nil
}

func (s *sysfs) read(name string) ([]byte, error) {
	info, err := fs.Stat(s.fsys, name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // a pipe in a hostile tree would block us
		return nil, fmt.Errorf("not a regular file")
	}
	f, err := s.fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxAttr))
}

// text returns a file's content as one line, empty if the file is absent.
func (s *sysfs) text(name string) string {
	t := strings.TrimSpace(string(s.bytes(name)))
	if !utf8.ValidString(t) || strings.ContainsFunc(t, func(r rune) bool { return r < ' ' }) {
		s.find("E_SYSFS_VALUE", name, "%.40q is not one line of text", t)
		return ""
	}
	return t
}

// number returns a file's content as a number in lo … hi, or absent if the file is
// absent or holds anything else.
func (s *sysfs) number(name string, lo, hi, absent int64) int64 {
	t := s.text(name)
	if t == "" {
		return absent
	}
	n, err := strconv.ParseInt(t, 0, 64)
	if err != nil || n < lo || n > hi {
		s.find("E_SYSFS_VALUE", name, "%.40q is not a number from %d to %d", t, lo, hi)
		return absent
	}
	return n
}

// list returns the names in a directory in order, none if it is absent.
func (s *sysfs) list(name string) []string {
	entries, err := fs.ReadDir(s.fsys, name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		s.find("E_SYSFS_READ", name, "%v", err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// link returns what a symbolic link says, empty if there is none.
func (s *sysfs) link(name string) string {
	target, err := fs.ReadLink(s.fsys, name)
	if err != nil {
		return ""
	}
	return target
}

// base returns the last part of what a symbolic link says, empty if there is none.
func (s *sysfs) base(name string) string {
	if t := s.link(name); t != "" {
		return path.Base(t)
	}
	return ""
}

// exists reports whether a file, a directory or the target of a link is there.
func (s *sysfs) exists(name string) bool {
	_, err := fs.Stat(s.fsys, name)
	return err == nil
}
