package tcflower

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/bladeflow/bladeflow/offload"
)

// reason is what a driver means by an error and words of it.
type reason struct {
	errno unix.Errno // 0 is any
	words string     // part of what it says, in lower case; empty is anything
	code  string
}

// reasons are what the kernel and the drivers of cards say when they refuse a filter, the
// first that fits first. The words are taken for those of drivers in kernel 6.12: from which
// line each is was not recorded, and no card has said any to these tests. So they are a
// guess at a better code than offload.CodeDevice, which is the answer to words that nobody
// foresaw; the driver's own are kept either way. A driver that says nothing is known by the
// error alone.
var reasons = []reason{
	{unix.EEXIST, "", offload.CodeExists},
	{unix.ENOENT, "", offload.CodeMissing},
	{0, "tcam full", offload.CodeFull},
	{0, "unable to add a recipe", offload.CodeMask},
	{0, "mask id", offload.CodeMask},
	{0, "no recipe", offload.CodeMask},
	{0, "free mcam entry not available", offload.CodeFull},
	{unix.ENOSPC, "", offload.CodeFull},
	{0, "mask", "E_MASK_UNSUPPORTED"},
	{0, "unsupported match", "E_FIELD_UNSUPPORTED"},
	{0, "unsupported key", "E_FIELD_UNSUPPORTED"},
	{0, "match on", "E_FIELD_UNSUPPORTED"},
	{0, "matching", "E_FIELD_UNSUPPORTED"},
	{0, "control.flags", "E_FIELD_UNSUPPORTED"},
	{0, "action", "E_ACTION_UNSUPPORTED"},
	{0, "not a port of this switch", "E_PORT_ELSEWHERE"},
	{0, "not on same", "E_PORT_ELSEWHERE"},
}

// refusal turns an answer that is an error into an outcome.
func refusal(a answer) offload.Outcome {
	words := a.errno.Error()
	if a.text != "" {
		words = a.text + " (" + words + ")"
	}
	low := strings.ToLower(a.text)
	for _, r := range reasons {
		if (r.errno == 0 || r.errno == a.errno) && (r.words == "" || strings.Contains(low, r.words)) {
			return offload.Outcome{Status: offload.Refused, Code: r.code, Text: words}
		}
	}
	return offload.Outcome{Status: offload.Refused, Code: offload.CodeDevice, Text: words}
}

// unknown is the outcome of an operation whose answer did not come.
func unknown(err error) offload.Outcome {
	if err == nil {
		err = errors.New("not all of it could be undone")
	}
	return offload.Outcome{Status: offload.Unknown, Code: offload.CodeTimeout, Text: err.Error()}
}
